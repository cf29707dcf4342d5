"""Any pipeline a hook can be attached to, as a `Denoiser`: it is called and stopped at its step.

What a transformer is given beside latents, timestep and text (positions, masks, sizes, pooled
embeddings, guidance, two networks for two ranges of noise) differs in every pipeline. Only the
pipeline itself knows, so it is run for one step on a view of its own, with the latents put in where
it prepares its own, and stopped where its scheduler is handed the guided prediction.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, final

import torch
from torch import Tensor

from elevator.attach import attach
from elevator.denoise import Call, record_call
from elevator.errors import CheckError, LayoutError
from elevator.hook import Hook, Step
from elevator.hosts.caches import apart_from, memories_of
from elevator.hosts.coefficients import (
    counts_backwards,
    family_of,
    parametrisation_of,
    prepared,
    run_schedule,
    training_schedule,
)
from elevator.hosts.layouts import layout_of, to_host
from elevator.hosts.pipeline import kind_of, knows_its_frames, network_of, networks_of, pixels_of
from elevator.latent import Latent
from elevator.level import Level, Prediction, read_output, write_output
from elevator.patch import Patch, calls_of
from elevator.schedule import Schedule

__all__ = ["CalledPipeline", "called"]

STEPS = 4
"""Steps a pipeline is asked for, of which it takes one; some have no schedule of a single step."""


@dataclass(frozen=True, eq=False)
class CalledPipeline:
    """A whole pipeline as a denoiser, its own guidance inside.

    Attributes:
        pipeline: is called on a shallow copy with a scheduler of its own; it may be in the middle
            of a run.
        arguments: of its call: prompts or embeddings, guidance and whatever else it takes. Size,
            frames, steps, latents and generator are told by the latent it is given.
        guided: whether its guidance doubles the work, for `el.plan`.
        name: what `el.plan` calls it.
        patches: changes inside its network while it is called from here.

    Prompts are encoded at the first call and kept: make a new one after a change of the encoder.
    """

    pipeline: Any
    arguments: Mapping[str, Any]
    guided: bool
    name: str
    patches: tuple[Patch, ...] = ()
    _texts: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"<denoiser {self.name!r} of {type(self.pipeline).__name__}>"

    @cached_property
    def schedule(self) -> Schedule:
        """Every level the network was trained at."""
        return training_schedule(self.pipeline.scheduler)

    def walk(self, steps: int) -> Schedule:
        """The levels the pipeline's scheduler visits in a run of this many steps.

        Where they depend on the size of latents, those for the largest the scheduler knows of.
        """
        return run_schedule(prepared(self.pipeline.scheduler, steps))

    @cached_property
    def _space(self) -> Schedule:
        """Levels in the scale its solver keeps latents in."""
        return self.walk(2)

    def __call__(self, noisy: Latent, level: Level) -> Prediction:
        """Predict clean latent and noise; see `elevator.denoise.Denoiser`."""
        clips, frames = noisy.shape[0], noisy.shape[2]
        own_frames = knows_its_frames(self.pipeline)
        rows = clips * (2 if self.guided else 1) * (1 if own_frames else frames)
        for made in calls_of(self.patches, Call(self.name, rows, frames if own_frames else 1)):
            record_call(made)
        if noisy.is_meta:
            return Prediction(torch.empty_like(noisy), torch.empty_like(noisy))
        timestep = level.timestep
        if timestep is None:
            timestep = self.schedule.match(level).timestep
        assert timestep is not None
        scale = self._space.scale(level)
        own = Level(level.alpha * scale, level.sigma * scale, timestep)
        scaled = noisy.float() * scale.to(noisy.device)
        step = self._run(scaled.float(), own, None if own_frames else frames)
        kind = parametrisation_of(self.pipeline.scheduler)
        # The step reads the output at the level of the timestep; the latent may have another.
        output = write_output(step.predicted, step.level, kind)
        return read_output(output, scaled, own, kind)

    def _run(self, latents: Latent, level: Level, frames: int | None) -> Step:
        """Run one step from these latents."""
        view = self._view(latents, level)
        # A cache would take this for the next step of whatever its network was called for before.
        apart = apart_from(memories_of(networks_of(view)))
        try:
            with torch.no_grad(), apart, attach(view, _Stop(), self.patches, frames=frames):
                view(**self._told(latents, frames))
        except _StoppedError as stopped:
            if stopped.step.options.get("per_token_timesteps") is not None:
                raise CheckError([_CONDITIONS.format(type(view).__name__)]) from None
            return stopped.step
        raise CheckError([f"{type(view).__name__} never took a step, so it is no denoiser"])

    def _told(self, latents: Latent, frames: int | None) -> dict[str, Any]:
        """The arguments of a call that fits the latents."""
        told = dict(self.arguments)
        told |= {"num_inference_steps": STEPS, "output_type": "latent"}
        told["generator"] = torch.Generator().manual_seed(0)  # draws what is then replaced
        prompts, clips = _prompts(self.arguments), latents.shape[0]
        if prompts not in (1, clips):
            raise CheckError(
                [
                    f"the denoiser was made for {prompts} prompts, but the clip batch is {clips}; "
                    "give it one prompt, or one per clip"
                ]
            )
        if frames is not None:
            told["num_images_per_prompt"] = frames * clips // prompts
        elif clips > prompts:
            told["num_videos_per_prompt"] = clips
        return told | pixels_of(self.pipeline, tuple(latents.shape))

    def _view(self, latents: Latent, level: Level) -> Any:
        """The same components in an object of its own, with another scheduler."""
        view: Any = object.__new__(type(self.pipeline))
        view.__dict__.update(vars(self.pipeline))
        scheduler = view.__dict__["scheduler"] = copy.deepcopy(self.pipeline.scheduler)
        view.__dict__.pop("prepare_latents", None)  # of a hook that is attached now
        view.__dict__["_progress_bar_config"] = {"disable": True}
        scheduler.set_timesteps = _then(scheduler.set_timesteps, lambda _: _place(scheduler, level))
        view.prepare_latents = _then(
            view.prepare_latents, lambda made: _replaced(view, made, latents)
        )
        if hasattr(view, "encode_prompt"):
            rows = latents.shape[0] * latents.shape[2]
            view.encode_prompt = self._once(view.encode_prompt, rows)
        return view

    def _once(self, encode: Callable[..., Any], rows: int) -> Callable[..., Any]:
        """Encode prompts in the first run of so many frames only: all others have the same."""
        asked = 0

        @functools.wraps(encode)
        def encoded(*args: Any, **kwargs: Any) -> Any:
            nonlocal asked
            asked += 1
            if (rows, asked) not in self._texts:
                self._texts[rows, asked] = encode(*args, **kwargs)
            return self._texts[rows, asked]

        return encoded


def called(
    pipeline: Any,
    guidance: float,
    name: str | None,
    patches: Sequence[Patch] = (),
    **call: Any,
) -> CalledPipeline:
    """A whole pipeline as a denoiser.

    Args:
        pipeline: any pipeline a hook can be attached to.
        guidance: classifier-free guidance scale; 1 for none.
        name: what `el.plan` calls it; the network's class by default.
        patches: changes inside the network while it is called from here.
        **call: further arguments of the pipeline's call; None is left out.

    Raises:
        CheckError: the pipeline makes sound too, or takes no such argument.
    """
    cls = type(pipeline)
    if getattr(pipeline, "audio_vae", None) is not None:
        raise CheckError(
            [f"{cls.__name__} denoises sound beside pictures, which a latent clip does not hold"]
        )
    network = network_of(pipeline)
    if network is None or not hasattr(pipeline, "prepare_latents"):
        raise CheckError([f"{cls.__name__} has no network a denoiser can be made of"])
    guided, taken = guidance != 1, inspect.signature(cls.__call__).parameters
    # Where both exist, guidance_scale is an input of a distilled network.
    scale = "true_cfg_scale" if "true_cfg_scale" in taken else "guidance_scale"
    given = {key: value for key, value in call.items() if value is not None}
    if guided and scale not in taken:
        raise CheckError(
            [f"{cls.__name__} takes no guidance scale, so guidance={guidance} cannot be; give 1"]
        )
    if guided and given.get("prompt") is not None and "negative_prompt" in taken:
        given.setdefault("negative_prompt", "")
    if not guided:
        given = {key: value for key, value in given.items() if not key.startswith("negative_")}
    if scale in taken:
        given[scale] = guidance
    unknown = sorted(given.keys() - taken.keys())
    if unknown:
        _, *names = taken  # the first is self
        raise CheckError(
            [f"{cls.__name__} takes no {', '.join(unknown)}; it takes {', '.join(names)}"]
        )
    return CalledPipeline(
        pipeline, given, guided, name or kind_of(network).__name__, tuple(patches)
    )


_CONDITIONS = (
    "{} keeps pictures it is given among the latents it denoises, so it is no denoiser of whole "
    "clips; use the pipeline of the same model that takes text alone"
)


def _prompts(arguments: Mapping[str, Any]) -> int:
    """How many prompts a call has."""
    prompt, embeddings = arguments.get("prompt"), arguments.get("prompt_embeds")
    if isinstance(embeddings, Tensor):
        return len(embeddings)
    return len(prompt) if isinstance(prompt, list) else 1


class _StoppedError(Exception):
    """Carries a step out of a pipeline's call."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step


@final
@dataclass(frozen=True)
class _Stop(Hook[tuple[()]]):
    """Ends a run at its first step."""

    def update(self, clean: Latent, step: Step, state: tuple[()]) -> NoReturn:
        raise _StoppedError(step)


def _then(function: Callable[..., Any], after: Callable[[Any], Any]) -> Callable[..., Any]:
    """The function, and what becomes of its result; its signature stays."""

    @functools.wraps(function)
    def both(*args: Any, **kwargs: Any) -> Any:
        return after(function(*args, **kwargs))

    both.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return both


def _place(scheduler: Any, level: Level) -> None:
    """Leave a scheduler one level to visit."""
    assert level.timestep is not None
    told = level.timestep.to(scheduler.timesteps.device, torch.float64)
    whole = not scheduler.timesteps.is_floating_point()
    scheduler.timesteps = (told.round() if whole else told)[None].to(scheduler.timesteps.dtype)
    if family_of(scheduler).levels == "cumprod":
        return
    sigma = level.sigma.double()
    flow = family_of(scheduler).levels == "flow" or scheduler.config.get("use_flow_sigmas")
    if not flow:  # kept relative to the signal
        sigma = sigma / level.alpha
    last = torch.zeros_like(sigma)
    if counts_backwards(scheduler):
        sigma, last = 1 - sigma, 1 - last
    scheduler.sigmas = torch.stack([sigma, last]).to(scheduler.sigmas)


def _replaced(pipeline: Any, made: Any, latents: Latent) -> Any:
    """What a pipeline prepared, with other latents in it."""
    first: Tensor = made[0] if isinstance(made, tuple) else made
    try:
        pattern = layout_of(pipeline, first.ndim)
    except LayoutError as error:  # the first frame, a picture, is cut off later
        raise CheckError([_CONDITIONS.format(type(pipeline).__name__)]) from error
    put = to_host(latents, pattern).to(first)
    if put.shape != first.shape:
        raise CheckError(
            [
                f"{type(pipeline).__name__} prepares latents of shape {tuple(first.shape)}, but "
                f"those to denoise are {tuple(put.shape)} there; give latents of a size and length "
                "that it can make"
            ]
        )
    return (put, *made[1:]) if isinstance(made, tuple) else put
