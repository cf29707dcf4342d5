"""What VideoElevator costs on networks of real size, on a GPU, by the kernel that runs attention.

The networks have the sizes of Stable Diffusion 1.5 and ZeroScope and random weights in half
precision: what a clip shows is worth nothing, what it costs is that of the trained models. Each row
is run once to warm up, once plainly and once by the clock. Of the plain run are `clip_s`, from
prompt to frames, `step_s`, its part per step of the T2I (of the T2V alone, per step of that), and
`peak_GiB`, which holds the weights of both models in every row. The clock waits for the GPU before
and after every call of a network: from it are the medians of a guided call, `t2i_call_s` and
`t2v_call_s`, and `outside`, the share of the run that is spent in no network (U-Nets, text
encoders, autoencoder). Waiting takes away what else overlaps, so `outside` is an upper bound.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

import elevator as el
from benchmarks._measure import RESULTS, save, table
from elevator import zoo
from elevator.hosts.pipeline import quiet_deprecation
from elevator.recipes import PRESETS, Preset

PROMPT = "a corgi running on the beach, golden light"
TOKENS = 77
"""Tokens of a text, marks and padding included, as Stable Diffusion and ZeroScope take them."""
KERNELS = ("SDPA", "xformers", "torch.compile")

Row = dict[str, float]
Calls = dict[str, list[tuple[int, float]]]
"""Batch and seconds of every call, by network."""


@dataclass(frozen=True)
class Size:
    """How large networks and runs are.

    Attributes:
        widths: channels of the U-Nets' blocks.
        head: channels of a head of the T2V's attention.
        vae: channels of the autoencoder's blocks.
        t2i_text: width and layers of the T2I's text encoder.
        t2v_text: width and layers of the T2V's.
        frames: frames of a clip.
        side: pixels along a side of a frame.
        steps: sampling steps of VideoElevator.
        alone: sampling steps of a model alone.
    """

    widths: tuple[int, ...]
    head: int
    vae: tuple[int, ...]
    t2i_text: tuple[int, int]
    t2v_text: tuple[int, int]
    frames: int
    side: int
    steps: int
    alone: int

    @property
    def preset(self) -> Preset:
        """ZeroScope's preset, refined as often in as many steps as there are."""
        numbers = PRESETS["zeroscope"]
        points = numbers.refine_at(self.steps)
        return replace(numbers, frames=self.frames, steps=self.steps, refine=points)


FULL = Size(
    (320, 640, 1280, 1280), 64, (128, 256, 512, 512), (768, 12), (1024, 23), 16, 512, 25, 10
)
TINY = Size((32, 32, 64, 64), 8, (32, 32, 32, 32), (32, 1), (64, 1), 2, 64, 3, 2)


def main() -> None:
    """Build, time row by row, print and save."""
    options = _arguments()
    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit(
            "full_size times networks of real size and takes a CUDA GPU; --tiny shows that it runs"
        )
    torch.set_grad_enabled(False)
    size, facts = (TINY, {}) if options.tiny else (FULL, _facts())
    pipe = _build(size, "cpu", torch.float32) if options.tiny else _build(FULL)
    rows, failed = _kept(facts), []
    command = f"python -m benchmarks.full_size --kernels {' '.join(options.kernels)}"
    for name, kernel, run, warm, steps in _plan(pipe, size, options.kernels):
        try:
            with kernel(pipe, "eager" if options.tiny else "inductor"):
                rows[name] = _row(pipe, run, warm, steps, name)
        except RuntimeError as error:  # a kernel that cannot run should not cost the other rows
            if options.tiny:
                raise
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            continue
        if not options.tiny:
            save("full_size", rows, **facts, command=command)
    print(f"\n{size.frames} frames, {size.side}x{size.side} pixels, {size.steps} steps")
    if rows:
        print(table(rows))
    if failed:
        raise SystemExit(f"not measured, for the errors above: {', '.join(failed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds on a CPU, for CI")
    parser.add_argument(
        "--kernels",
        nargs="+",
        choices=KERNELS,
        help="which to time, SDPA with each model alone; rows of the others are kept",
    )
    options = parser.parse_args()
    if options.kernels is None:  # tracing alone takes torch.compile half a minute on a CPU
        options.kernels = KERNELS[:1] if options.tiny else KERNELS
    return options


def _facts() -> dict[str, Any]:
    """What a row depends on beside the versions that `save` writes."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "frames": FULL.frames,
        "size": FULL.side,
        "dtype": "float16",
        "xformers": importlib.metadata.version("xformers") if _has_xformers() else None,
    }


def _has_xformers() -> bool:
    return importlib.util.find_spec("xformers") is not None


def _kept(facts: dict[str, Any]) -> dict[str, Row]:
    """Rows saved by a run on the same GPU with the same versions; none for a run without facts."""
    file = RESULTS / "full_size.json"
    if not facts or not file.exists():
        return {}
    record = json.loads(file.read_text())
    versions = {part.__name__: part.__version__ for part in (el, torch, diffusers)}
    if any(record.get(name) != value for name, value in (facts | versions).items()):
        return {}
    return {
        name: {column: math.nan if value is None else value for column, value in row.items()}
        for name, row in record["rows"].items()
    }


# --- the models -----------------------------------------------------------------------------------


def _build(size: Size, device: str = "cuda", dtype: torch.dtype = torch.float16) -> Any:
    """Both models with random weights, made where they will run, as one quiet pipeline."""
    started = time.perf_counter()
    tokenizer: Any = zoo.load("t2i").tokenizer
    tokenizer.model_max_length = TOKENS
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            nets = _networks(size, tokenizer)
    finally:
        torch.set_default_dtype(before)
    for net in nets.values():
        net.eval()
    t2i = StableDiffusionPipeline(
        vae=nets["vae"],
        text_encoder=nets["text"],
        tokenizer=tokenizer,
        unet=nets["unet"],
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with quiet_deprecation():
        t2v = TextToVideoSDPipeline(
            vae=nets["vae"],
            text_encoder=nets["video_text"],
            tokenizer=tokenizer,
            unet=nets["video_unet"],
            scheduler=_ddim(),
        )
    pipe = el.VideoElevatorPipeline.from_pipelines(t2i, t2v)
    pipe.set_progress_bar_config(disable=True)
    millions = {name: sum(p.numel() for p in net.parameters()) / 1e6 for name, net in nets.items()}
    counts = ", ".join(f"{name} {count:.4g}" for name, count in millions.items())
    seconds = time.perf_counter() - started
    print(f"built in {seconds:.1f} s; millions of weights: {counts}", flush=True)
    return pipe


def _networks(size: Size, tokenizer: Any) -> dict[str, Any]:
    """The networks by name; what is not given is the class's default, as in both models."""
    return {
        "unet": UNet2DConditionModel(
            sample_size=size.side // 8,
            block_out_channels=size.widths,
            cross_attention_dim=size.t2i_text[0],
            attention_head_dim=8,  # in this class the number of heads
        ),
        "video_unet": UNet3DConditionModel(
            sample_size=size.side // 8,
            block_out_channels=size.widths,
            cross_attention_dim=size.t2v_text[0],
            attention_head_dim=size.head,
        ),
        "vae": AutoencoderKL(
            block_out_channels=size.vae,
            down_block_types=("DownEncoderBlock2D",) * len(size.vae),
            up_block_types=("UpDecoderBlock2D",) * len(size.vae),
            layers_per_block=2,
            latent_channels=4,
        ),
        "text": _text_encoder(*size.t2i_text, "quick_gelu", tokenizer),
        "video_text": _text_encoder(*size.t2v_text, "gelu", tokenizer),
    }


def _text_encoder(width: int, layers: int, activation: str, tokenizer: Any) -> Any:
    """CLIP's, but for the vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        hidden_act=activation,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)


def _ddim() -> Any:
    """Stable Diffusion's schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


# --- what is run ----------------------------------------------------------------------------------


Kernel = Callable[[Any, str], Any]
Planned = tuple[str, Kernel, Callable[[], object], Callable[[], object], int]
"""Name, kernel, the run, what warms it up, and the steps of the run."""


def _plan(pipe: Any, size: Size, kernels: tuple[str, ...]) -> Iterator[Planned]:
    """The rows to measure, quick ones first."""
    plain = _KERNELS["SDPA"]
    if "SDPA" in kernels:
        for name, run in {"T2I alone": _paint, "T2V alone": _film}.items():
            warm = partial(run, pipe, size, 1)
            yield name, plain, partial(run, pipe, size, size.alone), warm, size.alone
    run = partial(_elevate, pipe, size)
    # Three steps that refine at once hold every shape that a whole run has: torch.compile makes a
    # graph for each.
    warm = partial(run, num_inference_steps=3, refine=(3,), t2v_steps=1)
    for kernel in KERNELS:
        if kernel not in kernels:
            continue
        if kernel == "xformers" and not (_has_xformers() and pipe.device.type == "cuda"):
            print("xformers: left out, it needs the extra elevator[xformers] and CUDA", flush=True)
            continue
        yield f"VideoElevator, {kernel}", _KERNELS[kernel], run, warm, size.steps


def _paint(pipe: Any, size: Size, steps: int) -> object:
    """As many stills as the clip has frames."""
    return pipe.t2i(
        [PROMPT] * size.frames,
        height=size.side,
        width=size.side,
        num_inference_steps=steps,
        guidance_scale=size.preset.guidance,
        generator=_seeded(),
        output_type="pt",
    )


def _film(pipe: Any, size: Size, steps: int) -> object:
    """The T2V's own clip."""
    return pipe.t2v(
        PROMPT,
        num_frames=size.frames,
        height=size.side,
        width=size.side,
        num_inference_steps=steps,
        guidance_scale=size.preset.video_guidance,
        generator=_seeded(),
        output_type="pt",
    )


def _elevate(pipe: Any, size: Size, **changes: Any) -> object:
    """The exact recipe, inversion and correction on."""
    return pipe(
        PROMPT,
        height=size.side,
        width=size.side,
        preset=size.preset,
        generator=_seeded(),
        output_type="pt",
        **changes,
    )


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@contextmanager
def _sdpa(pipe: Any, backend: str) -> Iterator[None]:
    """What diffusers chooses by itself."""
    yield


@contextmanager
def _xformers(pipe: Any, backend: str) -> Iterator[None]:
    try:
        for net in (pipe.unet, pipe.video_unet):
            net.enable_xformers_memory_efficient_attention()
        yield
    finally:
        for net in (pipe.unet, pipe.video_unet):
            net.disable_xformers_memory_efficient_attention()


@contextmanager
def _compiled(pipe: Any, backend: str) -> Iterator[None]:
    """The T2I, which is called most, compiled for each of its two batch sizes."""
    plain = pipe.unet
    try:
        pipe.unet = torch.compile(plain, dynamic=False, backend=backend)
        yield
    finally:
        pipe.unet = plain


_KERNELS: dict[str, Kernel] = dict(zip(KERNELS, (_sdpa, _xformers, _compiled), strict=True))


# --- the clock ------------------------------------------------------------------------------------


def _row(
    pipe: Any, run: Callable[[], object], warm: Callable[[], object], steps: int, name: str
) -> Row:
    """Warm up, run plainly, run by the clock."""
    print(f"{name}: warmed up in {_seconds(warm):.1f} s", flush=True)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    plain = _seconds(run)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else math.nan
    with clocked(pipe) as calls:
        whole = _seconds(run)
    inside = sum(seconds for made in calls.values() for _, seconds in made)
    row = {
        "clip_s": plain,
        "step_s": plain / steps,
        "t2i_call_s": _guided(calls["unet"]),
        "t2v_call_s": _guided(calls["video_unet"]),
        "outside": 1 - inside / whole,
        "peak_GiB": peak,
    }
    print(table({name: row}), flush=True)
    return row


@contextmanager
def clocked(pipe: Any) -> Iterator[Calls]:
    """Time every network call of a pipeline; none of the networks calls another.

    Hooks are put on what the pipeline calls, so those of a compiled network stay out of its graph.
    """
    modules = ("unet", "video_unet", "text_encoder", "video_text_encoder")
    methods = ("encode", "decode")  # of the autoencoder, which is not called itself
    calls: Calls = {name: [] for name in (*modules, *methods)}
    started = 0.0

    def begin(module: Any, given: tuple[Any, ...]) -> None:
        nonlocal started
        started = _now()

    def end(name: str, module: Any, given: tuple[Any, ...], output: Any) -> None:
        calls[name].append((len(given[0]), _now() - started))

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*given: Any, **named: Any) -> Any:
            began = _now()
            output = method(*given, **named)
            calls[name].append((len(given[0]), _now() - began))
            return output

        return call

    handles = []
    for name in modules:
        network = getattr(pipe, name)
        handles.append(network.register_forward_pre_hook(begin))
        handles.append(network.register_forward_hook(partial(end, name)))
    for name in methods:
        setattr(pipe.vae, name, timed(name, getattr(pipe.vae, name)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        for name in methods:
            delattr(pipe.vae, name)


def _guided(made: list[tuple[int, float]]) -> float:
    """Median seconds of the calls with the largest batch, which guidance doubles."""
    largest = max((batch for batch, _ in made), default=0)
    times = [seconds for batch, seconds in made if batch == largest]
    return statistics.median(times) if times else math.nan


def _seconds(run: Callable[[], object]) -> float:
    started = _now()
    run()
    return _now() - started


def _now() -> float:
    """The time, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
