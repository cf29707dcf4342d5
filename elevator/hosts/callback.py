r"""A hook as a diffusers callback, for code that takes a callback and nothing else.

At the end of step i a callback is shown the next latent alone. A first-order solver without noise
of its own (DDIM at eta = 0, Euler) made it from the latent before it and the network's output m:

$$x_{i+1} = p\,x_i + q\,m .$$

The latent before is what the last step ended at, so m, and with it the clean estimate, follow from
two latents; p and q are asked of the solver itself. A changed estimate goes through the solver's
own step a second time. Rounding in the latents is divided by q, so a hook sees estimates that are a
little less exact than inside the step: attach is the better way wherever it can be used.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, final

import torch
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from elevator.errors import CheckError, HookError
from elevator.hook import Hook
from elevator.hosts.layouts import FRAMES_IN_BATCH
from elevator.hosts.pipeline import pixels_per_latent
from elevator.hosts.scheduler import Engine, is_hooked
from elevator.noise import Noise, noise_of_run
from elevator.renoise import rules

__all__ = ["HookCallback"]

_SOLVERS = {
    "CogVideoXDDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
}
"""Schedulers of one network call per step, without history and, as pipelines call them, noise."""

_LAYOUTS: Mapping[str, str] = MappingProxyType(
    {
        "AnimateDiffPipeline": "b c f h w",
        "AnimateDiffSDXLPipeline": "b c f h w",
        "CogVideoXPipeline": "b f c h w",
        "HunyuanVideoPipeline": "b c f h w",
        "MochiPipeline": "b c f h w",
        "StableDiffusion3Pipeline": FRAMES_IN_BATCH,
        "StableDiffusionPipeline": FRAMES_IN_BATCH,
        "StableDiffusionUpscalePipeline": FRAMES_IN_BATCH,
        "StableDiffusionXLPipeline": FRAMES_IN_BATCH,
        "StableVideoDiffusionPipeline": "b f c h w",
        "TextToVideoSDPipeline": "b c f h w",
        "WanPipeline": "b c f h w",
    }
)
"""Pipelines whose callback is given exactly what the solver made, and its axes."""


@final
class HookCallback(PipelineCallback):
    """Runs a hook from `callback_on_step_end`, alone or last in `MultiPipelineCallbacks`.

    The result is that of `el.attach` up to rounding, for whole runs of a first-order solver without
    noise; what changes the latents after this callback, or between the solver and it, cannot be
    seen and must not be there. DDIM is taken to run at its default, `eta=0`. One callback serves
    one pipeline at a time, for any number of runs.

    Args:
        hook: the composition, re-noising rules included.
        latents: the noise given to the pipeline as `latents=`, from which the first step starts.
            Without it the first step's estimate is not known, and the hook must leave that step
            alone: `el.at`, `el.between`.
        frames: frames per clip, for image pipelines.
        noise: as for `el.attach`; None keys noise by torch's global generator, as a callback is not
            told of the pipeline's own.
        layout: axes of the latents given to the callback, such as "b c f h w", for pipelines
            elevator does not know. They must be the very latents the scheduler stepped.

    Raises:
        CheckError: in the first step, if pipeline, solver or hook cannot be served.
        HookError: a step was left out (`callback_steps` is not 1), or a hook broke its contract.
    """

    def __init__(
        self,
        hook: Hook[Any],
        *,
        latents: Tensor | None = None,
        frames: int | None = None,
        noise: Noise | torch.Generator | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(hook, Hook):
            raise TypeError(
                f"HookCallback takes a hook, got {hook!r}; lift a plain function with stateless(fn)"
            )
        self._hook = hook
        self._start = latents
        self._frames = frames
        self._noise = noise
        self._layout = layout
        self._engine: Engine | None = None
        self._before: Tensor | None = None
        self._last = -1
        self._runs = 0

    @property
    def tensor_inputs(self) -> list[str]:
        """What the pipeline is to give."""
        return ["latents"]

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Put the hook's latents in place of the solver's; the same dictionary where unchanged."""
        latents = callback_kwargs["latents"]
        if step_index == 0:
            self._begin(pipeline, latents, timesteps)
        engine, before = self._engine, self._before
        position = _position(pipeline.scheduler, timesteps)
        if engine is None or (step_index and position != self._last + 1):
            raise HookError(
                f"HookCallback was called at step {position} after step {self._last}, but it needs "
                "every step from the first on, since each starts where the last one ended; call it "
                "at every step (callback_steps=1) and make a new one for every pipeline"
            )
        self._last, self._before = position, latents
        if before is None:  # the first step's estimate is not known; `_begin` has made sure
            return callback_kwargs
        after = _step(engine, position, timesteps, before, latents)
        if after is latents:
            return callback_kwargs
        self._before = after
        return callback_kwargs | {"latents": after}

    def legacy(self, pipeline: Any) -> Callable[[int, Any, Tensor], None]:
        """The same as `callback(step, timestep, latents)`, which writes into the latents.

        For pipelines that have only that: `pipe(..., callback=HookCallback(hook).legacy(pipe))`.
        """

        def callback(step: int, timestep: Any, latents: Tensor) -> None:
            after = self.callback_fn(pipeline, step, timestep, {"latents": latents})["latents"]
            if after is not latents:
                latents.copy_(after)

        return callback

    def _begin(self, pipeline: Any, latents: Tensor, timestep: Any) -> None:
        """A run's first step has ended: check everything, find where it started."""
        self._engine, self._before = None, None
        problems = [*self._problems(pipeline, latents)]
        if problems:
            raise CheckError(problems)
        self._runs += 1
        runs, layout = self._runs, self._layout or _layout_of(pipeline)
        engine = Engine(
            copy.deepcopy(pipeline.scheduler),
            self._hook,
            lambda ndim: str(layout),
            self._frames,
            lambda shape: noise_of_run(self._noise, (), runs, shape),
            pictures=pixels_per_latent(pipeline)[1],
        )
        engine.begin()
        first = _position(engine.scheduler, timestep)
        steps = len(engine.scheduler.timesteps)
        if first == 0 and self._start is not None:
            self._before = self._given(engine.scheduler, latents)
        elif first in _acting(self._hook, steps):
            raise CheckError(
                [
                    f"{self._hook!r} may act at step {first}, the first of the run, whose latent a "
                    "callback is never shown; give HookCallback(..., latents=...) the noise the "
                    "pipeline is given as latents=..., keep the hook from that step with el.at or "
                    "el.between, or use el.attach"
                ]
            )
        self._engine = engine

    def _given(self, scheduler: Any, latents: Tensor) -> Tensor:
        """Where the run started: the noise given, in the scale the scheduler starts from."""
        assert self._start is not None
        if self._start.shape != latents.shape:
            raise CheckError(
                [
                    f"HookCallback was given latents of shape {tuple(self._start.shape)}, but the "
                    f"pipeline's are {tuple(latents.shape)}; give both the very same noise"
                ]
            )
        return self._start.to(latents) * getattr(scheduler, "init_noise_sigma", 1.0)

    def _problems(self, pipeline: Any, latents: Tensor) -> Iterator[str]:
        """Why the clean estimate cannot be known from the latents of two steps."""
        scheduler, kind = pipeline.scheduler, type(pipeline).__name__
        name, config = type(scheduler).__name__, scheduler.config
        if name not in _SOLVERS:
            yield (
                f"two latents of {name} do not tell the clean estimate between them (only those "
                f"of {', '.join(sorted(_SOLVERS))} do); use el.attach(pipe, hook), which sees it "
                "inside the step"
            )
        for option in ("clip_sample", "thresholding", "stochastic_sampling"):
            if config.get(option):
                yield (
                    f"with {option}=True a step of {name} cannot be undone; use el.attach, or "
                    f"pipe.scheduler = {name}.from_config(pipe.scheduler.config, {option}=False)"
                )
        if is_hooked(scheduler):
            yield "this scheduler already carries a hook; chain the hooks and attach once"
        if latents.dtype in (torch.float16, torch.bfloat16):
            yield (
                f"the latents are {latents.dtype}, whose rounding grows many times over in the "
                "clean estimate found from two of them; use el.attach, or load the pipeline with "
                "dtype=torch.float32"
            )
        if getattr(pipeline, "free_init_enabled", False):
            yield "FreeInit makes new noise between its rounds; use el.attach, or disable_free_init"
        layout = self._layout or _layout_of(pipeline)
        if layout is None:
            yield (
                f"elevator does not know that {kind} gives its callback what the solver made; use "
                "el.attach, or, if it does, give HookCallback(..., layout='b c f h w') its axes"
            )
        elif "(b f)" in layout and self._frames is None:
            yield (
                f"{kind} does not tell how many frames its batch holds; give "
                "HookCallback(..., frames=...) (1 for single images)"
            )


def _layout_of(pipeline: Any) -> str | None:
    names = (cls.__name__ for cls in type(pipeline).__mro__)
    return next((_LAYOUTS[name] for name in names if name in _LAYOUTS), None)


def _acting(hook: Hook[Any], steps: int) -> frozenset[int]:
    """Steps where a hook or a rule bound in it may change something."""
    acts_at = hook.acts_at(steps)
    return acts_at.union(*(rule.claims(acts_at, steps) for rule in rules(hook)))


def _position(scheduler: Any, timestep: Any) -> int:
    """Which of the run's steps has this timestep."""
    told = torch.as_tensor(timestep).to(scheduler.timesteps)
    found = (scheduler.timesteps == told).nonzero()
    if not len(found):
        raise HookError(
            f"the callback was told timestep {timestep}, which is none of the scheduler's, so the "
            "step cannot be found; use el.attach"
        )
    return int(found[0])


def _step(engine: Engine, position: int, timestep: Any, before: Tensor, latents: Tensor) -> Tensor:
    """The latents after a step with the hook inside; `latents` itself where it changes nothing."""
    scheduler = engine.scheduler

    def solve(output: Tensor, sample: Tensor) -> Tensor:
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = position
        after: Tensor = scheduler.step(output, timestep, sample, return_dict=False)[0]
        return after

    zeros = torch.zeros_like(before)
    factor = solve(zeros + 1, zeros).flatten()[0]
    if factor == 0:
        raise HookError(
            f"step {position} leaves the latents where they are, so they do not tell the clean "
            "estimate; use el.attach, or timesteps that fall at every step"
        )
    output = (latents - solve(zeros, before)) / factor

    def original(model_output: Tensor, sample: Tensor, **_: Any) -> tuple[Tensor]:
        return (latents if model_output is output else solve(model_output, sample),)

    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = position
    arguments = {"model_output": output, "timestep": timestep, "sample": before}
    after: Tensor = engine.step(original, arguments)[0]
    return after
