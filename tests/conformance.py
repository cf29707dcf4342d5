"""The hooks `test_conformance.py` puts through its checks: a new hook adds a line to `CASES`."""

import atexit
import functools
import math
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from elevator.combine import at, between, blend, chain, every, identity, stateless, when
from elevator.filters import (
    DIS,
    Clamp,
    DynamicThreshold,
    Flow,
    KeepColours,
    KeepDetail,
    LowPass,
    MotionAverage,
    Propagate,
)
from elevator.hook import Hook, Run, Step
from elevator.hosts.codec import SameSpace
from elevator.latent import Latent
from elevator.preview import ContactSheet, Preview
from elevator.renoise import FreshNoise, KeepNoise, renoise
from elevator.samplers import LCM, DDIMInversion, FreshKnown, Known, SDEdit
from elevator.through import through
from tests.builders import FakeDenoiser, make_latent, tiny_sd

__all__ = ["CASES", "Case", "Drift", "Jitter", "Trail"]

AnyHook = Hook[Any]

# --- what hooks are given that only tests need ------------------------------------------------


@dataclass(frozen=True)
class Tinted:
    """An autoencoder whose frames are three channels of the latents, from -1 to 1."""

    def decode(self, latents: Latent) -> Tensor:
        return latents[:, :3].tanh()

    def encode(self, frames: Tensor) -> Latent:
        return torch.cat([frames, frames.mean(1, keepdim=True)], 1)


# --- hooks that only tests need -------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Drift(Hook[tuple[()]]):
    """Adds a constant: the simplest hook that changes something."""

    by: float = 0.25

    def update(self, clean: Latent, step: Step, state: tuple[()]) -> tuple[Latent, tuple[()]]:
        return (clean + self.by, state) if self.by else (clean, state)


@final
@dataclass(frozen=True)
class Trail(Hook[Tensor | None]):
    """Moves towards the estimate of the last step it was called at: a hook with a state."""

    weight: float = 0.5

    def init(self, run: Run) -> Tensor | None:
        return None

    def update(
        self, clean: Latent, step: Step, state: Tensor | None
    ) -> tuple[Latent, Tensor | None]:
        return (clean if state is None else torch.lerp(clean, state, self.weight)), clean


@final
@dataclass(frozen=True)
class Jitter(Hook[tuple[()]]):
    """Adds noise: a hook that draws."""

    by: float = 0.5

    def update(self, clean: Latent, step: Step, state: tuple[()]) -> tuple[Latent, tuple[()]]:
        return clean + self.by * step.draw("jitter"), state


@final
@dataclass(frozen=True)
class PerClip(Hook[Any]):
    """For a hook that is given something of one clip: the one for as many frames as a run has."""

    build: Callable[[int], AnyHook] = field(repr=False)

    def init(self, run: Run) -> Any:
        return self.build(run.shape[2]).init(run)

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        return self.build(step.run.shape[2]).update(clean, step, state)

    def inner(self) -> tuple[AnyHook, ...]:
        return (self.build(2),)


def early(step: Step) -> bool:
    """The condition of the `when` case."""
    return step.index < 3


def never(step: Step) -> bool:
    """A condition that makes `when` neutral."""
    return False


def soften(clean: Latent, step: Step) -> Latent:
    """The function of the `stateless` case."""
    return 0.9 * clean


def unchanged(clean: Latent, step: Step) -> Latent:
    """A function that makes `stateless` neutral."""
    return clean


# Known latents that fit runs of any shape: one pixel that repeats.
KNOWN = make_latent((1, 4, 1, 1, 1), 11)
PARTLY, NOWHERE = torch.tensor([[0.0], [0.5], [1.0], [1.0]])[..., None, None], torch.zeros(1)


def _known() -> Known:
    return Known(KNOWN, PARTLY)


def moving(frames: int) -> Flow:
    """A motion that half of a frame does not follow."""
    there = 0.7 * torch.ones(1, 2, frames - 1, 6, 4)
    back = -there
    back[..., 2:] = 1.0
    return Flow(there, back)


@functools.cache
def propagate(frames: int, **given: Any) -> Propagate:
    """What the `Propagate` cases are made of."""
    return Propagate(moving(frames), **given)


@functools.cache
def propagate_later(frames: int, **given: Any) -> Propagate:
    """The same, of flow that comes out of another thread."""
    flow: Future[Flow] = Future()
    threading.Timer(0.01, lambda: flow.set_result(moving(frames))).start()
    return Propagate(flow, **given)


propagate_off = functools.partial(propagate, fuse=0.0)
propagate_later_off = functools.partial(propagate_later, fuse=0.0)
propagate_blurred = functools.partial(propagate, fuse=0.3, alpha2=0.5, mode="bilinear")


def glance(clean: Latent, step: Step) -> None:
    """What the `Preview` case looks with: it writes into what it is given, and draws noise."""
    clean.copy_(torch.rand_like(clean))


def first_channels(latents: Latent) -> Tensor:
    """What the `ContactSheet` case decodes with."""
    return latents[:, :3].transpose(1, 2).sigmoid()


def _sheet() -> ContactSheet:
    return ContactSheet(_FOLDER / "preview.png", first_channels, columns=2, side=8)


_FOLDER = Path(tempfile.mkdtemp(prefix="elevator-"))
atexit.register(shutil.rmtree, _FOLDER)


# --- cases ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One hook to put through the checks.

    Attributes:
        name: shown with each test.
        make: builds the hook; called twice, it must build equal hooks.
        neutral: builds the hook with the parameters at which it does nothing, if it has any.
        speaks: whether `repr` evaluates back: no network, function or tensor inside.
        draws: whether the hook uses noise.
        pipeline: builds the pipeline it is attached to.
        frames: given to `attach` (None where the pipeline tells).
    """

    name: str
    make: Callable[[], AnyHook]
    neutral: Callable[[], AnyHook] | None = None
    speaks: bool = True
    draws: bool = False
    pipeline: Callable[[], Any] = tiny_sd
    frames: int | None = 3


def _lowpass() -> AnyHook:
    return LowPass("gaussian", spatial=1.0, temporal=0.4)


def _off() -> AnyHook:
    return LowPass("gaussian", temporal=None)


CASES: list[Case] = [
    *(
        Case(
            f"LowPass-{kind}",
            functools.partial(LowPass, kind, temporal=0.4, spatial=0.5, order=3),
            functools.partial(LowPass, kind, temporal=None),
        )
        for kind in ("gaussian", "butterworth", "ideal", "box")
    ),
    *(
        Case(
            f"LowPass-{kind}-freeinit",
            functools.partial(LowPass, kind, temporal=0.4, spatial=0.5, convention="freeinit"),
        )
        for kind in ("gaussian", "butterworth", "ideal", "box")
    ),
    Case("LowPass-temporal", lambda: LowPass(temporal=0.25), _off),
    Case("LowPass-fps", lambda: LowPass(temporal=2.0, fps=8.0), _off),
    Case("LowPass-spatial", lambda: LowPass(temporal=None, spatial=0.25), _off),
    Case("LowPass-mean", lambda: LowPass("box", temporal=0.0), _off),
    Case("Clamp", lambda: Clamp(-0.5, 0.5), Clamp),
    Case(
        "Clamp-channels",
        lambda: Clamp(high=(0.2, 0.4, 0.6, 0.8)),
        lambda: Clamp((-1e6, -1e5, -1e6, -1e6), 1e6),
    ),
    Case("DynamicThreshold", lambda: DynamicThreshold(0.5), lambda: DynamicThreshold(1e6)),
    Case(
        "DynamicThreshold-cut",
        lambda: DynamicThreshold((0.2, 0.4, 0.6, 0.8), 0.9, rescale=False),
        lambda: DynamicThreshold(math.inf, rescale=False),
    ),
    Case("KeepColours", lambda: KeepColours(Trail()), lambda: KeepColours(_off())),
    Case(
        "KeepDetail",
        lambda: KeepDetail(Trail(), LowPass(temporal=None, spatial=0.5)),
        lambda: KeepDetail(_off(), LowPass(temporal=None, spatial=0.5)),
    ),
    Case(
        "MotionAverage",
        lambda: MotionAverage(Tinted(), DIS("fast"), blur=1.0),
        lambda: MotionAverage(Tinted(), reach=0),
        speaks=False,
    ),
    Case("Propagate", lambda: PerClip(propagate), lambda: PerClip(propagate_off), speaks=False),
    Case(
        "Propagate-future",
        lambda: PerClip(propagate_later),
        lambda: PerClip(propagate_later_off),
        speaks=False,
    ),
    Case(
        "Propagate-KeepNoise",
        lambda: renoise(at({1, 3}, PerClip(propagate_blurred)), KeepNoise()),
        lambda: renoise(PerClip(propagate_off), KeepNoise()),
        speaks=False,
    ),
    Case("identity", identity, identity),
    Case(
        "chain",
        lambda: chain(_lowpass(), Trail(), Jitter()),
        lambda: chain(_off(), identity(), _off()),
        draws=True,
    ),
    Case("at", lambda: at({0, 2, 5}, Trail()), lambda: at((), Trail())),
    Case("between", lambda: between(1, 4, Trail()), lambda: between(2, 2, Trail())),
    Case("between-fractions", lambda: between(0.2, 0.9, Jitter()), draws=True),
    Case("every", lambda: every(2, Trail(), offset=1), lambda: every(2, _off())),
    Case("when", lambda: when(early, Trail()), lambda: when(never, Trail()), speaks=False),
    Case("blend", lambda: blend(0.3, Trail()), lambda: blend(0.0, Jitter())),
    Case("stateless", lambda: stateless(soften), lambda: stateless(unchanged), speaks=False),
    Case(
        "KeepNoise",
        lambda: renoise(at({1, 3}, _lowpass()), KeepNoise()),
        lambda: renoise(_off(), KeepNoise()),
    ),
    Case(
        "FreshNoise",
        lambda: renoise(at({1, 3}, _lowpass()), FreshNoise()),
        lambda: renoise(_off(), FreshNoise()),
        draws=True,
    ),
    Case(
        "SDEdit",
        lambda: at({1, 3}, SDEdit(FakeDenoiser(), steps=3)),
        lambda: SDEdit(FakeDenoiser(), steps=0),
        draws=True,
    ),
    Case(
        "SDEdit-LCM-snr",
        lambda: at({2}, SDEdit(FakeDenoiser(), steps=2, solver=LCM(), match="snr")),
        draws=True,
    ),
    Case(
        "DDIMInversion",
        lambda: renoise(at({1, 3}, _lowpass()), DDIMInversion(FakeDenoiser())),
        lambda: renoise(_off(), DDIMInversion(FakeDenoiser())),
    ),
    Case(
        "DDIMInversion-own-levels",
        lambda: renoise(
            at({1, 3}, _lowpass()), DDIMInversion(FakeDenoiser(), stride=3, told="own")
        ),
    ),
    Case(
        "DDIMInversion-corrected",
        lambda: renoise(
            at({1, 3}, chain(_lowpass(), SDEdit(FakeDenoiser(), steps=2))),
            DDIMInversion(invert=FakeDenoiser(), correct=FakeDenoiser()),
        ),
        lambda: renoise(_off(), DDIMInversion(invert=FakeDenoiser(), correct=FakeDenoiser())),
        draws=True,
    ),
    Case("Known", _known, lambda: Known(KNOWN, NOWHERE), speaks=False),
    Case(
        "Known-frames",
        lambda: at({0, 2, 4}, Known(KNOWN, frames=(0, -1))),
        lambda: Known(KNOWN, frames=()),
        speaks=False,
    ),
    Case(
        "FreshKnown",
        lambda: renoise(_known(), FreshKnown(_known())),
        lambda: renoise(Known(KNOWN, NOWHERE), FreshKnown(Known(KNOWN, NOWHERE))),
        speaks=False,
        draws=True,
    ),
    Case("Preview", lambda: Preview(glance), lambda: Preview(glance), speaks=False),
    Case("ContactSheet", _sheet, lambda: every(2, _sheet()), speaks=False),
    Case(
        "through",
        lambda: at({1, 3}, through(SameSpace(), Jitter())),
        lambda: through(SameSpace(), _off()),
        speaks=False,
        draws=True,
    ),
    Case(
        "nested",
        lambda: chain(
            Jitter(0.1),
            at({0, 1, 4}, chain(renoise(blend(0.5, Trail()), FreshNoise()), Jitter(0.2))),
        ),
        draws=True,
    ),
]
