r"""Known frames and regions: sampling that fills in the rest.

With a mask $m$ (1 = known) and a clean latent $k$, RePaint's step (Lugmayr et al. 2022,
arXiv 2201.09865, eq. 8) draws the known part of the next latent around $k$ and leaves the rest to
the sampler:

$$x' = m \odot \left(\alpha' k + \sigma' \eta\right) + (1 - m) \odot x'_\text{sampler},
  \qquad \eta \sim N(0, I).$$

`Known` acts on the clean estimate instead, and the rule it is bound to says what becomes of it:

| composition | known part of the next latent | the rest |
|---|---|---|
| `Known(...)` | the host's solver, told that $k$ is the estimate | the host's solver |
| `renoise(known, FreshKnown(known))` | $\alpha' k + \sigma' \eta$ | the host's solver: eq. 8 |
| `renoise(known, FreshNoise())` | $\alpha' k + \sigma' \eta$ | freshly noised as well |

Alone, a deterministic solver keeps for the known part the noise that the run began with, so it
arrives at $k$ on one smooth path; an ancestral one draws from $q(x' \mid x, k)$, which has the
very marginals that eq. 8 draws from. `FreshNoise` makes each step forget the rest of the latent
but for its clean estimate, as SDEdit does, which the paper does not. The paper's resampling
(section 4.2) goes back in noise and is none of the three.

Where a schedule ends above sigma = 0, as Stable Diffusion's DDIM does (0.03, unless
`set_alpha_to_one=True`), that much noise stays on the known part as on everything else.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from elevator.errors import CheckError
from elevator.hook import Hook, Host, Run, Step
from elevator.latent import Latent
from elevator.renoise import Renoise

__all__ = ["FreshKnown", "Known"]

REPAINT = """@inproceedings{lugmayr2022repaint,
  title={{RePaint}: Inpainting using Denoising Diffusion Probabilistic Models},
  author={Lugmayr, Andreas and Danelljan, Martin and Romero, Andres and Yu, Fisher and
          Timofte, Radu and Van Gool, Luc},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2022},
  eprint={2201.09865},
}"""


class _Laid(NamedTuple):
    """What is known, laid out for a run: 0 where the mask is 0; both broadcast on `b c f h w`."""

    clean: Latent
    mask: Tensor


@final
@dataclass(frozen=True, eq=False, repr=False)
class Known(Hook[_Laid | None]):
    r"""Put what is known into the clean estimate: $c' = m k + (1 - m) c$.

    Known frames take their indices, a negative one counted from the end; the latents have them in
    that order. Anything else takes a mask:

        Known(first, frames=(0,))
        Known(torch.cat([first, last], 2), frames=(0, -1))
        Known(clip, mask)  # of shape (h, w), (f, 1, 1), (b, 1, f, h, w), ...

    Latents are as the pipeline's own VAE encodes and scales them. In causal video VAEs a latent
    frame is several frames of the video.

    A soft mask, between 0 and 1, mixes: useful for feathered edges, but what is known by half ends
    half way between $k$ and what the network makes of it. Where the mask is 0, $k$ may be anything.

    Neutral: `frames=()`, or a mask of zeros: the very same latent is returned.

    Attributes:
        clean: k, `b c f h w` in the latents' own size, 1 for an axis that repeats. Compared by
            identity, as `mask` is.
        mask: m in [0, 1], or of booleans; any shape that broadcasts on `b c f h w`.
        frames: indices of the known frames, in place of a mask; `clean` has as many frames, or one
            that stands at all of them.

    Raises:
        ValueError: neither or both of mask and frames, a mask out of range, or another number of
            latents than of frames.
        CheckError: in the first step, shapes or frames that are not the run's.
    """

    clean: Latent
    mask: Tensor | None = None
    frames: tuple[int, ...] | None = None

    paper: ClassVar[str | None] = REPAINT

    def __post_init__(self) -> None:
        if (self.mask is None) == (self.frames is None):
            given = "neither" if self.mask is None else "both"
            raise ValueError(
                f"Known takes a mask or frames, and was given {given}; write Known(clean, mask) or "
                "Known(clean, frames=(0,))"
            )
        count = self.clean.shape[2]
        if self.frames and count not in (1, len(self.frames)):
            raise ValueError(
                f"Known was given {count} latent frames for frames={self.frames!r}; give one for "
                f"each, such as clean[:, :, {list(self.frames)}] of a whole clip, or one for all"
            )
        if self.mask is not None and not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
            raise ValueError(
                "Known takes a mask from 0 (free) to 1 (known), and was given values from "
                f"{float(self.mask.min()):g} to {float(self.mask.max()):g}; scale it"
            )

    def __eq__(self, other: object) -> bool:
        """Whether it holds the same tensors, not equal ones."""
        return isinstance(other, Known) and (
            self.clean is other.clean and self.mask is other.mask and self.frames == other.frames
        )

    def __hash__(self) -> int:
        return hash((id(self.clean), id(self.mask), self.frames))

    def __repr__(self) -> str:
        where = f"frames={self.frames!r}" if self.mask is None else f"mask={_size(self.mask)}"
        return f"Known({_size(self.clean)}, {where})"

    def check(self, host: Host) -> Iterable[str]:
        """Whether frames fit the clip, as far as it is known, and whether known values survive."""
        # A causal VAE makes fewer latent frames than the clip has: only too many are sure.
        reach = [i + 1 if i >= 0 else -i for i in self.frames or ()]
        needed = max(reach, default=0) if self.mask is None else self.clean.shape[2]
        if host.frames is not None and needed > host.frames:
            yield (
                f"{self!r} knows of {needed} frames, but the clip has {host.frames}; give latents "
                "and indices of that clip"
            )
        if host.clips and bool((self.clean.abs() > 1).any()):
            yield (
                f"{host.solver} clips the clean estimate to [-1, 1], so known latents beyond that "
                "would not be kept; set pipe.scheduler = "
                f"{host.solver}.from_config(pipe.scheduler.config, clip_sample=False, "
                "thresholding=False)"
            )

    def init(self, run: Run) -> _Laid | None:
        """Lay out what is known for the run's shape; None where nothing is."""
        if self.mask is None:
            clean, mask = self._at_frames(run)
        else:
            clean, mask = self.clean, self.mask
        for what, shape in (("latents", clean.shape), ("a mask", mask.shape)):
            if not _broadcasts(shape, run.shape):
                raise CheckError(
                    [
                        f"Known was given {what} of shape {tuple(shape)}, but the run's latents "
                        f"are {run.shape} (b c f h w); give the run's sizes, or 1 for an axis that "
                        "repeats"
                    ]
                )
        if not mask.any():
            return None
        clean, mask = (tensor.to(run.device, torch.float32) for tensor in (clean, mask))
        return _Laid(torch.where(mask > 0, clean, 0.0), mask)  # 0 times not-a-number is not 0

    def update(self, clean: Latent, step: Step, state: _Laid | None) -> tuple[Latent, _Laid | None]:
        """Put in what is known."""
        if state is None:
            return clean, state
        return torch.lerp(clean, state.clean.expand_as(clean), state.mask.expand_as(clean)), state

    def acts_at(self, steps: int) -> frozenset[int]:
        """Every step, or none where no frame is known."""
        return frozenset() if self.frames == () else frozenset(range(steps))

    def _at_frames(self, run: Run) -> tuple[Tensor, Tensor]:
        """The known frames at their places, and a mask of those."""
        assert self.frames is not None
        length, places = run.shape[2], list(self.frames)
        outside = [place for place in places if not -length <= place < length]
        if outside:
            raise CheckError(
                [
                    f"Known was given frames {outside}, but the run's latents have {length} "
                    f"(0 to {length - 1}, or {-length} to -1 from the end); give indices of those"
                ]
            )
        b, c, _, h, w = self.clean.shape
        clean = self.clean.new_zeros(b, c, length, h, w)
        mask = self.clean.new_zeros(length, 1, 1)
        if places:
            clean[:, :, places], mask[places] = self.clean, 1
        return clean, mask


@final
@dataclass(frozen=True)
class FreshKnown(Renoise[Tensor | None]):
    r"""Noise what is known anew at every step, and leave the rest to the host's solver.

    RePaint's eq. 8: $x' = m \odot (\alpha' c' + \sigma' \eta) + (1 - m) \odot x'_\text{host}$.
    Values that a soft mask knows only in part are left to the solver.

    Attributes:
        known: the hook the rule is bound to, or is part of: `el.renoise(known, FreshKnown(known))`.
    """

    known: Known

    paper: ClassVar[str | None] = REPAINT

    def init(self, run: Run) -> Tensor | None:
        """Find what is known for certain; None where nothing is."""
        laid = self.known.init(run)
        return None if laid is None else laid.mask == 1

    def update(
        self, clean: Latent | None, proposed: Latent, step: Step, state: Tensor | None
    ) -> tuple[Latent, Tensor | None]:
        """Re-noise what is known where the hook changed the estimate."""
        if clean is None or state is None:
            return proposed, state
        fresh = step.next.alpha * clean + step.next.sigma * step.draw("known")
        return torch.where(state, fresh, proposed), state


def _broadcasts(shape: torch.Size, wanted: tuple[int, ...]) -> bool:
    """Whether a tensor of one shape broadcasts on another without making it larger."""
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(size in (1, other) for size, other in pairs)


def _size(tensor: Tensor) -> str:
    return f"<{'x'.join(map(str, tensor.shape)) or 'a number'}>"
