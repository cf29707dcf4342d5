"""Combinators: hooks made of hooks. With `renoise`, these are the whole algebra."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, final

import torch

from elevator.hook import Hook, Host, Run, Step
from elevator.latent import Latent

__all__ = ["Wrapper", "at", "between", "blend", "chain", "every", "identity", "stateless", "when"]

AnyHook = Hook[Any]
States = tuple[Any, ...]


@final
@dataclass(frozen=True)
class _Chain(Hook[States]):
    hooks: tuple[AnyHook, ...]

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.hooks))})" if self.hooks else "identity()"

    def inner(self) -> tuple[AnyHook, ...]:
        return self.hooks

    def init(self, run: Run) -> States:
        return tuple(hook.init(run) for hook in self.hooks)

    def update(self, clean: Latent, step: Step, state: States) -> tuple[Latent, States]:
        states = []
        for position, (hook, own) in enumerate(zip(self.hooks, state, strict=True)):
            clean, own = hook.update(clean, step.within(position), own)
            states.append(own)
        return clean, tuple(states)

    def finish(
        self, clean: Latent, proposed: Latent, step: Step, state: States
    ) -> tuple[Latent, States]:
        states = []
        for position, (hook, own) in enumerate(zip(self.hooks, state, strict=True)):
            proposed, own = hook.finish(clean, proposed, step.within(position), own)
            states.append(own)
        return proposed, tuple(states)

    def acts_at(self, steps: int) -> frozenset[int]:
        return frozenset[int]().union(*(hook.acts_at(steps) for hook in self.hooks))


def _require_hook(name: str, hook: object) -> None:
    if not isinstance(hook, Hook):
        raise TypeError(
            f"{name} takes hooks, got {hook!r}; lift a plain function with stateless(fn)"
        )


def identity() -> AnyHook:
    """The hook that changes nothing, the neutral element of `chain`."""
    return _Chain(())


def chain(*hooks: AnyHook) -> AnyHook:
    """Apply hooks one after another; a chain is a hook.

    Nested chains are flattened and identities dropped, so `chain(a, chain(b, c))` equals
    `chain(chain(a, b), c)` and `chain(identity(), h)` is `h`, in noise as in value.
    """
    flat: list[AnyHook] = []
    for hook in hooks:
        _require_hook("chain", hook)
        flat.extend(hook.hooks if isinstance(hook, _Chain) else (hook,))
    return flat[0] if len(flat) == 1 else _Chain(tuple(flat))


@dataclass(frozen=True)
class Wrapper(Hook[Any]):
    """Base of hooks around one hook: all but `update`, which a subclass gives, is that hook's.

    For example:

        @final
        @dataclass(frozen=True)
        class Halved(Wrapper):
            def update(self, clean, step, state):
                changed, state = self.hook.update(clean, step, state)
                return (clean + changed) / 2, state

    Attributes:
        hook: any hook.

    Raises:
        TypeError: `hook` is no hook.
    """

    hook: AnyHook

    def __post_init__(self) -> None:
        _require_hook(type(self).__name__, self.hook)

    def inner(self) -> tuple[AnyHook, ...]:
        """The hook inside."""
        return (self.hook,)

    def init(self, run: Run) -> Any:
        """The state of the hook inside."""
        return self.hook.init(run)

    def finish(self, clean: Latent, proposed: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        """As the hook inside does."""
        return self.hook.finish(clean, proposed, step, state)

    def acts_at(self, steps: int) -> frozenset[int]:
        """Where the hook inside does."""
        return self.hook.acts_at(steps)


@final
@dataclass(frozen=True)
class _At(Wrapper):
    steps: frozenset[int] = field(default_factory=frozenset)

    def __repr__(self) -> str:
        listed = ", ".join(map(str, sorted(self.steps)))
        return f"at({{{listed}}}, {self.hook!r})" if self.steps else f"at(set(), {self.hook!r})"

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        if step.index in self.steps:
            return self.hook.update(clean, step, state)
        return clean, state

    def acts_at(self, steps: int) -> frozenset[int]:
        return self.steps & self.hook.acts_at(steps)

    def check(self, host: Host) -> Iterable[str]:
        if host.steps is None:
            return
        outside = sorted(index for index in self.steps if index >= host.steps)
        if outside:
            yield (
                f"at(...) names steps {outside}, but the run has {host.steps} "
                f"(0 to {host.steps - 1}); drop them or raise num_inference_steps"
            )


def at(steps: Iterable[int], hook: AnyHook) -> AnyHook:
    """Apply `hook` at the given step indices only (0 = noisiest).

    Raises:
        ValueError: a negative index. Indices beyond the run are told by `check` and `attach`.
        TypeError: `hook` is no hook.
    """
    _require_hook("at", hook)
    chosen = frozenset(steps)
    if any(not isinstance(index, Integral) or index < 0 for index in chosen):
        listed = sorted(chosen, key=str)
        raise ValueError(f"at takes step indices from 0 (noisiest) up, got {listed}")
    return _At(hook, chosen)


@final
@dataclass(frozen=True)
class _Between(Wrapper):
    start: int | float = 0
    stop: int | float = 1.0

    def __repr__(self) -> str:
        return f"between({self.start!r}, {self.stop!r}, {self.hook!r})"

    def _range(self, steps: int) -> range:
        first, last = (
            bound if isinstance(bound, int) else round(bound * steps)
            for bound in (self.start, self.stop)
        )
        return range(first, min(last, steps))

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        if step.index in self._range(len(step.run.schedule)):
            return self.hook.update(clean, step, state)
        return clean, state

    def acts_at(self, steps: int) -> frozenset[int]:
        return frozenset(self._range(steps)) & self.hook.acts_at(steps)


def between(start: int | float, stop: int | float, hook: AnyHook) -> AnyHook:
    """Apply `hook` from step `start` up to, not including, step `stop`.

    An `int` is a step index; a `float` in [0, 1] a fraction of the run (0.0 = noisiest end).

    Raises:
        ValueError: a bound below 0, or a fraction above 1.
        TypeError: `hook` is no hook.
    """
    _require_hook("between", hook)
    for bound in (start, stop):
        if bound < 0 or (isinstance(bound, float) and bound > 1):
            raise ValueError(
                "between takes step indices (int >= 0) or fractions (float in [0, 1]), "
                f"got {bound!r}"
            )
    return _Between(hook, start, stop)


@final
@dataclass(frozen=True)
class _Every(Wrapper):
    period: int = 1
    offset: int = 0

    def __repr__(self) -> str:
        return f"every({self.period}, {self.hook!r}, offset={self.offset})"

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        if step.index % self.period == self.offset:
            return self.hook.update(clean, step, state)
        return clean, state

    def acts_at(self, steps: int) -> frozenset[int]:
        return frozenset(range(self.offset, steps, self.period)) & self.hook.acts_at(steps)


def every(period: int, hook: AnyHook, offset: int = 0) -> AnyHook:
    """Apply `hook` at steps `offset`, `offset + period`, `offset + 2 * period`, ...

    Raises:
        ValueError: a period below 1, or an offset out of [0, period).
        TypeError: `hook` is no hook.
    """
    _require_hook("every", hook)
    if period < 1 or not 0 <= offset < period:
        raise ValueError(
            f"every needs period >= 1 and 0 <= offset < period, got {period}, {offset}"
        )
    return _Every(hook, period, offset)


@final
@dataclass(frozen=True)
class _When(Wrapper):
    condition: Callable[[Step], bool] = bool

    def __repr__(self) -> str:
        return f"when({_name(self.condition)}, {self.hook!r})"

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        if self.condition(step):
            return self.hook.update(clean, step, state)
        return clean, state


def when(condition: Callable[[Step], bool], hook: AnyHook) -> AnyHook:
    """Apply `hook` at the steps where `condition(step)` is true."""
    _require_hook("when", hook)
    return _When(hook, condition)


@final
@dataclass(frozen=True)
class _Blend(Wrapper):
    weight: float | Callable[[Step], float] = 1.0

    def __repr__(self) -> str:
        weight = _name(self.weight) if callable(self.weight) else repr(self.weight)
        return f"blend({weight}, {self.hook!r})"

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        weight = self.weight(step) if callable(self.weight) else self.weight
        if weight == 0:
            return clean, state
        changed, state = self.hook.update(clean, step, state)
        if changed is clean or weight == 1:
            return changed, state
        return torch.lerp(clean, changed, weight), state

    def acts_at(self, steps: int) -> frozenset[int]:
        return frozenset() if self.weight == 0 else self.hook.acts_at(steps)


def blend(weight: float | Callable[[Step], float], hook: AnyHook) -> AnyHook:
    """Go only part of the way: `clean + weight * (hook(clean) - clean)`.

    Args:
        weight: 0 leaves the estimate alone (the hook is not even called), 1 is the hook itself,
            above 1 exaggerates; or a function of the step.
        hook: any hook.

    Raises:
        ValueError: a weight that is not finite.
        TypeError: `hook` is no hook.
    """
    _require_hook("blend", hook)
    if not callable(weight) and not math.isfinite(weight):
        raise ValueError(f"blend takes a finite weight or a function of the step, got {weight!r}")
    return _Blend(hook, weight)


@final
@dataclass(frozen=True)
class _Stateless(Hook[tuple[()]]):
    function: Callable[[Latent, Step], Latent]

    def __repr__(self) -> str:
        return f"stateless({_name(self.function)})"

    def update(self, clean: Latent, step: Step, state: tuple[()]) -> tuple[Latent, tuple[()]]:
        return self.function(clean, step), state


def stateless(function: Callable[[Latent, Step], Latent]) -> AnyHook:
    """Lift a plain function `(clean, step) -> clean` to a hook.

    Raises:
        TypeError: `function` cannot be called.
    """
    if not callable(function):
        raise TypeError(f"stateless takes a function (clean, step) -> clean, got {function!r}")
    return _Stateless(function)


def _name(function: object) -> str:
    return getattr(function, "__qualname__", repr(function))
