"""The seam with diffusers: a scheduler whose class is swapped for a subclass that calls hooks.

Swapping the class (and not `scheduler.step`, nor a proxy object) is what keeps deepcopied
schedulers, `isinstance` branches, inspected signatures, saving and pickling working.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from elevator.errors import CheckError, HookError
from elevator.hook import Hook, Host, Run, Step, parts
from elevator.hosts.coefficients import (
    family_of,
    forget_history,
    level_of_call,
    parametrisation_of,
    position_of_call,
    run_schedule,
)
from elevator.hosts.layouts import from_host, to_host
from elevator.level import Prediction, read_output, write_clean
from elevator.noise import Noise
from elevator.renoise import renoise_conflicts, rules
from elevator.schedule import Schedule

__all__ = ["Engine", "problems_of", "swap_class", "unswap_class"]

_ENGINE = "_elevator_engine"


def problems_of(hook: Hook[Any], host: Host) -> list[str]:
    """Every sentence the parts of a hook have to say about a host."""
    problems = [problem for part in parts(hook) for problem in part.check(host)]
    if host.steps is not None:
        problems.extend(renoise_conflicts(hook, host.steps))
    return list(dict.fromkeys(problems))


class Engine:
    """Runs one hook inside one scheduler, from `set_timesteps` to `set_timesteps`."""

    def __init__(
        self,
        scheduler: Any,
        hook: Hook[Any],
        layout: Callable[[int], str],
        frames: int | None,
        noise: Callable[[], Noise],
    ) -> None:
        """Bind hook and scheduler.

        Args:
            scheduler: the pipeline's own scheduler; copies of it are left alone.
            hook: the composition to run.
            layout: einops pattern of the latents, from their number of axes.
            frames: frames per clip, where the batch axis hides them.
            noise: makes the noise source of a run.
        """
        self.scheduler = scheduler
        self.hook = hook
        self.layout = layout
        self.frames = frames
        self.noise = noise
        self.network_output: Tensor | None = None
        self.runs = 0
        self.steps_seen = 0
        self._rules = bool(rules(hook))
        self._schedule: Schedule | None = None
        self._run: Run | None = None
        self._state: Any = None
        self._last = -1

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        """Copies of a scheduler share the engine, which then leaves them alone."""
        return self

    def host(self, steps: int | None = None) -> Host:
        """Facts of the host for `check`."""
        family = family_of(self.scheduler)
        config = self.scheduler.config
        return Host(
            solver=type(self.scheduler).__name__,
            order=family.order,
            prediction=parametrisation_of(self.scheduler),
            layout="unknown before the first step" if self._run is None else "b c f h w",
            frames=self.frames,
            steps=steps,
            renoisable=family.renoisable,
            clips=bool(config.get("clip_sample") or config.get("thresholding")),
        )

    def begin(self) -> None:
        """A run begins: the timesteps are set, nothing has been computed."""
        self._schedule = run_schedule(self.scheduler)
        self._run = None
        self.runs += 1
        self.steps_seen = 0
        problems = problems_of(self.hook, self.host(steps=len(self._schedule)))
        if problems:
            raise CheckError(problems)

    def step(
        self,
        original: Callable[..., Any],
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """One call of the host's `step`, with the hook inside."""
        if self._schedule is None:
            self.begin()
        assert self._schedule is not None
        position = position_of_call(self.scheduler, timestep)
        if self._run is not None and position <= self._last:
            self._run = None  # the loop started over without setting its timesteps again
        self._last = position
        output, variance = _split_variance(model_output, sample)
        pattern = self.layout(sample.ndim)
        frames = self.frames
        noisy = from_host(sample, pattern, frames)
        if self._run is None:
            shape = (
                noisy.shape[0],
                noisy.shape[1],
                noisy.shape[2],
                noisy.shape[3],
                noisy.shape[4],
            )
            self._run = Run(self._schedule, shape, sample.device, sample.dtype, self.noise())
            self._state = self.hook.init(self._run)
        step = self._describe(position, timestep, noisy, from_host(output, pattern, frames), kwargs)
        self.steps_seen += 1

        before = _version(step.predicted.clean)
        clean, self._state = self.hook.update(step.predicted.clean, step, self._state)
        if _version(step.predicted.clean) != before:
            raise HookError(
                f"{self.hook!r} wrote into the latent it was given at step {step.index}; "
                "return a new tensor instead (clone first if you must edit in place)"
            )
        if clean is not step.predicted.clean:
            _require_like(clean, step.predicted.clean, self.hook)
            kind = parametrisation_of(self.scheduler)
            edited = to_host(write_clean(clean, noisy, step.level, kind), pattern)
            model_output = edited.to(output.dtype)
            if variance is not None:
                model_output = torch.cat([model_output, variance], dim=1)

        result = original(model_output, timestep, sample, *args, **kwargs)
        if not self._rules:
            return result
        previous = result[0] if isinstance(result, tuple) else result.prev_sample
        proposed = from_host(previous, pattern, frames).float()
        latent, self._state = self.hook.finish(clean, proposed, step, self._state)
        if latent is proposed:
            return result
        _require_like(latent, proposed, self.hook)
        forget_history(self.scheduler)
        replaced = to_host(latent, pattern).to(previous.dtype)
        if isinstance(result, tuple):
            return (replaced, *result[1:])
        result.prev_sample = replaced
        return result

    def _describe(
        self, position: int, timestep: Any, noisy: Tensor, output: Tensor, options: dict[str, Any]
    ) -> Step:
        assert self._run is not None
        assert self._schedule is not None
        kind = parametrisation_of(self.scheduler)
        index = position // family_of(self.scheduler).order
        level = level_of_call(self.scheduler, position, timestep)

        raw = self.network_output  # now: hooks may call the same network before they ask

        def conditional() -> Prediction | None:
            if raw is None:
                return None
            mean, _ = _split_variance(raw, output[:, :, 0])
            # Guidance doubles the batch, negative prompt first, in every pipeline of diffusers.
            half = mean.chunk(2)[1] if mean.numel() == 2 * noisy.numel() else mean
            if half.numel() != noisy.numel():
                return None
            own = half if half.ndim == 5 else from_host(half, self.layout(4), self.frames)
            return read_output(own, noisy, level, kind)

        return Step(
            run=self._run,
            index=index,
            noisy=noisy.float(),
            predicted=read_output(output, noisy, level, kind),
            level=level,
            next=self._schedule[index + 1],
            options=options,
            conditional=conditional,
        )


def _version(tensor: Tensor) -> int:
    """Counts writes into a tensor; tensors of `torch.inference_mode` do not count them."""
    return 0 if tensor.is_inference() else tensor._version


def _split_variance(output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor | None]:
    """Part a learned variance (twice the channels) from the prediction."""
    if output.shape[1] == 2 * sample.shape[1]:
        mean, variance = output.chunk(2, dim=1)
        return mean, variance
    return output, None


def _require_like(got: Tensor, expected: Tensor, hook: Hook[Any]) -> None:
    if got.shape != expected.shape or got.device != expected.device:
        raise HookError(
            f"{hook!r} returned a latent of shape {tuple(got.shape)} on {got.device}; "
            f"expected {tuple(expected.shape)} on {expected.device}, as it was given"
        )


def _rebuild(cls: type, state: dict[str, Any]) -> Any:
    scheduler: Any = object.__new__(cls)
    scheduler.__dict__.update(state)
    return scheduler


_subclasses: dict[Any, Any] = {}


def _hooked(base: Any) -> Any:
    """The subclass of a scheduler class that hands its steps to the engine in its instance."""
    if base in _subclasses:
        return _subclasses[base]

    class Hooked(base):
        @functools.wraps(base.set_timesteps)
        def set_timesteps(self, *args: Any, **kwargs: Any) -> Any:
            result = super().set_timesteps(*args, **kwargs)
            engine = self.__dict__.get(_ENGINE)
            if engine is not None and engine.scheduler is self:
                engine.begin()
            return result

        @functools.wraps(base.step)
        def step(
            self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
        ) -> Any:
            engine = self.__dict__.get(_ENGINE)
            original = super().step
            if engine is None or engine.scheduler is not self:
                return original(model_output, timestep, sample, *args, **kwargs)
            return engine.step(original, model_output, timestep, sample, *args, **kwargs)

        def __reduce_ex__(self, protocol: Any) -> Any:
            state = {name: value for name, value in self.__dict__.items() if name != _ENGINE}
            return _rebuild, (base, state)

    # Pipelines write the scheduler's class into model_index.json: keep the original's name.
    Hooked.__name__, Hooked.__qualname__ = base.__name__, base.__qualname__
    Hooked.__module__ = base.__module__
    _subclasses[base] = Hooked
    return Hooked


def swap_class(scheduler: Any, engine: Engine) -> None:
    """Make `scheduler` hand its steps to `engine`."""
    if _ENGINE in vars(scheduler):
        raise CheckError(
            [
                "this scheduler already carries a hook (pipelines made with from_pipe share one); "
                "chain the hooks and attach once, or give the other pipeline a scheduler of its own"
            ]
        )
    scheduler.__dict__[_ENGINE] = engine
    scheduler.__class__ = _hooked(type(scheduler))


def unswap_class(scheduler: Any, original: type) -> None:
    """Give the scheduler its very class back and take the engine out."""
    scheduler.__dict__.pop(_ENGINE, None)
    scheduler.__class__ = original
