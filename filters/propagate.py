r"""Upscale-A-Video's latent propagation: neighbouring frames are carried into each other.

One pass goes backwards through the clip, a second one forwards through its result. Wherever the
flow can be trusted, a frame $c_i$ takes a share of its neighbour $u$, as that pass left it:

$$u_i = M_i \odot \left(\beta\, W(u_{i \pm 1}, f_i) + (1 - \beta)\, c_i\right) +
  (1 - M_i) \odot c_i,$$

with the warp $W$ and the mask $M$ of `elevator.filters.warp`. What one frame shows well so reaches
all that see the same thing, and what flickers between them is averaged away.
"""

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from elevator.errors import CheckError
from elevator.filters.flow import Flow
from elevator.filters.warp import Interpolation, consistent, warp
from elevator.hook import Hook, Host, Run, Step
from elevator.latent import Latent
from elevator.papers import UPSCALE_A_VIDEO

__all__ = ["Propagate"]


class _Pass(NamedTuple):
    """The flow a pass warps along, and where it is trusted, on the grid of the run's latents."""

    flow: Float[Tensor, "b 2 e h w"]
    trusted: Bool[Tensor, "b 1 e h w"]


class _Passes(NamedTuple):
    backward: _Pass
    forward: _Pass


@final
@dataclass(frozen=True, eq=False, repr=False)
class Propagate(Hook[_Passes | None]):
    r"""Carry the clean estimates of neighbouring frames into each other, along their motion.

    Upscale-A-Video uses it at a few steps and keeps the noise the host predicted:

        el.renoise(el.at({24, 26, 28}, Propagate(flow)), el.KeepNoise())

    Flow and latents are of the same frames: a chunk of a long clip takes the flow of that chunk, a
    causal video VAE, whose latent frames are several pictures, the flow between latent frames.
    Flow of another size, such as of the pictures, is resized to the latents'.

    Flow may still be on its way, as the `Future` of an estimate in another thread: the first step
    that propagates waits for it, so that an estimator can work beside the steps before.

        with ThreadPoolExecutor(1) as worker:
            propagate = Propagate(worker.submit(DIS(), frames))

    Neutral: `fuse=0`, and clips of one frame: the very same latent is returned.

    References:
        Upscale-A-Video (Zhou et al. 2024), arXiv 2312.06640, section 3.3, with the mask of its
        published code, whose bound grows with the motion.

    Attributes:
        flow: between the frames of the clip, or a future of it; a batch of 1 stands for every clip.
            Compared by identity.
        fuse: beta in [0, 1], the share of the neighbour; 1 replaces what can be replaced, and a
            clip that stands still ends as copies of its last frame.
        alpha1: squared distance allowed between way there and way back, per squared length of the
            two; see `consistent`.
        alpha2: squared distance in latent pixels allowed anyhow.
        mode: "nearest" carries latents as they are; "bilinear" and "bicubic" mix neighbours, which
            blurs them.

    Raises:
        ValueError: a number out of range, an unknown mode, or flows of two shapes.
        CheckError: flow of another number of frames or clips than the latents have; told as the run
            begins. What comes from a future, and what it raises, is told at the first step that
            propagates.
    """

    flow: Flow | Future[Flow]
    fuse: float = 0.5
    alpha1: float = 0.001
    alpha2: float = 0.05
    mode: Interpolation = "nearest"

    paper: ClassVar[str | None] = UPSCALE_A_VIDEO

    def __post_init__(self) -> None:
        if not isinstance(self.flow, Future):
            _require_flow(self.flow)
        if not 0 <= self.fuse <= 1:
            raise ValueError(
                f"Propagate fuse={self.fuse!r} is no share of the neighbour; give a number from 0 "
                "(nothing) to 1 (all of it), 0.5 as in the paper"
            )
        if not (self.alpha1 >= 0 and self.alpha2 >= 0):
            raise ValueError(
                f"Propagate alpha1={self.alpha1!r}, alpha2={self.alpha2!r} allow no distance; give "
                "numbers from 0 up (0.001 and 0.05 are usual)"
            )
        if self.mode not in get_args(Interpolation):
            raise ValueError(
                f"Propagate mode {self.mode!r} is unknown; choose one of "
                f"{', '.join(get_args(Interpolation))}"
            )

    def __eq__(self, other: object) -> bool:
        """Whether it holds the same flow, not an equal one."""
        return (
            isinstance(other, Propagate)
            and self._flows() == other._flows()
            and self._numbers() == other._numbers()
        )

    def __hash__(self) -> int:
        return hash((*self._flows(), *self._numbers()))

    def __repr__(self) -> str:
        shape = "to come"
        if isinstance(self.flow, Flow):
            shape = "x".join(map(str, self.flow.forward.shape))
        return (
            f"Propagate(<flow {shape}>, fuse={self.fuse!r}, alpha1={self.alpha1!r}, "
            f"alpha2={self.alpha2!r}, mode={self.mode!r})"
        )

    def check(self, host: Host) -> Iterable[str]:
        """Whether the clip, where its length is known, is too short for the flow."""
        # A causal VAE makes fewer latent frames than the clip has: only too many are sure.
        if not isinstance(self.flow, Flow) or host.frames is None:
            return
        if self.flow.forward.shape[2] >= host.frames:
            yield _misfit(self.flow, f"the clip has {host.frames}")

    def init(self, run: Run) -> _Passes | None:
        """See whether the flow fits the latents, where it is there already."""
        if isinstance(self.flow, Flow):
            _require_fit(self.flow, run)
        return None

    def update(
        self, clean: Latent, step: Step, state: _Passes | None
    ) -> tuple[Latent, _Passes | None]:
        """Propagate backwards, then forwards; the first time, wait for the flow and lay it out."""
        if self.fuse == 0 or clean.shape[2] == 1:
            return clean, state
        if state is None:
            state = self._passes(step.run)
        frames = list(clean.unbind(2))
        last = len(frames) - 1
        for i in reversed(range(last)):
            frames[i] = self._fused(frames[i], frames[i + 1], state.backward, i)
        for i in range(last):
            frames[i + 1] = self._fused(frames[i + 1], frames[i], state.forward, i)
        return torch.stack(frames, 2), state

    def acts_at(self, steps: int) -> frozenset[int]:
        """Every step, or none with `fuse=0` or flow that is known to be of one frame."""
        alone = isinstance(self.flow, Flow) and self.flow.forward.shape[2] == 0
        return frozenset() if self.fuse == 0 or alone else frozenset(range(steps))

    def _passes(self, run: Run) -> _Passes:
        """Lay the flow on the latents' grid and see where it is trusted, once for all steps."""
        flow = self.flow
        if isinstance(flow, Future):
            flow = flow.result()
            _require_flow(flow)
            _require_fit(flow, run)
        batch, _, _, height, width = run.shape
        forward, backward = (
            part.to(run.device, torch.float32).expand(batch, -1, -1, -1, -1)
            for part in flow.resize(height, width)
        )
        return _Passes(
            backward=_Pass(forward, consistent(forward, backward, self.alpha1, self.alpha2)),
            forward=_Pass(backward, consistent(backward, forward, self.alpha1, self.alpha2)),
        )

    def _fused(
        self,
        frame: Float[Tensor, "b c h w"],
        neighbour: Float[Tensor, "b c h w"],
        along: _Pass,
        pair: int,
    ) -> Float[Tensor, "b c h w"]:
        carried = warp(neighbour, along.flow[:, :, pair], self.mode)
        fused = self.fuse * carried + (1 - self.fuse) * frame
        return torch.where(along.trusted[:, :, pair], fused, frame)

    def _flows(self) -> tuple[int, ...]:
        parts = (self.flow,) if isinstance(self.flow, Future) else self.flow
        return tuple(id(part) for part in parts)

    def _numbers(self) -> tuple[float, float, float, str]:
        return self.fuse, self.alpha1, self.alpha2, self.mode


def _require_flow(flow: object) -> None:
    if not isinstance(flow, Flow):
        raise ValueError(
            f"Propagate takes a Flow, or a future of one, not a {type(flow).__name__}; write "
            "Flow(forward, backward)"
        )
    forward, backward = flow
    if forward.shape != backward.shape or forward.ndim != 5 or forward.shape[1] != 2:
        raise ValueError(
            "Propagate takes a Flow whose two parts have one shape (b, 2, frames - 1, h, w); "
            f"got {tuple(forward.shape)} and {tuple(backward.shape)}"
        )


def _require_fit(flow: Flow, run: Run) -> None:
    """Refuse flow of other frames, or of another number of clips, than the latents."""
    batch, frames, clips = run.shape[0], run.shape[2], flow.forward.shape[0]
    if flow.forward.shape[2] + 1 != frames:
        raise CheckError([_misfit(flow, f"the latents have {frames}")])
    if clips not in (1, batch):
        raise CheckError(
            [
                f"Propagate was given flow of {clips} clips, but the latents have {batch}; "
                "give one for each, or one for all"
            ]
        )


def _misfit(flow: Flow, fact: str) -> str:
    pairs = flow.forward.shape[2]
    return (
        f"Propagate was given flow of {pairs + 1} frames ({pairs} pairs), but {fact}; estimate "
        "the flow of exactly these frames"
    )
