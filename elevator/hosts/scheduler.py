"""The seam with diffusers: a scheduler whose class is swapped for a subclass that calls hooks.

Swapping the class (and not `scheduler.step`, nor a proxy object) is what keeps deepcopied
schedulers, `isinstance` branches, inspected signatures, saving and pickling working.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from elevator.errors import CheckError, HookError
from elevator.hook import Hook, Host, Run, Step
from elevator.hosts.caches import apart_from, memories_of
from elevator.hosts.coefficients import (
    counts_backwards,
    family_of,
    forget_history,
    level_of_call,
    parametrisation_of,
    position_of_call,
    run_schedule,
)
from elevator.hosts.facts import FactsById, looked_up
from elevator.hosts.layouts import FRAMES_IN_BATCH, channel_axis, from_host, to_host
from elevator.level import Level, Prediction, read_output, write_clean
from elevator.noise import Noise
from elevator.renoise import renoise_conflicts, rules
from elevator.schedule import Schedule

__all__ = ["Engine", "is_hooked", "problems_of", "swap_class", "unswap_class"]

_ENGINE = "_elevator_engine"

# Layouts of a network's own output where it has other axes than the latents at the step.
_OUTPUTS = {4: FRAMES_IN_BATCH, 5: "b c f h w"}


def problems_of(hook: Hook[Any], host: Host) -> list[str]:
    """Every sentence the parts of a hook have to say about a host."""
    problems = list(_problems(hook, host))
    if host.steps is not None:
        problems.extend(renoise_conflicts(hook, host.steps))
    return list(dict.fromkeys(problems))


def _problems(hook: Hook[Any], host: Host) -> Iterator[str]:
    yield from hook.check(host)
    for inner in hook.inner():
        yield from _problems(inner, hook.host_within(host))


class Engine:
    """Runs one hook inside one scheduler, from `set_timesteps` to `set_timesteps`."""

    def __init__(
        self,
        scheduler: Any,
        hook: Hook[Any],
        layout: Callable[[int], str],
        frames: int | None,
        noise: Callable[[tuple[int, int, int, int, int]], Noise],
        *,
        networks: Sequence[nn.Module] = (),
        prompt_first: bool = False,
        pictures: int = 1,
    ) -> None:
        """Bind hook and scheduler.

        Args:
            scheduler: the pipeline's own scheduler; copies of it are left alone.
            hook: the composition to run.
            layout: einops pattern of the latents, from their number of axes.
            frames: frames per clip, where the batch axis hides them.
            noise: makes the noise source of a run, from the shape of its latents.
            networks: those the pipeline calls; what caches keep of them, hooks do not touch.
            prompt_first: whether the pipeline's guided batch has the prompt before the negative
                prompt.
            pictures: pictures a latent frame after the first stands for.
        """
        self.scheduler = scheduler
        self.hook = hook
        self.layout = layout
        self.frames = frames
        self.noise = noise
        self.networks = networks
        self.prompt_first = prompt_first
        self.pictures = pictures
        self.grid: Mapping[str, int] = {}
        self.prepared = False
        self.runs = 0
        self.steps_seen = 0
        self._rules = bool(rules(hook))
        self._schedule: Schedule | None = None
        self._run: Run | None = None
        self._state: Any = None
        self._last = -1
        self._heard: list[Tensor | None] = []
        self._memories: list[Any] = []
        self._known: FactsById = {}

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
            frames=self.frames,
            steps=steps,
            renoisable=family.renoisable,
            clips=bool(config.get("clip_sample") or config.get("thresholding")),
        )

    def hear(self, output: Tensor | None) -> None:
        """The host's network was called; keeps its output until the step that follows."""
        self._heard = [output] if not self._heard else [None, None]  # of several, none is kept

    def begin(self) -> None:
        """A run begins: the timesteps are set, nothing has been computed."""
        self._heard = []
        self._schedule = run_schedule(self.scheduler)
        self._memories = memories_of(self.networks)
        self._known = {}
        self._run = None
        self.runs += 1
        self.steps_seen = 0
        problems = problems_of(self.hook, self.host(steps=len(self._schedule)))
        if problems:
            raise CheckError(problems)

    def step(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """One call of the host's `step`, its arguments by name, with the hook inside."""
        try:
            if self._schedule is None:
                self.begin()
            with apart_from(self._memories), looked_up(self._known):
                return self._step(original, arguments)
        finally:
            self._heard = []  # with what the hooks called meanwhile

    def _step(self, original: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        read = "model_output"
        if family_of(self.scheduler).given_clean:
            read = "pred_original_sample"
            if arguments.get(read) is None:  # the pipeline only wants to know the clean estimate
                return original(**arguments)
        assert self._schedule is not None
        model_output, timestep = arguments[read], arguments["timestep"]
        sample = arguments["sample"]
        position = position_of_call(self.scheduler, timestep)
        if self._run is not None and position <= self._last:
            self._run = None  # the loop started over without setting its timesteps again
            self._known.clear()
        self._last = position
        pattern = self.layout(sample.ndim)
        noisy = self._read(sample, pattern)
        channels = sample.shape[channel_axis(pattern)]
        output, variance = _split_variance(model_output, pattern, channels)
        reading = sign, tokens = self._reading(arguments, sample, pattern)
        if self._run is None:
            shape = (
                noisy.shape[0],
                noisy.shape[1],
                noisy.shape[2],
                noisy.shape[3],
                noisy.shape[4],
            )
            self._run = Run(
                self._schedule,
                shape,
                sample.device,
                sample.dtype,
                self.noise(shape),
                pictures=self.pictures,
            )
            self._state = self.hook.init(self._run)
        predicted = sign * self._read(output, pattern)
        step = self._describe(position, noisy, predicted, sample.ndim, arguments, reading)
        self.steps_seen += 1

        given = (*step.predicted, step.noisy)
        written = [_version(tensor) for tensor in given]
        clean, self._state = self.hook.update(step.predicted.clean, step, self._state)
        if [_version(tensor) for tensor in given] != written:
            raise _wrote(self.hook, step)
        if clean is not step.predicted.clean:
            _require_like(clean, step.predicted.clean, self.hook)
            kind = parametrisation_of(self.scheduler)
            edited = sign * write_clean(clean, noisy, tokens or step.level, kind)
            if tokens is not None:  # a token without noise has no clean estimate to change
                edited = torch.where(tokens.sigma > 0, edited, self._read(output, pattern).float())
            model_output = to_host(edited, pattern).to(output.dtype)
            if variance is not None:
                model_output = torch.cat([model_output, variance], dim=channel_axis(pattern))
            arguments = arguments | {read: model_output}

        result = original(**arguments)
        if not self._rules:
            return result
        previous = result[0] if isinstance(result, tuple) else result.prev_sample
        proposed = self._read(previous, pattern).float()
        before = _version(proposed)
        latent, self._state = self.hook.finish(clean, proposed, step, self._state)
        if _version(proposed) != before:
            raise _wrote(self.hook, step)
        if latent is proposed:
            return result
        _require_like(latent, proposed, self.hook)
        forget_history(self.scheduler)
        replaced = to_host(latent, pattern).to(previous.dtype)
        if isinstance(result, tuple):
            return (replaced, *result[1:])
        result.prev_sample = replaced
        return result

    def _read(self, tensor: Tensor, pattern: str) -> Tensor:
        """A tensor of the host, as hooks see it."""
        return from_host(tensor, pattern, self.frames, self.grid)

    def _reading(
        self, arguments: dict[str, Any], sample: Tensor, pattern: str
    ) -> tuple[int, Level | None]:
        """The sign of the network's output, and the noise level of every token if they differ."""
        times = arguments.get("per_token_timesteps")
        if times is None:
            return -1 if counts_backwards(self.scheduler) else 1, None
        sigma = times / self.scheduler.config.num_train_timesteps
        sigma = self._read(sigma[..., None].to(sample).expand_as(sample), pattern)
        return -1, Level(1 - sigma, sigma, None)

    def _describe(
        self,
        position: int,
        noisy: Tensor,
        output: Tensor,
        axes: int,
        arguments: dict[str, Any],
        reading: tuple[int, Level | None],
    ) -> Step:
        assert self._run is not None
        assert self._schedule is not None
        kind = parametrisation_of(self.scheduler)
        index = position // family_of(self.scheduler).order
        level = level_of_call(self.scheduler, position, arguments["timestep"])
        sign, tokens = reading
        pattern = self.layout(axes)
        known = ("model_output", "timestep", "sample")

        # Now: hooks may call the same network before they ask. Where it was called more than once
        # (a call per prompt, two networks), which output was for the prompt cannot be told.
        raw = self._heard[0] if len(self._heard) == 1 else None

        def conditional() -> Prediction | None:
            if raw is None:
                return None
            own = pattern if raw.ndim == axes else _OUTPUTS.get(raw.ndim)
            if own is None:
                return None
            mean, _ = _split_variance(raw, own, to_host(noisy, own).shape[channel_axis(own)])
            guided = mean.numel() == 2 * noisy.numel()
            half = mean.chunk(2)[0 if self.prompt_first else 1] if guided else mean
            if half.numel() != noisy.numel():
                return None
            read = sign * self._read(half, own)
            return read_output(read, noisy, tokens or level, kind)

        return Step(
            run=self._run,
            index=index,
            noisy=noisy.float(),
            predicted=read_output(output, noisy, tokens or level, kind),
            level=level,
            next=self._schedule[index + 1],
            options={name: value for name, value in arguments.items() if name not in known},
            conditional=conditional,
        )


def _version(tensor: Tensor) -> int:
    """Counts writes into a tensor; tensors of `torch.inference_mode` do not count them."""
    return 0 if tensor.is_inference() else tensor._version


def _split_variance(output: Tensor, pattern: str, channels: int) -> tuple[Tensor, Tensor | None]:
    """Part a learned variance from the prediction, where that has twice the channels."""
    axis = channel_axis(pattern)
    if output.shape[axis] == 2 * channels:
        mean, variance = output.chunk(2, dim=axis)
        return mean, variance
    return output, None


def _wrote(hook: Hook[Any], step: Step) -> HookError:
    return HookError(
        f"{hook!r} wrote into a latent it was given at step {step.index}; "
        "return a new tensor instead (clone first if you must edit in place)"
    )


def _require_like(got: Any, expected: Tensor, hook: Hook[Any]) -> None:
    wanted = f"expected {_facts(expected)}, as it was given"
    if not isinstance(got, Tensor):
        kind = "None" if got is None else type(got).__name__
        raise HookError(f"{hook!r} returned {kind}; {wanted}")
    if (got.shape, got.dtype, got.device) != (expected.shape, expected.dtype, expected.device):
        raise HookError(f"{hook!r} returned {_facts(got)}; {wanted}")


def _facts(latent: Tensor) -> str:
    return f"a latent of shape {tuple(latent.shape)}, {latent.dtype}, on {latent.device}"


def _by_name(signature: inspect.Signature, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by their names."""
    named = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named


def _rebuild(cls: type, state: dict[str, Any]) -> Any:
    scheduler: Any = object.__new__(cls)
    scheduler.__dict__.update(state)
    return scheduler


_subclasses: dict[Any, Any] = {}


def _hooked(base: Any) -> Any:
    """The subclass of a scheduler class that hands its steps to the engine in its instance."""
    if base in _subclasses:
        return _subclasses[base]

    unbound = inspect.signature(base.step)
    signature = unbound.replace(parameters=[*unbound.parameters.values()][1:])

    class Hooked(base):
        @functools.wraps(base.set_timesteps)
        def set_timesteps(self, *args: Any, **kwargs: Any) -> Any:
            result = super().set_timesteps(*args, **kwargs)
            engine = self.__dict__.get(_ENGINE)
            if engine is not None and engine.scheduler is self:
                engine.begin()
            return result

        @functools.wraps(base.step)
        def step(self, *args: Any, **kwargs: Any) -> Any:
            engine = self.__dict__.get(_ENGINE)
            original = super().step
            if engine is None or engine.scheduler is not self:
                return original(*args, **kwargs)
            return engine.step(original, _by_name(signature, *args, **kwargs))

        def __reduce_ex__(self, protocol: Any) -> Any:
            state = {name: value for name, value in self.__dict__.items() if name != _ENGINE}
            return _rebuild, (base, state)

    # Pipelines write the scheduler's class into model_index.json: keep the original's name.
    Hooked.__name__, Hooked.__qualname__ = base.__name__, base.__qualname__
    Hooked.__module__ = base.__module__
    _subclasses[base] = Hooked
    return Hooked


def is_hooked(scheduler: Any) -> bool:
    """Whether a scheduler hands its steps to an engine."""
    return _ENGINE in vars(scheduler)


def swap_class(scheduler: Any, engine: Engine) -> None:
    """Make `scheduler` hand its steps to `engine`."""
    if is_hooked(scheduler):
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
