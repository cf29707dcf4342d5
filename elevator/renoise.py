r"""Re-noising rules: what becomes of the next noisy latent when a hook changed the clean estimate.

By default the host's solver finishes its step from the changed estimate. The papers do otherwise,
each in its own way; the rules are not interchangeable, so each has a name and is bound to the hook
that needs it.

| rule | next latent | used by |
|---|---|---|
| none | the host's solver | `chain`, `at`, ... |
| `KeepNoise` | $\alpha' c' + \sigma' n$, with the host's predicted noise | Upscale-A-Video |
| `FreshNoise` | $\alpha' c' + \sigma' \eta$, with new noise, shared or not | SDEdit |
| `FreshKnown` (in `elevator.samplers`) | the same where known, else the host's | RePaint |
| `DDIMInversion` (in `elevator.samplers`) | DDIM inversion of $c'$ | VideoElevator |
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, final

from elevator.hook import Hook, Host, Run, Step, parts
from elevator.latent import Latent
from elevator.noise import Key
from elevator.papers import SDEDIT, UPSCALE_A_VIDEO

__all__ = ["FreshNoise", "KeepNoise", "Renoise", "renoise", "renoise_conflicts", "rules"]

S = TypeVar("S")


class Renoise(ABC, Generic[S]):
    """A rule bound to one hook by `renoise(hook, rule)`; a final, frozen dataclass."""

    paper: ClassVar[str | None] = None

    def init(self, run: Run) -> S:
        """Make the state of a run."""
        return ()  # type: ignore[return-value]

    @abstractmethod
    def update(
        self, clean: Latent | None, proposed: Latent, step: Step, state: S
    ) -> tuple[Latent, S]:
        """The next noisy latent; `proposed` itself where the rule has nothing to say.

        Runs at every step.

        Args:
            clean: this step's clean estimate after all hooks where the rule's own hook changed
                it, else None.
            proposed: the latent at `step.next` that the host's solver made.
            step: the sampling step.
            state: what `init` or the last `update` returned.
        """

    def check(self, host: Host) -> Iterable[str]:
        """Plain sentences, each with its remedy, on why this rule cannot run on `host`."""
        return ()

    def claims(self, acts_at: frozenset[int], steps: int) -> frozenset[int]:
        """Steps whose next latent the rule may replace, given where its hook may act."""
        return acts_at


class _State(NamedTuple):
    hook: Any
    rule: Any
    changed: bool


@final
@dataclass(frozen=True)
class _Renoised(Hook[_State]):
    hook: Hook[Any]
    rule: Renoise[Any]

    def __repr__(self) -> str:
        return f"renoise({self.hook!r}, {self.rule!r})"

    def inner(self) -> tuple[Hook[Any], ...]:
        return (self.hook,)

    def init(self, run: Run) -> _State:
        return _State(self.hook.init(run), self.rule.init(run), changed=False)

    def update(self, clean: Latent, step: Step, state: _State) -> tuple[Latent, _State]:
        changed, own = self.hook.update(clean, step, state.hook)
        return changed, _State(own, state.rule, changed is not clean)

    def finish(
        self, clean: Latent, proposed: Latent, step: Step, state: _State
    ) -> tuple[Latent, _State]:
        latent, rule = self.rule.update(
            clean if state.changed else None, proposed, step, state.rule
        )
        return latent, _State(state.hook, rule, changed=False)

    def acts_at(self, steps: int) -> frozenset[int]:
        return self.hook.acts_at(steps)

    def check(self, host: Host) -> Iterable[str]:
        if any(isinstance(part, _Renoised) for part in parts(self.hook)):
            yield (
                f"{self!r} puts a re-noising rule around a hook that has one already; "
                "bind each rule to its own hook and chain the results"
            )
        if not host.renoisable:
            flow = host.prediction == "flow_prediction"
            better = "FlowMatchEulerDiscreteScheduler" if flow else "DDIMScheduler"
            more = "" if flow else ", clip_sample=False, set_alpha_to_one=False"
            yield (
                f"{type(self.rule).__name__} replaces the latent after a step, which {host.solver} "
                "cannot follow (it keeps a history that cannot be reset, or steps in two halves); "
                "use a first-order or multistep solver: "
                f"pipe.scheduler = {better}.from_config(pipe.scheduler.config{more})"
            )
        yield from self.rule.check(host)


def renoise(hook: Hook[Any], rule: Renoise[Any]) -> Hook[Any]:
    """Bind a re-noising rule to the hook that needs it; the result is a hook.

    Other hooks in a chain may change the clean estimate as well; they do not set the rule off.

    Raises:
        TypeError: `rule` is no rule.
    """
    if not isinstance(rule, Renoise):
        raise TypeError(f"renoise takes a hook and a Renoise rule, got {rule!r} as the rule")
    return _Renoised(hook, rule)


def rules(hook: Hook[Any]) -> tuple[Renoise[Any], ...]:
    """Every re-noising rule bound inside `hook`, outermost first."""
    return tuple(part.rule for part in parts(hook) if isinstance(part, _Renoised))


def _bound(
    hook: Hook[Any], steps: int, where: frozenset[int]
) -> Iterator[tuple[_Renoised, frozenset[int]]]:
    """Every bound rule with the steps its hook may act at, given where `hook` itself may."""
    where &= hook.acts_at(steps)
    if isinstance(hook, _Renoised):
        yield hook, where
    for part in hook.inner():
        yield from _bound(part, steps, where)


def renoise_conflicts(hook: Hook[Any], steps: int) -> Iterable[str]:
    """Steps claimed by two re-noising rules, as sentences; only one thing re-noises at a step."""
    bound = list(_bound(hook, steps, frozenset(range(steps))))
    for position, (one, here) in enumerate(bound):
        for other, there in bound[position + 1 :]:
            both = one.rule.claims(here, steps) & other.rule.claims(there, steps)
            if both:
                yield (
                    f"{type(one.rule).__name__} and {type(other.rule).__name__} both re-noise at "
                    f"steps {sorted(both)}; only one may at a step: confine their hooks with "
                    "at(...) or between(...), or chain the hooks under one rule"
                )


@final
@dataclass(frozen=True)
class KeepNoise(Renoise[tuple[()]]):
    r"""Keep the host's predicted noise: $x' = \alpha' c' + \sigma' n$.

    Deterministic. With DDIM at eta = 0 the host's solver would re-derive the noise from the
    changed estimate instead, which undoes part of the change
    (Upscale-A-Video, arXiv 2312.06640, section 3.3).
    """

    paper: ClassVar[str | None] = UPSCALE_A_VIDEO

    def update(
        self, clean: Latent | None, proposed: Latent, step: Step, state: tuple[()]
    ) -> tuple[Latent, tuple[()]]:
        """Re-noise where the hook changed the estimate."""
        if clean is None:
            return proposed, state
        return step.next.alpha * clean + step.next.sigma * step.predicted.noise, state


@final
@dataclass(frozen=True)
class FreshNoise(Renoise[tuple[()]]):
    r"""Draw new noise: $x' = \alpha' c' + \sigma' \eta$, with $\eta \sim N(0, I)$.

    As in SDEdit (Meng et al. 2022, arXiv 2108.01073). Frames that an image model paints on from
    noise of their own part again; with a weight $a$ they have a part of it in common, as in
    `samplers.mixed_noise`:

    $$\eta_i = (a\, \eta_0 + \epsilon_i) / \sqrt{1 + a^2} .$$

    Attributes:
        shared: the weight, from 0 (none) to `math.inf` (all frames get the same noise). The common
            part is the same for every window and chunk of a long clip.

    Raises:
        ValueError: a negative weight.
    """

    shared: float = 0.0

    paper: ClassVar[str | None] = SDEDIT

    def __post_init__(self) -> None:
        """Check the weight."""
        if not self.shared >= 0:
            raise ValueError(
                f"FreshNoise shared={self.shared!r} is no weight; give a number from 0 (frames "
                "have noise of their own) to math.inf (all have the same)"
            )

    def update(
        self, clean: Latent | None, proposed: Latent, step: Step, state: tuple[()]
    ) -> tuple[Latent, tuple[()]]:
        """Re-noise where the hook changed the estimate."""
        if clean is None:
            return proposed, state
        return step.next.alpha * clean + step.next.sigma * self._noise(step), state

    def _noise(self, step: Step) -> Latent:
        if self.shared == 0:
            return step.draw("renoise")
        clips, channels, _, height, width = step.run.shape
        key = Key(step.index, step.place, "renoise shared")  # of no frame
        still = step.run.noise(key, (clips, channels, 1, height, width), step.run.device)
        if math.isinf(self.shared):
            return still
        return (self.shared * still + step.draw("renoise")) / math.hypot(1, self.shared)
