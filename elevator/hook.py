"""The one idea: a sampling-step hook is a map from clean latents to clean latents.

A hook is a frozen configuration. Its state is a value: `init` makes it at the run's first step,
`update` returns it, the run drops it; nothing is ever reset. Returning the very same object means
"unchanged", and the host then takes its own, untouched step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch

from elevator.latent import Latent
from elevator.level import Level, Parametrisation, Prediction
from elevator.noise import Key, Noise
from elevator.schedule import Schedule

__all__ = ["Hook", "Host", "Run", "Step", "parts"]

S = TypeVar("S")


@dataclass(frozen=True)
class Host:
    """What a hook is attached to, known before anything runs.

    Attributes:
        solver: class name of the host's scheduler.
        order: network calls per step (2 for Heun and KDPM2).
        prediction: what the host's network predicts.
        frames: latent frames of the clip, if known.
        steps: sampling steps of the run, None until it begins.
        renoisable: whether the solver can follow when its latent is replaced.
        clips: whether the solver clips or thresholds the clean estimate.
    """

    solver: str
    order: int
    prediction: Parametrisation
    frames: int | None = None
    steps: int | None = None
    renoisable: bool = True
    clips: bool = False


@dataclass(frozen=True)
class Run:
    """Facts of one sampling run.

    Attributes:
        schedule: the noise levels the host walks through.
        shape: (b, c, f, h, w) of the latents every hook sees.
        device: where the latents are.
        dtype: dtype of the host's latents; hooks themselves see float32.
        noise: the source of every random draw.
        first_frame: absolute index of the first frame (chunks of a long clip count on).
        pictures: pictures a latent frame after the first stands for; more than 1 where the
            autoencoder is a causal one of videos.
    """

    schedule: Schedule
    shape: tuple[int, int, int, int, int]
    device: torch.device
    dtype: torch.dtype
    noise: Noise
    first_frame: int = 0
    pictures: int = 1


def _no_conditional() -> Prediction | None:
    return None


@dataclass(frozen=True)
class Step:
    """One sampling step, as a hook sees it.

    Attributes:
        run: facts of the run.
        index: 0 for the noisiest step; both calls of a second-order solver share it.
        noisy: the latent the step starts from, at `level`.
        predicted: the host's prediction before any hook.
        level: noise level of `noisy`.
        next: noise level the step ends at.
        options: arguments the pipeline gave to the host's step (`eta`, ...).
        place: position of the hook in nested chains, for keyed noise.
        conditional: gives the unguided prediction for the host's prompt where it can be read off
            the host's own network call, else None.
    """

    run: Run
    index: int
    noisy: Latent
    predicted: Prediction
    level: Level
    next: Level
    options: Mapping[str, Any] = field(default_factory=dict)
    place: tuple[int, ...] = ()
    conditional: Callable[[], Prediction | None] = _no_conditional

    def draw(self, name: str = "noise") -> Latent:
        """Standard normal noise of the run's shape, the same for the same name, step and place."""
        key = Key(self.index, self.place, name, self.run.first_frame)
        return self.run.noise(key, self.run.shape, self.run.device)

    def within(self, position: int) -> "Step":
        """The same step, seen from part `position` of a chain."""
        return replace(self, place=(*self.place, position))


class Hook(ABC, Generic[S]):
    """A map from clean latents to clean latents. Subclasses are final, frozen dataclasses.

    Only `update` is required. `finish` is for combinators that carry a re-noising rule.
    """

    paper: ClassVar[str | None] = None
    """BibTeX entry of the paper the hook implements, for `el.cite`."""

    def init(self, run: Run) -> S:
        """Make the state of a run, when its shapes are known. Must not draw global noise."""
        return ()  # type: ignore[return-value]

    @abstractmethod
    def update(self, clean: Latent, step: Step, state: S) -> tuple[Latent, S]:
        """Map a clean estimate to a clean estimate; the same object means unchanged.

        Args:
            clean: clean latents, float32, `b c f h w`; never to be written into.
            step: the sampling step.
            state: what `init` or the last `update` returned.
        """

    def finish(self, clean: Latent, proposed: Latent, step: Step, state: S) -> tuple[Latent, S]:
        """Replace the next noisy latent, or return `proposed` itself to leave it.

        Args:
            clean: the clean estimate of this step after every hook.
            proposed: the latent at `step.next` that the host's solver made from `clean`.
            step: the sampling step.
            state: what `update` returned in this step, or the last state where it was not called.
        """
        return proposed, state

    def inner(self) -> tuple["Hook[Any]", ...]:
        """The hooks this one is made of."""
        return ()

    def host_within(self, host: Host) -> Host:
        """The host as the hooks inside see it, for their `check`."""
        return host

    def check(self, host: Host) -> Iterable[str]:
        """Plain sentences, each with its remedy, on why this hook cannot run on `host`."""
        return ()

    def acts_at(self, steps: int) -> frozenset[int]:
        """Step indices, of a run of `steps`, where the clean estimate may be changed."""
        return frozenset(range(steps))


def parts(hook: Hook[Any]) -> Iterator[Hook[Any]]:
    """The hook and every hook inside it, outermost first."""
    yield hook
    for part in hook.inner():
        yield from parts(part)
