r"""Bounds on the values of the clean estimate: fixed ones, and Imagen's dynamic thresholding.

Strong guidance pushes the estimate out of the range the network was trained on, and a decoder makes
glaring, flat colour of it. Pixels end at [-1, 1]. Latents have no such edge: channels differ in
spread, and tails are long (of crisp clips in the built-in autoencoder's latents, 99.5 % of the
values lie within 3.5, the largest is 9). So bounds have no default here: measure them on latents of
real material, best channel by channel.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.errors import CheckError
from elevator.hook import Hook, Run, Step
from elevator.latent import Latent

__all__ = ["Clamp", "DynamicThreshold"]

Bound: TypeAlias = float | tuple[float, ...]


@final
@dataclass(frozen=True)
class Clamp(Hook[tuple[Tensor, Tensor]]):
    r"""Keep every value of the clean estimate in a range: $c' = \min(\max(c, l), h)$.

    Neutral: no bounds (the default), and wherever no value exceeds them: the very same latent is
    returned. `el.blend(weight, Clamp(...))` goes part of the way.

    Attributes:
        low: smallest value allowed, in units of the latents: a number, one per channel, or None
            for no bound.
        high: largest value allowed; as `low`.

    Raises:
        ValueError: bounds that are no numbers, a `low` above its `high`, or bounds for different
            numbers of channels.
        CheckError: in the first step, bounds for other channels than the latents have.
    """

    low: Bound | None = None
    high: Bound | None = None

    def __post_init__(self) -> None:
        lows, highs = self._bounds()
        if len(lows) == 1:
            lows *= len(highs)
        if len(highs) == 1:
            highs *= len(lows)
        if len(lows) != len(highs):
            raise ValueError(
                f"Clamp got {len(lows)} numbers for low and {len(highs)} for high; give one per "
                "channel, or one for all"
            )
        if not all(
            low <= high and low < math.inf and high > -math.inf
            for low, high in zip(lows, highs, strict=True)
        ):
            raise ValueError(
                f"Clamp low={self.low!r}, high={self.high!r} leaves no range; give numbers with "
                "low <= high, or None for no bound on that side"
            )

    def init(self, run: Run) -> tuple[Tensor, Tensor]:
        """Lay the bounds along the channels."""
        low, high = self._bounds()
        return _along_channels("Clamp", low, run), _along_channels("Clamp", high, run)

    def update(
        self, clean: Latent, step: Step, state: tuple[Tensor, Tensor]
    ) -> tuple[Latent, tuple[Tensor, Tensor]]:
        """Clamp the estimate."""
        low, high = state
        return _unless_equal(clean, clean.clamp(low, high)), state

    def acts_at(self, steps: int) -> frozenset[int]:
        """Every step, or none without bounds."""
        low, high = self._bounds()
        return _if_any_is_finite((*low, *high), steps)

    def _bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return _numbers(low), _numbers(high)


@final
@dataclass(frozen=True)
class DynamicThreshold(Hook[Tensor]):
    r"""Cut the largest values of each clip off and scale the rest back into the usual range.

    $$s = \max\left(1, Q_p\left(\lvert c\rvert / l\right)\right), \qquad
      c' = \frac{1}{s} \min\left(\max\left(c, -s\,l\right), s\,l\right)$$

    with $Q_p$ the $p$-quantile over all channels, frames and pixels of a clip, so that frames are
    never scaled apart. With one limit $l$ for all channels this is the paper's rule (there
    $l = 1$) with its threshold written as $s\,l$.

    On latents two things differ. A limit per channel makes $s$ a factor on the usual range, the
    same for all channels, so that hues keep their balance. And $l$ is no edge: where $s = 1$ the
    hook clamps at $l$, so a limit below what real latents reach costs their peaks and flattens
    clips. With the largest values of real latents for limits, the built-in T2V's contrast at
    guidance 12 comes back from 0.23 to 0.16 (0.14 at its usual guidance); only to cut off, or to
    clamp, changes hardly anything there (`python -m benchmarks.small_hooks`).

    Neutral: `limit=math.inf`, and wherever no value exceeds the limit: the very same latent is
    returned.

    References:
        Imagen: Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding
        (Saharia et al. 2022), arXiv 2205.11487, section 2.3.

    Attributes:
        limit: l > 0, the largest usual $\lvert c\rvert$, in units of the latents: a number, or
            one per channel, such as `latents.abs().amax((0, 2, 3, 4)).tolist()` of real clips, as
            a tuple.
        quantile: p in (0, 1]; 0.995 is usual. 1 cuts nothing off and only scales.
        rescale: divide by s, as the paper does. False only cuts off.

    Raises:
        ValueError: a limit or quantile out of range.
        CheckError: in the first step, limits for other channels than the latents have.
    """

    paper: ClassVar[str | None] = """\
@inproceedings{saharia2022photorealistic,
  title={Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding},
  author={Saharia, Chitwan and Chan, William and Saxena, Saurabh and Li, Lala and Whang, Jay and
          Denton, Emily and Ghasemipour, Seyed Kamyar Seyed and Gontijo-Lopes, Raphael and
          Karagol Ayan, Burcu and Salimans, Tim and Ho, Jonathan and Fleet, David J. and
          Norouzi, Mohammad},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022},
  eprint={2205.11487},
}"""

    limit: Bound
    quantile: float = 0.995
    rescale: bool = True

    def __post_init__(self) -> None:
        if not all(value > 0 for value in _numbers(self.limit)):
            raise ValueError(
                f"DynamicThreshold limit={self.limit!r} leaves no range; give numbers above 0, "
                "the largest size that latents of real material usually have"
            )
        if not 0 < self.quantile <= 1:
            raise ValueError(
                f"DynamicThreshold quantile={self.quantile!r} is no share of the values; give a "
                "number above 0 and at most 1 (0.995 is usual)"
            )

    def init(self, run: Run) -> Tensor:
        """Lay the limits along the channels."""
        return _along_channels("DynamicThreshold", _numbers(self.limit), run)

    def update(self, clean: Latent, step: Step, state: Tensor) -> tuple[Latent, Tensor]:
        """Cut off and scale every clip by itself."""
        sizes = (clean.abs() / state).flatten(1)
        factor = _quantile(sizes, self.quantile).clamp_min(1)[:, None, None, None, None]
        changed = clean.clamp(-factor * state, factor * state)
        return _unless_equal(clean, changed / factor if self.rescale else changed), state

    def acts_at(self, steps: int) -> frozenset[int]:
        """Every step, or none without a limit."""
        return _if_any_is_finite(_numbers(self.limit), steps)


def _numbers(bound: Bound) -> tuple[float, ...]:
    return bound if isinstance(bound, tuple) else (bound,)


def _if_any_is_finite(bounds: tuple[float, ...], steps: int) -> frozenset[int]:
    return frozenset(range(steps)) if any(map(math.isfinite, bounds)) else frozenset()


def _along_channels(name: str, values: tuple[float, ...], run: Run) -> Float[Tensor, "1 c 1 1 1"]:
    channels = run.shape[1]
    if len(values) not in (1, channels):
        raise CheckError(
            [
                f"{name} was given bounds for {len(values)} channels, but the latents have "
                f"{channels}; give {channels}, or one number for all"
            ]
        )
    return torch.tensor(values, device=run.device, dtype=torch.float32)[None, :, None, None, None]


def _unless_equal(clean: Latent, changed: Latent) -> Latent:
    """The very same latent where nothing changed; without data (`el.plan`) it may always have."""
    return clean if not clean.is_meta and torch.equal(clean, changed) else changed


def _quantile(values: Float[Tensor, "b n"], share: float) -> Float[Tensor, " b"]:
    """Linear between the two nearest values; `torch.quantile` takes no more than 2^24 of them."""
    place = share * (values.shape[1] - 1)
    below = math.floor(place)
    ranks = (below + 1, min(below + 2, values.shape[1]))
    lower, upper = (values.kthvalue(rank, dim=1).values for rank in ranks)
    return torch.lerp(lower, upper, place - below)
