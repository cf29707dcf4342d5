"""`elevator generate`: a prompt in, a video out that knows how it was made."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from elevator.cli import compare
from elevator.cli.doctor import require_device
from elevator.cli.machine import be_repeatable, quiet_libraries
from elevator.cli.record import Record, RecordError, Settings, hash_frames, hashes, resolve
from elevator.cli.record import versions as versions_here
from elevator.errors import CheckError, ElevatorError
from elevator.video.clips import read_video
from elevator.video.io import check_image_target, check_target, write_video

if TYPE_CHECKING:
    from elevator.pipelines.video_elevator import VideoElevatorPipeline

__all__ = ["run"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_BESIDE_AGAIN = {"command", "again", "out", "compare", "quiet", "fps"}


def run(given: argparse.Namespace) -> int:
    """Do what the command line says; everything that can be checked is, before sampling."""
    settings, before = (_asked(given), None) if given.again is None else _again(given)
    out = given.out or _out_again(given.again)
    check_target(out, settings.fps)
    if given.compare:
        video, sheet = compare.targets(out)
        check_target(video)
        check_image_target(sheet)
    _ready(settings)
    with quiet_libraries():
        pipe = _load(settings)
        weights = hashes(settings)
        if before is not None:
            _require_same(before, weights, given.again)
        pipe.set_progress_bar_config(disable=given.quiet, desc="elevating")
        started = time.monotonic()
        init = _init(pipe, settings)
        frames = _sample(pipe, settings, init)
        record = Record(
            settings=settings,
            sha256=weights,
            versions=versions_here(),
            hook=_hook(pipe, settings),
            frames_sha256=hash_frames(frames),
        )
        write_video(frames, out, settings.fps, record.to_json())
        if not given.quiet:
            print(_told(out, frames, time.monotonic() - started, before, record))
        if given.compare:
            for written in compare.write(
                pipe, settings, frames, out, record, quiet=given.quiet, init=init
            ):
                if not given.quiet:
                    print(f"{written}: compared with each model alone")
    return 0


# --- what was asked -------------------------------------------------------------------------------


def _asked(given: argparse.Namespace) -> Settings:
    """Settings from the command line, machine included."""
    if given.prompt is None:
        raise CheckError(['give a prompt, such as "a striped red ring moving left"'])
    if given.out is None:
        raise CheckError(["give a file to write, such as -o ring.mp4"])
    if given.style is not None and (given.t2i or given.t2i_config) is not None:
        raise CheckError(["--style chooses a built-in T2I; give it or --t2i, not both"])
    if given.init is None and (given.strength or given.init_every) is not None:
        raise CheckError(["--strength and --init-every are about a clip; give --init FILE too"])
    if given.preset is not None:
        from elevator.recipes import preset_for

        preset_for(given.preset)  # raises for a name that is none
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    width, height = given.size or (None, None)
    t2i, config, lora = given.t2i or Settings.t2i, given.t2i_config, list(given.lora or ())
    if given.style is not None:
        t2i, config, own = _style(given.style)
        lora = [*own, *lora]
    return Settings(
        prompt=given.prompt,
        negative=given.negative,
        t2i=_source(t2i),
        t2i_config=config and _source(config),
        t2v=_source(given.t2v or Settings.t2v),
        lora=tuple((_source(file), scale) for file, scale in lora),
        preset=given.preset,
        steps=given.steps,
        frames=given.frames,
        width=width,
        height=height,
        seed=given.seed or Settings.seed,
        guidance=given.guidance,
        fps=given.fps or Settings.fps,
        fast=bool(given.fast),
        init=given.init and str(Path(given.init).resolve()),
        init_every=given.init_every or Settings.init_every,
        strength=given.strength,
        device=device,
        dtype=given.dtype or ("fp16" if device.startswith("cuda") else "fp32"),
        threads=torch.get_num_threads(),
    )


def _style(name: str) -> tuple[str, str | None, list[tuple[str, float]]]:
    """A built-in style as T2I, configuration and LoRA files."""
    from elevator import zoo

    styles = {model.removeprefix("t2i-"): model for model in zoo.MODELS if model.startswith("t2i-")}
    if name not in styles:
        raise CheckError([f"there is no style {name!r}; choose one of {', '.join(styles)}"])
    style = zoo.MODELS[styles[name]]
    base, own = f"zoo:{style.base}", f"zoo:{styles[name]}"
    return (base, None, [(own, 1.0)]) if style.lora else (own, base, [])


def _source(text: str) -> str:
    """A checkpoint's name for the record: what lies on this disk by its full path."""
    return str(Path(text).resolve()) if Path(text).exists() else text


def _again(given: argparse.Namespace) -> tuple[Settings, Record]:
    """Settings from a file's record; only what does not change the frames may be given beside."""
    extra = [name for name, value in vars(given).items() if value is not None]
    extra = [name for name in extra if name not in _BESIDE_AGAIN]
    if extra:
        flags = ", ".join(
            "PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}" for name in extra
        )
        raise CheckError([f"--again takes everything from {given.again}; drop {flags}"])
    record = Record.read(given.again)
    settings = replace(record.settings, fps=given.fps or record.settings.fps)
    return settings, record


def _out_again(file: str) -> str:
    """Where frames made again go when nobody says: beside the original, as the same kind."""
    path = Path(file)
    if path.name in ("", ".."):
        path = path.resolve()
    if path.is_dir():
        return f"{path.parent / path.name}-again/"  # the slash keeps v1.0 a folder
    suffix = "" if path.suffix.lower() == ".png" else path.suffix  # one frame tells of a folder
    return str(path.with_name(f"{path.stem}-again{suffix}"))


def _require_same(before: Record, weights: dict[str, str], file: str) -> None:
    """Refuse other weights or configurations; warn of other versions."""
    sources = dict(before.settings.checkpoints)
    changed = [role for role in weights if before.sha256.get(role) != weights[role]]
    if changed:
        raise RecordError(
            f"{file} cannot be made again: "
            + ", ".join(f"{role} ({sources[role]})" for role in changed)
            + " has changed since; put the old files back"
        )
    here = versions_here()
    for name, was in before.versions.items():
        if here.get(name) != was:
            print(
                f"elevator: {file} was made with {name} {was}, this is {here.get(name)}: "
                "frames may differ a little",
                file=sys.stderr,
            )


# --- making it ------------------------------------------------------------------------------------


def _ready(settings: Settings) -> None:
    """Find out whether the machine can, and let it compute the same numbers every time."""
    device = require_device(settings.device)
    if settings.init is not None:
        read_video(settings.init, settings.frames or 1, settings.init_every)
    for _, source in settings.checkpoints:
        resolve(source)
    if device.type == "cuda":
        be_repeatable()
    elif settings.threads != torch.get_num_threads():  # sums depend on how they are split
        torch.set_num_threads(settings.threads)


def _load(settings: Settings) -> VideoElevatorPipeline:
    import elevator
    from elevator.hosts.checkpoints import load_t2i

    dtype = _DTYPES[settings.dtype]
    t2i = load_t2i(
        resolve(settings.t2i),
        dtype=dtype,
        lora=[(resolve(file), scale) for file, scale in settings.lora],
        config=settings.t2i_config and resolve(settings.t2i_config),
    )
    pipe = elevator.VideoElevatorPipeline.from_pretrained(
        t2i=t2i, t2v=resolve(settings.t2v), dtype=dtype
    )
    _require_schedule(settings, pipe.video_scheduler)
    return pipe.to(settings.device)


def _require_schedule(settings: Settings, scheduler: Any) -> None:
    """The T2V's steps must be walked on a scheduler whose levels are known."""
    from elevator.hosts.coefficients import supported_schedulers

    name = type(scheduler).__name__
    if name not in supported_schedulers() or "beta_schedule" not in scheduler.config:
        raise CheckError(
            [
                f"{settings.t2v} comes with a {name}, which cannot be followed; give a model with "
                "a DDIMScheduler, or name one in its model_index.json and scheduler_config.json"
            ]
        )


def _init(pipe: VideoElevatorPipeline, settings: Settings) -> NDArray[np.uint8] | None:
    """The frames to start from: as many as will be made."""
    if settings.init is None:
        return None
    from elevator.recipes import preset_for

    own = preset_for(settings.fitting_preset or pipe.preset).frames
    return read_video(settings.init, settings.frames or own, settings.init_every)


def _sample(pipe: VideoElevatorPipeline, settings: Settings, init: NDArray[np.uint8] | None) -> Any:
    try:
        made: Any = pipe(
            settings.prompt,
            settings.negative,
            height=settings.height,
            width=settings.width,
            num_frames=settings.frames,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            preset=settings.fitting_preset,
            fast=settings.fast,
            init=init,
            strength=settings.strength,
            generator=torch.Generator().manual_seed(settings.seed),
            output_type="np",
        )
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        raise ElevatorError(
            f"not enough memory on {settings.device}; give fewer --frames or a smaller --size"
        ) from error
    return made.frames[0]


def _hook(pipe: VideoElevatorPipeline, settings: Settings) -> str:
    from elevator.pipelines.start import STRENGTH

    recipe = pipe.recipe(
        settings.prompt,
        settings.negative,
        num_inference_steps=settings.steps,
        strength=1.0 if settings.init is None else settings.strength or STRENGTH,
        preset=settings.fitting_preset,
        fast=settings.fast,
    )
    return repr(recipe.hook)


def _told(out: str, frames: Any, seconds: float, before: Record | None, record: Record) -> str:
    """One line on what was made."""
    count, height, width = frames.shape[:3]
    line = f"{out}: {count} frames of {width}x{height} in {seconds:.0f} s"
    if before is None:
        return line
    same = before.frames_sha256 == record.frames_sha256
    return f"{line}, " + ("the same bit for bit" if same else "not bit for bit the same")
