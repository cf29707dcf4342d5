r"""The ways to make frames larger, as `elevator upscale` and its long runs see them.

An upscaler takes the frames of a stretch of a clip and knows where in the clip they lie, so that a
clip of any length can be made piece by piece. What its result depends on it tells as its identity:
two runs with the same identity and the same input have the same output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from elevator.errors import CheckError
from elevator.video.windows import Tile, blend_tiles, tiles

if TYPE_CHECKING:
    from elevator.models import RegressionUpscaler

__all__ = ["Banded", "Bicubic", "Lanczos", "Regression", "Upscaler"]


@runtime_checkable
class Upscaler(Protocol):
    """Makes frames `scale` times as high and wide."""

    @property
    def scale(self) -> int:
        """How many times larger frames get along each side, >= 1."""
        ...

    @property
    def reach(self) -> int:
        """Frames on either side of a frame, at the most, that its result depends on.

        Stretches of a clip overlap by twice as many and lose as many at either end, so that the
        clip is made as if in one piece. 0 where frames are alone.
        """
        ...

    @property
    def fade(self) -> int:
        """Frames that stretches share besides, over which one is cross-faded into the next.

        0 where a frame's result is the same whatever stretch it lies in.
        """
        ...

    def __call__(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int
    ) -> Float[Tensor, "f 3 H W"]:
        """Enlarge a stretch of a clip.

        Args:
            frames: RGB in [0, 1].
            first_frame: the index in the whole clip of the first of them: noise is drawn by it.

        Returns:
            RGB, about [0, 1]; what lies outside is clipped when it is stored.
        """
        ...

    def identity(self) -> Mapping[str, object]:
        """All that the result depends on, as JSON holds it: settings and SHA-256 of weights."""
        ...


@runtime_checkable
class Banded(Upscaler, Protocol):
    """Gives a stretch in bands of rows, so that no more floats than those of one are held."""

    def bands(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int, keep: slice
    ) -> Iterator[Float[Tensor, "k 3 rows W"]]:
        """Enlarge a stretch of a clip, as a call does.

        Args:
            frames: RGB in [0, 1].
            first_frame: the index in the whole clip of the first of them.
            keep: those that are asked for.

        Returns:
            Their rows from the top: `torch.cat([*bands], -2)` is the call's result, `keep` of it.
        """
        ...


@final
@dataclass(frozen=True)
class Bicubic:
    """Each frame by bicubic interpolation (Keys 1981, a = -1/2, as in Pillow and MATLAB).

    Attributes:
        scale: how many times larger, >= 1; 1 changes nothing.
    """

    scale: int = 4

    def __post_init__(self) -> None:
        """Check the number."""
        _require_scale(self.scale)

    @property
    def reach(self) -> int:
        return 0

    @property
    def fade(self) -> int:
        return 0

    def __call__(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int
    ) -> Float[Tensor, "f 3 H W"]:
        if self.scale == 1:
            return frames
        size = [self.scale * side for side in frames.shape[2:]]
        # Without it a = -3/4, which overshoots more; nothing is blurred when enlarging.
        return interpolate(frames, size, mode="bicubic", antialias=True)

    def identity(self) -> Mapping[str, object]:
        return {"method": "bicubic", **asdict(self)}


@final
@dataclass(frozen=True)
class Lanczos:
    r"""Each frame by Lanczos' kernel of three lobes, then sharpened by an unsharp mask.

    $$y = \hat x + a\,(\hat x - G_\sigma * \hat x)$$

    The strongest of the cheap rivals that a learned method has to beat.

    Attributes:
        scale: how many times larger, >= 1.
        amount: a >= 0 of the mask; 0 is Lanczos alone.
        radius: standard deviation of its Gaussian in pixels of the input, > 0.
    """

    scale: int = 4
    amount: float = 0.5
    radius: float = 0.5

    def __post_init__(self) -> None:
        """Check the numbers."""
        _require_scale(self.scale)
        if self.amount < 0 or self.radius <= 0:
            raise CheckError(
                [
                    "Lanczos takes amount >= 0 and radius > 0, got "
                    f"amount {self.amount} and radius {self.radius}"
                ]
            )

    @property
    def reach(self) -> int:
        return 0

    @property
    def fade(self) -> int:
        return 0

    def __call__(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int
    ) -> Float[Tensor, "f 3 H W"]:
        large = torch.stack([_lanczos(frame, self.scale) for frame in frames])
        if self.amount == 0:
            return large
        return large + self.amount * (large - _blurred(large, self.radius * self.scale))

    def identity(self) -> Mapping[str, object]:
        return {"method": "lanczos", **asdict(self)}


@final
@dataclass(frozen=True)
class Regression:
    """A network trained to give the mean of what a frame may have been: no noise, one pass.

    It goes over the picture tile by tile; tiles overlap by all that the network sees around a
    pixel, so that the result is that of the whole picture.

    Attributes:
        network: where it lies is where it computes.
        weights: their SHA-256.
        tile: side of a tile in pixels of the input, > `overlap`.
    """

    network: RegressionUpscaler
    weights: str
    tile: int = 256

    def __post_init__(self) -> None:
        """Check the number."""
        if self.tile <= self.overlap:
            raise CheckError(
                [
                    f"tiles must be larger than their overlap of {self.overlap} pixels, "
                    f"got {self.tile}"
                ]
            )

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Regression:
        """The network in a folder, as `save_pretrained` writes it.

        Raises:
            CheckpointError: there is none.
        """
        from elevator.hosts.sources import failed, fingerprint
        from elevator.models import RegressionUpscaler

        weights = fingerprint(folder)
        try:
            network = RegressionUpscaler.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise failed(folder, "a regression upscaler", error) from error
        return cls(network.eval().to(device), weights or "")

    @property
    def scale(self) -> int:
        return self.network.scale

    @property
    def reach(self) -> int:
        return self.network.reach

    @property
    def fade(self) -> int:
        return 0

    @property
    def overlap(self) -> int:
        """Pixels that tiles share: twice as far as the network sees, two of each block and two."""
        return 2 * (2 * self.network.reach + 2)

    def __call__(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int
    ) -> Float[Tensor, "f 3 H W"]:
        return torch.cat([*self.bands(frames, first_frame, slice(None))], -2)

    def bands(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int, keep: slice
    ) -> Iterator[Float[Tensor, "k 3 rows W"]]:
        height, width = frames.shape[2:]
        plan = tiles(height, width, self.tile, self.overlap)
        kept = plan.trimmed(self.overlap // 2).scaled(self.scale)
        clip = frames.transpose(0, 1)[None].to(self.network.device)

        def parts() -> Iterator[Tensor]:
            for seen, whole, used in zip(plan, plan.scaled(self.scale), kept, strict=True):
                inside = Tile(*(_within(*sides) for sides in zip(used, whole, strict=True)))
                with torch.inference_mode():
                    made = self.network(seen.cut(clip))[0].transpose(0, 1)
                    asked = inside.cut(made)[keep].to(frames, copy=True)
                del made  # before the next one is there
                yield asked

        yield from blend_tiles(parts(), kept)

    def identity(self) -> Mapping[str, object]:
        return {
            "method": "regression",
            "scale": self.scale,
            "weights": self.weights,
            "tile": self.tile,
            "device": self.network.device.type,
        }


def _within(span: range, whole: range) -> range:
    """A span by its places in another."""
    return range(span.start - whole.start, span.stop - whole.start)


def _require_scale(scale: int) -> None:
    if scale < 1:
        raise CheckError([f"frames are made larger by a whole factor of at least 1, got {scale}"])


def _lanczos(frame: Float[Tensor, "3 h w"], scale: int) -> Float[Tensor, "3 H W"]:
    """A frame by Pillow's filter, which takes one channel of floats at a time."""
    height, width = (scale * side for side in frame.shape[1:])
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS))
        for channel in frame.float().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(channels)).to(frame)


def _blurred(frames: Float[Tensor, "f c h w"], sigma: float) -> Float[Tensor, "f c h w"]:
    """A Gaussian blur that repeats the outermost pixels beyond the edge."""
    half = max(1, round(3 * sigma))
    places = torch.arange(-half, half + 1, device=frames.device, dtype=frames.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = frames.flatten(0, 1)[:, None]
    flat = conv2d(pad(flat, (half, half, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    flat = conv2d(pad(flat, (0, 0, half, half), mode="replicate"), kernel.view(1, 1, -1, 1))
    return flat.view_as(frames)
