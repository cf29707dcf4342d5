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
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

from elevator.errors import CheckError
from elevator.filters import Flow
from elevator.latent import Latent
from elevator.noise import Key, Noise
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
    "SMALLEST",
    "Clip",
    "PublishedNoise",
    "SolverNoise",
    "UpscaleCall",
    "at_least",
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
SMALLEST = 2
"""Least side the networks are given: a norm of one channel has no spread over a single pixel."""
_FARTHEST = 2.0
"""Beyond this, numbers are no overshoot of [-1, 1] but of another scale."""
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


class SolverNoise(TorchFunctionMode):
    """Within it, what a solver draws from `generator` is noise by seed, step and absolute frame.

    Solvers of diffusers that draw noise at every step are told a generator only, of which they draw
    all clips and frames in a row: a clip beside another, or a stretch from the middle of a clip,
    would get other noise than by itself. Draws from other generators, such as a hook's within the
    step, stay as they are.

    Args:
        noise: where to draw from instead.
        first_frame: absolute index of the first frame.

    Attributes:
        generator: to be told to the solver; it is never drawn from.
        step: index of the sampling step.
    """

    def __init__(self, noise: Noise, first_frame: int) -> None:
        super().__init__()
        self.noise, self.first_frame = noise, first_frame
        self.generator = torch.Generator()
        self.step = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.randn or kwargs.get("generator") is not self.generator:
            return func(*args, **kwargs)
        device = torch.device(kwargs.get("device") or "cpu")
        key = Key(self.step, (), "solver", self.first_frame)
        return self.noise(key, tuple(args[0]), device).to(kwargs.get("dtype") or torch.float32)


def at_least(clip: Float[Tensor, "b c f h w"], side: int) -> Float[Tensor, "b c f y x"]:
    """A clip with its last rows and columns repeated where it has fewer than `side`."""
    below, right = (max(0, side - size) for size in clip.shape[-2:])
    # Padding with nothing would be a copy.
    return pad(clip, (0, right, 0, below, 0, 0), mode="replicate") if below or right else clip


def pixels(frames: Clip) -> Float[Tensor, "b 3 f h w"]:
    """Frames in [-1, 1].

    Raises:
        CheckError: no frames, a tensor with other axes, or of another scale than [-1, 1].
    """
    if not isinstance(frames, Tensor) and len(frames) == 0:
        raise CheckError(["the clip has no frames; give one at least"])
    if isinstance(frames, Tensor):
        if frames.ndim != 5 or frames.shape[1] != 3 or 0 in frames.shape:
            raise CheckError(
                [
                    f"frames of shape {tuple(frames.shape)} are no clip; give a tensor "
                    "(b, 3, f, h, w) in [-1, 1], PIL images, or an array (f, h, w, 3)"
                ]
            )
        least, most = (float(one) for one in frames.aminmax())
        if not (least >= -_FARTHEST and most <= _FARTHEST):
            raise CheckError(
                [
                    f"frames hold numbers from {least:g} to {most:g}, but a tensor of frames is in "
                    "[-1, 1]; divide bytes by 127.5 and take 1 away, or give them as an array "
                    "(f, h, w, 3)"
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
