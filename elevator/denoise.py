"""A denoiser: any guided model with its schedule, from a noisy latent to a prediction."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol, runtime_checkable

from elevator.latent import Latent
from elevator.level import Level, Prediction
from elevator.schedule import Schedule

__all__ = ["Call", "Denoiser", "count_calls", "record_call"]


@runtime_checkable
class Denoiser(Protocol):
    """A network with its schedule, guidance inside; it knows how many frames share an anchor.

    On meta tensors a denoiser records its network calls (`record_call`) and computes nothing:
    this is how `el.plan` counts.
    """

    @property
    def schedule(self) -> Schedule:
        """Every level the network was trained at, noisiest first."""
        ...

    def walk(self, steps: int) -> Schedule:
        """The levels a run of this many steps visits."""
        ...

    def __call__(self, noisy: Latent, level: Level) -> Prediction:
        """Predict clean latent and noise, float32.

        Args:
            noisy: latents at `(alpha, sigma)` of `level`, in any scale.
            level: the latents' noise level; the network is told its `timestep`, or, where that is
                None, the timestep of equal signal-to-noise ratio.
        """
        ...


class Call(NamedTuple):
    """One call of a network.

    Attributes:
        name: which network, and for what.
        batch: rows given to it (guidance doubles them).
        frames: frames per row (1 for an image network, whose rows are the frames).
    """

    name: str
    batch: int
    frames: int

    @property
    def frame_forwards(self) -> int:
        """Frames the network processes: the unit costs are compared in."""
        return self.batch * self.frames


_ledger: ContextVar[list[Call] | None] = ContextVar("elevator_ledger", default=None)


@contextmanager
def count_calls() -> Iterator[list[Call]]:
    """Collect the network calls recorded inside the `with` block."""
    calls: list[Call] = []
    token = _ledger.set(calls)
    try:
        yield calls
    finally:
        _ledger.reset(token)


def record_call(call: Call) -> None:
    """Note a network call in the innermost `count_calls`, if there is one."""
    calls = _ledger.get()
    if calls is not None:
        calls.append(call)
