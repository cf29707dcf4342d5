r"""Averages along the motion: what flickers between frames goes, what moves stays as it moves.

The clip's own velocity is estimated at every step, since what a sampler shows of it grows step by
step. With frames $x_i$, a velocity field $v_i$ in pixels a frame and weights $m$ of 0 or 1,

$$y_i(p) = \frac{x_i(p) + \sum_k m_{i,k}(p)\, x_{i+k}(p + k\, v_i(p))}{1 + \sum_k m_{i,k}(p)},
  \qquad 1 \le \lvert k \rvert \le \min(r, \max(1, \min(i, f - 1 - i))),$$

where $m_{i,k}(p) = [\lvert k \rvert\,\lVert v_{i+k}(p + k\, v_i(p)) - v_i(p)\rVert < \tau]$: the
other frame moves there as this one does here. Frames are taken from both sides alike, so that an
error of the velocity blurs a moving thing but does not slow it down. What that blurs gets its
contrast back. With Gaussian blurs $B_s$ of standard deviation $s$, $\langle\cdot\rangle$ the mean
over channels and frames, and $\epsilon = 10^{-5}$,

$$y'_i = B_1 y_i + g\,(y_i - B_1 y_i), \qquad g = \min(g_{max}, \max(1, 1 + \rho\,(q - 1))), \qquad
  q^2 = \frac{B_4 \langle (x - B_1 x)^2 \rangle + \epsilon}
  {B_4 \langle (y - B_1 y)^2 \rangle + \epsilon}.$$
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, final, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

from elevator.filters.flow import DIS, FlowEstimator
from elevator.filters.warp import consistent, warp
from elevator.hook import Hook, Step
from elevator.latent import Latent

__all__ = ["MotionAverage", "Pictures"]

Clip = Float[Tensor, "b 3 f h w"]
Field = Float[Tensor, "b 2 f h w"]

_DETAIL, _AREA = 1.0, 4.0
"""Standard deviations in pixels: of the blur that leaves detail out, and of the area over which its
contrast is compared."""
_MOST = 2.5
"""g_max, the most that detail is strengthened by."""
_ALPHA1, _ALPHA2 = 0.01, 0.5
"""What way there and way back may differ by (`consistent`): more than in `Propagate`, since the
flow is fitted over many frames."""
_NUMBERS = dict.fromkeys(("blur", "smooth", "trust"), "number of pixels") | {"restore": "share"}
"""What numbers that may be 0 or more are, by their names."""


@runtime_checkable
class Pictures(Protocol):
    """The way from clean latents to frames and back, such as `el.codec(pipe)`."""

    def decode(self, latents: Latent) -> Clip:
        """Frames in about [-1, 1]."""
        ...

    def encode(self, frames: Clip) -> Latent:
        """Clean latents of frames in [-1, 1]."""
        ...


@final
@dataclass(frozen=True)
class MotionAverage(Hook[tuple[()]]):
    r"""Average every frame with its neighbours, along the velocity of what is in them.

    A T2I whose frames are painted side by side puts stripes, dots and edges into each a little
    otherwise, and a low-pass filter over time blurs whatever moves. This one follows it: at the
    steps where detail is settled, frames come to agree on it, and positions come to lie on an even
    path.

        steady = MotionAverage(el.codec(t2i))
        el.renoise(el.between(0.5, 0.8, steady), el.FreshNoise(shared=math.inf))

    Clean estimates are decoded for it. What a round trip through the autoencoder $D, E$ loses is
    not lost: $c' = c + E(A(D(c))) - E(D(c))$ with the average $A$. A step costs a decode, two
    encodes and $2 r + 1$ estimates of flow for each frame.

    The velocity is that of frames blurred by `blur`, so that repeated patterns, which look alike
    one period on, do not pass for something that stands still. It is the flow to both neighbours
    where it can be trusted (`consistent`), smoothed by `smooth` with the squared gradient of the
    blurred frames as weights, since flow is known at edges; then what is left of the motion to up
    to `reach` frames away is estimated and fitted by least squares, and smoothed again.

    Detail that the average blurs is made stronger again, by one factor for all frames at each
    place, so that it does not flicker anew.

    Neutral: `reach=0`, and clips of one frame: the very same latent is returned.

    References:
        Motion-compensated temporal filtering: Dubois and Sabri 1984, "Noise Reduction in Image
        Sequences Using Motion-Compensated Temporal Filtering", IEEE Transactions on Communications
        32(7). To do so to a sampler's clean estimates, in pictures, is this library's own.

    Attributes:
        pictures: the host's autoencoder, `el.codec(pipe)`.
        flow: any estimator.
        reach: r, frames to either side, >= 0. Motion is taken for even over so many.
        blur: standard deviation in pixels of what the flow is estimated on, >= 0; as wide as a
            period of the patterns that move.
        smooth: standard deviation in pixels of the smoothing of velocities, >= 0.
        trust: tau, by how many pixels two frames' motion may differ, >= 0.
        restore: rho, how much of the contrast that detail has lost it gets back, >= 0: 0 leaves it
            blurred, 1 makes it as strong as it was in the frames, and more also makes up for what
            the autoencoder and the averages to come will blur.

    Raises:
        ValueError: a number out of range.
        TypeError: `pictures` cannot decode and encode, or `flow` is no estimator.
    """

    pictures: Pictures
    flow: FlowEstimator = field(default_factory=DIS)
    reach: int = 3
    blur: float = 5.0
    smooth: float = 4.0
    trust: float = 1.5
    restore: float = 2.0

    paper: ClassVar[str | None] = """@article{dubois1984noise,
  title = {Noise Reduction in Image Sequences Using Motion-Compensated Temporal Filtering},
  author = {Dubois, Eric and Sabri, Shaker},
  journal = {IEEE Transactions on Communications},
  volume = {32},
  number = {7},
  pages = {826--831},
  year = {1984}
}"""

    def __post_init__(self) -> None:
        if not isinstance(self.pictures, Pictures):
            raise TypeError(
                "MotionAverage takes what decodes and encodes the host's latents, got "
                f"{self.pictures!r}; give el.codec(pipe)"
            )
        if not callable(self.flow):
            raise TypeError(
                f"MotionAverage takes an estimator of flow, got {self.flow!r}; give DIS() or RAFT"
            )
        if self.reach < 0:
            raise ValueError(
                f"MotionAverage reach={self.reach!r} is no number of frames; give 0 (no average) or"
                " more"
            )
        for name, kind in _NUMBERS.items():
            value: float = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"MotionAverage {name}={value!r} is no {kind}; give 0 or more")

    def update(self, clean: Latent, step: Step, state: tuple[()]) -> tuple[Latent, tuple[()]]:
        """Decode, average, and add what that changes."""
        if self.reach == 0 or clean.shape[2] == 1:
            return clean, state
        frames = self.pictures.decode(clean)
        steady = frames if frames.is_meta else self.averaged(frames)
        return clean + (self.pictures.encode(steady) - self.pictures.encode(frames)), state

    def acts_at(self, steps: int) -> frozenset[int]:
        """Every step, or none with `reach=0`."""
        return frozenset(range(steps)) if self.reach else frozenset()

    def averaged(self, frames: Clip) -> Clip:
        """Average frames in [-1, 1] along their motion; for use on clips, too."""
        velocity = self.velocity(frames)
        total, count = frames.clone(), torch.ones_like(frames[:, :1])
        last = frames.shape[2] - 1
        near = [max(1, min(i, last - i)) for i in range(last + 1)]
        for offset, here, there in _pairs(self.reach, near):
            own = velocity[:, :, here]
            way = offset * own
            apart = (warp(velocity[:, :, there], way, padding="border") - own).norm(
                dim=1, keepdim=True
            )
            alike = (abs(offset) * apart < self.trust).to(frames)
            carried = warp(frames[:, :, there], way, "bicubic", padding="border")
            total[:, :, here] += alike * carried
            count[:, :, here] += alike
        return self._strengthened(total / count, frames)

    def velocity(self, frames: Clip) -> Field:
        """Pixels a frame (dx, dy) of what is at every pixel of every frame."""
        soft = _blurred(frames, self.blur)
        known = _edges(soft)
        forward, backward = self.flow(soft)
        trusted = consistent(forward, backward, _ALPHA1, _ALPHA2).to(frames)
        back = consistent(backward, forward, _ALPHA1, _ALPHA2).to(frames)
        total, count = torch.zeros_like(frames[:, :2]), torch.zeros_like(known)
        total[:, :, :-1] += trusted * forward
        count[:, :, :-1] += trusted
        total[:, :, 1:] -= back * backward
        count[:, :, 1:] += back
        velocity = self._smoothed(total / count.clamp_min(1), known)
        total, count = torch.zeros_like(total), torch.zeros_like(count)
        everywhere = [self.reach] * frames.shape[2]
        for offset, here, there in _pairs(self.reach, everywhere):
            carried = warp(soft[:, :, there], offset * velocity[:, :, here], padding="border")
            left, sure = self._left(soft[:, :, here], carried)
            total[:, :, here] += offset * sure * left
            count[:, :, here] += offset**2 * sure
        return self._smoothed(velocity + total / count.clamp_min(1), known)

    def _strengthened(self, averaged: Clip, frames: Clip) -> Clip:
        """The average with its detail made stronger again."""
        coarse = _blurred(averaged, _DETAIL)
        detail = averaged - coarse
        had, has = (
            _blurred(part.square().mean((1, 2), keepdim=True), _AREA) + 1e-5
            for part in (frames - _blurred(frames, _DETAIL), detail)
        )
        factor = 1 + self.restore * ((had / has).sqrt() - 1)
        return coarse + factor.clamp(1, _MOST) * detail

    def _left(self, one: Clip, other: Clip) -> tuple[Field, Float[Tensor, "b 1 f h w"]]:
        """The flow from frames of one clip to those of another, and where it is to be trusted."""
        pairs = torch.stack([rearrange(c, "b c f h w -> (b f) c h w") for c in (one, other)], 2)
        there, back = self.flow(pairs)
        sure = consistent(there, back, _ALPHA1, _ALPHA2).to(there)
        left, trusted = (
            rearrange(part, "(b f) c 1 h w -> b c f h w", b=len(one)) for part in (there, sure)
        )
        return left, trusted

    def _smoothed(self, values: Field, known: Float[Tensor, "b 1 f h w"]) -> Field:
        return _blurred(values * known, self.smooth) / _blurred(known, self.smooth)


def _pairs(reach: int, near: list[int]) -> Iterator[tuple[int, list[int], list[int]]]:
    """Offsets, with the frames that look so far and those they look at."""
    for distance in range(1, reach + 1):
        for offset in (-distance, distance):
            here = [
                i for i, most in enumerate(near) if distance <= most and 0 <= i + offset < len(near)
            ]
            if here:
                yield offset, here, [i + offset for i in here]


def _blurred(x: Float[Tensor, "b c f h w"], sigma: float) -> Float[Tensor, "b c f h w"]:
    """Gaussian blur in space; edges are continued by their last pixel."""
    if sigma == 0:
        return x
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, dtype=torch.float32, device=x.device)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    images = x.transpose(1, 2).flatten(0, 2)[:, None]
    images = conv2d(pad(images, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None])
    images = conv2d(
        pad(images, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None]
    )
    batch, channels, frames = x.shape[:3]
    return images[:, 0].unflatten(0, (batch, frames, channels)).transpose(1, 2)


def _edges(frames: Clip) -> Float[Tensor, "b 1 f h w"]:
    """Squared gradient, which says how well a flow is known; above zero everywhere."""
    slopes = _slope(frames, -1).square() + _slope(frames, -2).square()
    return slopes.sum(1, keepdim=True) + 1e-5


def _slope(x: Tensor, axis: int) -> Tensor:
    """Half the difference of both neighbours along an axis; at its ends, of one and itself."""
    count = x.shape[axis]
    longer = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, count - 1, 1)], axis)
    return (longer.narrow(axis, 2, count) - longer.narrow(axis, 0, count)) / 2
