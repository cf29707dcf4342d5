r"""Low-pass filtering of the clean estimate along frames, space, or both.

Flicker is high temporal frequency. VideoElevator's "temporal motion refining" removes it from the
clean estimate before a video model gives the motion back; the filters are FreeInit's.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Literal, TypeAlias, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.hook import Hook, Run, Step
from elevator.latent import Latent

__all__ = ["LowPass"]

Kind: TypeAlias = Literal["gaussian", "butterworth", "ideal", "box"]
Convention: TypeAlias = Literal["nyquist", "freeinit"]

_EDGE = 1e-9  # a bin exactly on the stop frequency passes, whatever the rounding of 2 k / n


@final
@dataclass(frozen=True, repr=False)
class LowPass(Hook[Tensor | None]):
    r"""Multiply the spectrum of the clean estimate by a low-pass mask, $M \in [0, 1]$.

    $$c' = \mathcal F^{-1}\left(M \cdot \mathcal F c\right), \qquad
    d^2 = \left(\frac{u_f}{\text{temporal}}\right)^2 +
    \frac{u_h^2 + u_w^2}{\text{spatial}^2}$$

    with frequencies $u \in [-1, 1]$ in units where Nyquist (a change of sign from one frame or
    latent pixel to the next) is 1, and

    | kind | mask | gain at the stop frequency |
    |---|---|---|
    | `gaussian` | $\exp(-d^2 / 2)$ | 0.61 |
    | `butterworth` | $1 / (1 + d^{2 \cdot \text{order}})$ | 0.5 |
    | `ideal` | 1 where $d \le 1$, else 0 | 1 |
    | `box` | 1 where $\lvert u \rvert \le$ stop on every axis, else 0 | 1 |

    The mask is symmetric and 1 at zero frequency at every size: real stays real, constants are
    kept, energy is never added. `temporal` alone costs one real FFT along the frames and never
    mixes pixels; with `spatial` it is a real FFT over frames, height and width.

    Neutral: `temporal=None, spatial=None`, and wherever the mask is 1 throughout (such as a
    temporal filter on a single frame): the very same latent is returned.

    References:
        FreeInit: Bridging Initialization Gap in Video Diffusion Models (Wu et al. 2023),
        arXiv 2312.07537: the filters.
        VideoElevator (Zhang et al. 2024), arXiv 2403.05438, section 3, "temporal motion
        refining": their use on the clean estimate.

    Attributes:
        kind: shape of the mask.
        temporal: stop frequency along the frames, >= 0; usual values 0.25 to 0.6. 0 keeps only
            the mean over all frames, None does not filter along them.
        spatial: stop frequency along height and width, >= 0; usual values 0.25 to 1. 0 keeps only
            the mean of each frame, None does not filter in space.
        fps: pictures per second of the clip; then `temporal` is in cycles per second. Nyquist is
            half the latent frames of a second: `fps / 8` where a latent frame stands for four
            pictures. None: `temporal` is in units of Nyquist.
        order: steepness of `butterworth`, >= 1; the others have none.
        convention: `freeinit` rebuilds the masks of the published code, for comparison with it.
            The same as `nyquist` for gaussian and butterworth at even sizes. Elsewhere they
            differ: at odd sizes its masks are off centre (constants lose up to all of their
            energy), `ideal` passes $d^2 \le 2 / \text{spatial}$ and `box` leaves its upper edge
            out. Needs both stop frequencies; 0 in either gives a mask of zeros.

    Raises:
        ValueError: a kind or convention that is unknown, a stop frequency, rate or order out of
            range, a rate without `temporal`, or a stop frequency missing where `freeinit` needs
            both.
    """

    paper: ClassVar[str | None] = """\
@article{wu2023freeinit,
  title   = {{FreeInit}: Bridging Initialization Gap in Video Diffusion Models},
  author  = {Wu, Tianxing and Si, Chenyang and Jiang, Yuming and Huang, Ziqi and Liu, Ziwei},
  journal = {arXiv preprint arXiv:2312.07537},
  year    = {2023}
}"""

    kind: Kind = "gaussian"
    _: KW_ONLY
    temporal: float | None
    spatial: float | None = None
    order: int = 4
    convention: Convention = "nyquist"
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"LowPass kind {self.kind!r} is unknown; choose one of {', '.join(get_args(Kind))}"
            )
        if self.convention not in get_args(Convention):
            raise ValueError(
                f"LowPass convention {self.convention!r} is unknown; "
                f"choose one of {', '.join(get_args(Convention))}"
            )
        for name, stop in (("temporal", self.temporal), ("spatial", self.spatial)):
            if stop is not None and not 0 <= stop < math.inf:
                raise ValueError(
                    f"LowPass {name}={stop!r} is no stop frequency; give a number from 0 up "
                    "(Nyquist = 1), or None to leave that axis unfiltered"
                )
        if self.fps is not None and (self.temporal is None or not 0 < self.fps < math.inf):
            raise ValueError(
                f"LowPass fps={self.fps!r} with temporal={self.temporal!r} is no rate for a stop "
                "frequency in cycles per second; give both, fps above 0, or leave fps out"
            )
        if self.order < 1:
            raise ValueError(
                f"LowPass order={self.order!r} would not fall off; give an integer from 1 up "
                "(4 is usual)"
            )
        if self.convention == "freeinit" and None in (self.temporal, self.spatial):
            raise ValueError(
                "LowPass convention='freeinit' filters frames and space together, as the published "
                "code does; give both temporal=... and spatial=..., or drop the convention"
            )

    def __repr__(self) -> str:
        shown = [repr(self.kind)]
        if self.spatial is not None:
            shown.append(f"spatial={self.spatial!r}")
        shown.append(f"temporal={self.temporal!r}")
        if self.order != 4:
            shown.append(f"order={self.order!r}")
        if self.fps is not None:
            shown.append(f"fps={self.fps!r}")
        if self.convention != "nyquist":
            shown.append(f"convention={self.convention!r}")
        return f"LowPass({', '.join(shown)})"

    def init(self, run: Run) -> Tensor | None:
        """Make the mask of the half spectrum; None where nothing would be filtered."""
        axes = self._axes()
        if not axes:
            return None
        sizes = [run.shape[axis] for axis in axes]
        # On the CPU in float64, so that every device filters with the same bits.
        own = self._in_units_of_nyquist(run)
        mask = own._published(sizes) if self.convention == "freeinit" else own._mask(sizes)
        mask = mask[..., : sizes[-1] // 2 + 1]
        if bool((mask == 1).all()):
            return None
        if axes == (2,):
            mask = mask[:, None, None]
        return mask.to(run.device, torch.float32)

    def update(
        self, clean: Latent, step: Step, state: Tensor | None
    ) -> tuple[Latent, Tensor | None]:
        """Filter the estimate."""
        if state is None:
            return clean, state
        axes = self._axes()
        given = clean.to(torch.promote_types(clean.dtype, torch.float32))
        spectrum = torch.fft.rfftn(given, dim=axes) * state
        sizes = [clean.shape[axis] for axis in axes]
        return torch.fft.irfftn(spectrum, s=sizes, dim=axes).to(clean.dtype), state

    def acts_at(self, steps: int) -> frozenset[int]:
        """Every step, or none where no axis is filtered."""
        return frozenset(range(steps)) if self._axes() else frozenset()

    def _in_units_of_nyquist(self, run: Run) -> "LowPass":
        """The same filter without a rate."""
        if self.fps is None or self.temporal is None:
            return self
        nyquist = self.fps / run.pictures / 2
        return replace(self, temporal=self.temporal / nyquist, fps=None)

    def _axes(self) -> tuple[int, ...]:
        """Filtered axes of `b c f h w`."""
        frames = () if self.temporal is None else (2,)
        return frames if self.spatial is None else (*frames, 3, 4)

    def _mask(self, sizes: Sequence[int]) -> Tensor:
        """The mask over the filtered axes, in the order of an FFT."""
        stops = [stop for stop in (self.temporal, self.spatial, self.spatial) if stop is not None]
        frequencies = torch.meshgrid(
            *(2 * torch.fft.fftfreq(size, dtype=torch.float64) for size in sizes), indexing="ij"
        )
        squares = torch.stack(
            [_ratio(u, stop) ** 2 for u, stop in zip(frequencies, stops, strict=True)]
        )
        match self.kind:
            case "gaussian":
                return torch.exp(-squares.sum(0) / 2)
            case "butterworth":
                return 1 / (1 + squares.sum(0) ** self.order)
            case "ideal":
                return (squares.sum(0) <= 1 + _EDGE).double()
            case "box":
                return (squares.amax(0) <= 1 + _EDGE).double()

    def _published(self, sizes: Sequence[int]) -> Float[Tensor, "f h w"]:
        """The published code's mask, in the order of an FFT.

        It multiplies the whole spectrum and keeps the real part of the result. For real input
        that is the same as multiplying by the even part of the mask, which a real FFT can do.
        """
        assert self.temporal is not None
        assert self.spatial is not None
        if not self.temporal or not self.spatial:
            return torch.zeros(*sizes, dtype=torch.float64)
        # Bins in the order of fftshift, whose zero frequency is at size // 2; the published
        # coordinate 2 i / size - 1 is zero at size / 2.
        bins = [torch.arange(size, dtype=torch.float64) for size in sizes]
        if self.kind == "box":
            reach = round(sizes[1] // 2 * self.spatial)  # height decides for width as well
            reaches = (round(sizes[0] // 2 * self.temporal), reach, reach)
            inside = [
                (size // 2 - reach <= i) & (i < size // 2 + reach)
                for i, size, reach in zip(bins, sizes, reaches, strict=True)
            ]
            mask = torch.stack(torch.meshgrid(*inside, indexing="ij")).all(0).double()
        else:
            u_f, u_h, u_w = torch.meshgrid(
                *(2 * i / size - 1 for i, size in zip(bins, sizes, strict=True)), indexing="ij"
            )
            squared = (self.spatial / self.temporal * u_f) ** 2 + u_h**2 + u_w**2
            match self.kind:
                case "gaussian":
                    mask = torch.exp(-squared / (2 * self.spatial**2))
                case "butterworth":
                    mask = 1 / (1 + (squared / self.spatial**2) ** self.order)
                case "ideal":
                    mask = (squared <= 2 * self.spatial).double()
        mask = torch.fft.ifftshift(mask)
        mirrored = mask.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2))
        return (mask + mirrored) / 2


def _ratio(frequency: Tensor, stop: float) -> Tensor:
    """|frequency| in units of the stop frequency; a stop of 0 passes nothing but zero."""
    if stop > 0:
        return frequency.abs() / stop
    return torch.where(frequency == 0, 0.0, math.inf).to(frequency.dtype)
