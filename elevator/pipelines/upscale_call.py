"""The numbers of one call of `VideoUpscalePipeline`, and what it cuts a clip into."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from elevator.errors import CheckError
from elevator.filters import Flow
from elevator.latent import Latent
from elevator.noise import Key
from elevator.pipelines.arguments import given_or
from elevator.pipelines.views import Views
from elevator.video.io import as_bytes
from elevator.video.windows import (
    Tile,
    published_chunks,
    published_weights,
    published_windows,
    spans,
    tiles,
)

__all__ = [
    "DECODED",
    "Clip",
    "PublishedNoise",
    "UpscaleCall",
    "cut_flow",
    "pixels",
    "scaled_tile",
    "within",
]

Clip: TypeAlias = NDArray[Any] | Sequence[PIL.Image.Image] | Float[Tensor, "..."]
"""PIL images or an array (f, h, w, 3), one clip; or a tensor (b, 3, f, h, w) in [-1, 1]."""

MOST_NOISE = 350
"""Highest noise level that Upscale-A-Video's script takes."""
DECODED = 3
"""Frames decoded at once: those the published autoencoders' norms span."""
TILE = 320
"""Pixels along a side of a tile, where nobody says: what the published tiles see, 256 and 64."""


@dataclass(frozen=True)
class UpscaleCall:
    """The numbers of one call; as `VideoUpscalePipeline.__call__` documents them.

    Attributes:
        steps: num_inference_steps.
        guidance: guidance_scale.
        level: noise_level.
        propagate: loop indices of propagation.
        window: frames the network sees at once.
        overlap: frames two windows share.
        tile: side of a tile, None for the arrangement's own.
        tile_overlap: pixels two tiles share.
        chunk: frames decoded at once.
        strength: of the autoencoder's condition.
        published: whether the arrangement is the published one.
        first_frame: absolute index of the first frame.
        output: output_type.
        callback: called after every step, if there is one.
        callback_inputs: names of the tensors it gets.
    """

    steps: int
    guidance: float
    level: int
    propagate: tuple[int, ...]
    window: int
    overlap: int
    tile: int | None
    tile_overlap: int
    chunk: int
    strength: float
    published: bool
    first_frame: int
    output: str
    callback: Callable[..., dict[str, Any]] | None
    callback_inputs: tuple[str, ...]

    @property
    def guided(self) -> bool:
        return self.guidance > 1

    @property
    def side(self) -> int:
        """Pixels along a side of a tile; published ones are cut before they get here."""
        return given_or(self.tile, TILE)

    def problems(self, frames: int) -> Sequence[str]:
        """What cannot work, as sentences."""
        found = []
        for name, number, least in (
            ("num_inference_steps", self.steps, 1),
            ("window", self.window, 1),
            ("decode_chunk_size", self.chunk, 1),
            ("first_frame", self.first_frame, 0),
            ("the number of frames", frames, 1),
        ):
            if number < least:
                found.append(f"{name} is {number}, but must be at least {least}")
        if not 0 <= self.level <= MOST_NOISE:
            found.append(
                f"noise_level is {self.level}, but must be from 0 to {MOST_NOISE}; 120 is usual"
            )
        if not 0 <= self.overlap < self.window:
            found.append(
                f"overlap is {self.overlap}, but must be from 0 to {self.window - 1}, less than "
                f"the window of {self.window} frames"
            )
        if not self.published and not 0 <= self.tile_overlap < self.side:
            found.append(
                f"tile_overlap is {self.tile_overlap}, but must be from 0 to {self.side - 1}, less "
                f"than the tile of {self.side} pixels"
            )
        outside = sorted(index for index in self.propagate if not 0 <= index < self.steps)
        if outside:
            found.append(
                f"propagate names steps {outside}, but a run of {self.steps} has 0 (noisiest) to "
                f"{self.steps - 1}"
            )
        return found

    def views(self, shape: Sequence[int]) -> Views:
        """What the U-Net sees at once."""
        frames, height, width = shape[2:]
        if self.published:
            windows = published_windows(frames)
            whole = tiles(height, width, max(height, width), 0)
            return Views(windows, published_weights(windows), whole)
        cut = tiles(height, width, self.side, self.tile_overlap)
        return Views.smooth(spans(frames, self.window, self.overlap), cut)

    def decoding(self, shape: Sequence[int]) -> Views:
        """What the autoencoder sees at once."""
        frames, height, width = shape[2:]
        if self.published:
            whole = tiles(height, width, max(height, width), 0)
            return Views.smooth(published_chunks(frames), whole)
        # The last chunk is moved back, so that the norms of all span as many frames.
        chunks = spans(frames, self.chunk, 0)
        return Views.smooth(chunks, tiles(height, width, self.side, self.tile_overlap))


class PublishedNoise:
    """Noise in the order and layout the reference implementation draws it.

    The generator advances.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(self, key: Key, shape: Sequence[int], device: torch.device) -> Latent:
        own = self.generator.device
        return torch.randn(tuple(shape), generator=self.generator, device=own).to(device)


def pixels(frames: Clip) -> Float[Tensor, "b 3 f h w"]:
    """Frames in [-1, 1].

    Raises:
        CheckError: a tensor with other axes.
    """
    if isinstance(frames, Tensor):
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise CheckError(
                [
                    f"frames of shape {tuple(frames.shape)} are no clip; give a tensor "
                    "(b, 3, f, h, w) in [-1, 1], PIL images, or an array (f, h, w, 3)"
                ]
            )
        return frames.float()
    pixels = torch.from_numpy(np.ascontiguousarray(as_bytes(frames)))
    return rearrange(pixels, "f h w c -> 1 c f h w").float() / 127.5 - 1


def cut_flow(flow: Flow | None, tile: Tile) -> Flow | None:
    """The flow within a tile."""
    return None if flow is None else Flow(*(tile.cut(part) for part in flow))


def scaled_tile(tile: Tile, factor: int) -> Tile:
    """The same tile on a grid `factor` times as fine."""
    return Tile(*(range(side.start * factor, side.stop * factor) for side in tile))


def within(part: range, whole: range, factor: int) -> range:
    """A range by its places in another, on a finer grid."""
    return range((part.start - whole.start) * factor, (part.stop - whole.start) * factor)
