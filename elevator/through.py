r"""Hooks that work on another model's latents: there, changed, and back.

With $E, D$ an autoencoder's two halves, here and there, a hook $h$ is applied as

$$c' = E_\text{here}(D_\text{there}(h(E_\text{there}(D_\text{here}(c))))) .$$

What a round trip loses is lost once at every step where the hook acts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.errors import HookError
from elevator.hook import Hook, Host, Run, Step
from elevator.latent import Latent
from elevator.level import Prediction
from elevator.renoise import rules

__all__ = ["Bridge", "Other", "Shape", "through"]

Shape: TypeAlias = tuple[int, int, int, int, int]
Other: TypeAlias = Float[Tensor, "B C F H W"]
"""Latents of the model at the other side."""


@runtime_checkable
class Bridge(Protocol):
    """A way between the clean latents of two models."""

    def across(self, latent: Latent) -> Other:
        """From here to there; on meta tensors, only its shape."""
        ...

    def back(self, latent: Latent) -> Other:
        """From there to here; on meta tensors, only its shape."""
        ...

    def shape_across(self, shape: Shape) -> Shape:
        """The shape there of latents of a shape here."""
        ...

    def pictures_across(self, pictures: int) -> int:
        """Pictures of a latent frame there, from those of one here."""
        ...

    def check(self, frames: int | None) -> Iterable[str]:
        """Plain sentences, each with its remedy, on why clips of so many frames cannot cross."""
        ...


@final
@dataclass(frozen=True)
class _Through(Hook[Any]):
    bridge: Bridge
    hook: Hook[Any]

    def __repr__(self) -> str:
        return f"through({self.bridge!r}, {self.hook!r})"

    def inner(self) -> tuple[Hook[Any], ...]:
        return (self.hook,)

    def _run(self, run: Run) -> Run:
        shape, pictures = (
            self.bridge.shape_across(run.shape),
            self.bridge.pictures_across(run.pictures),
        )
        return replace(run, shape=shape, pictures=pictures)

    def init(self, run: Run) -> Any:
        return self.hook.init(self._run(run))

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        if step.index not in self.hook.acts_at(len(step.run.schedule)):
            return clean, state
        there = self.bridge.across(clean)
        # Noise does not cross: a hook that looks at it gets tensors without data.
        unseen = torch.empty_like(there, device="meta")
        seen = replace(
            step,
            run=self._run(step.run),
            noisy=unseen,
            predicted=Prediction(there, unseen),
            conditional=_nothing,
        )
        changed, state = self.hook.update(there, seen, state)
        if changed is there:
            return clean, state
        if changed.is_meta and not clean.is_meta:
            raise HookError(
                f"{self.hook!r} looks at the noise of a step, which does not cross {self.bridge!r};"
                " only hooks of the clean estimate and their own noise work there"
            )
        return self.bridge.back(changed), state

    def host_within(self, host: Host) -> Host:
        frames = host.frames
        if frames is not None:
            _, _, frames, _, _ = self.bridge.shape_across((1, 1, frames, 64, 64))
        return replace(host, frames=frames, clips=False)

    def check(self, host: Host) -> Iterable[str]:
        yield from self.bridge.check(host.frames)

    def acts_at(self, steps: int) -> frozenset[int]:
        return self.hook.acts_at(steps)


def _nothing() -> None:
    return None


def through(bridge: Bridge, hook: Hook[Any]) -> Hook[Any]:
    """Apply `hook` to the clean estimate as another model's autoencoder has it.

    The hook sees clean latents, levels and noise of its own; the host's noisy latent and noise stay
    here. It is asked only at steps where it may change something (`acts_at`), since crossing costs;
    hooks that only look belong outside, and so do re-noising rules:
    `renoise(through(bridge, hook), rule)`.

    Args:
        bridge: the way there and back, such as `el.bridge(t2i, t2v)`.
        hook: any hook without a re-noising rule, such as `SDEdit` with the other model.

    Raises:
        TypeError: `hook` is no hook.
        ValueError: there is a rule inside `hook`.
    """
    if not isinstance(hook, Hook):
        raise TypeError(f"through takes a hook, got {hook!r}; lift a function with stateless(fn)")
    if list(rules(hook)):
        raise ValueError(
            f"{hook!r} holds a re-noising rule, which works on the host's own latents; write "
            "renoise(through(bridge, hook), rule)"
        )
    return _Through(bridge, hook)
