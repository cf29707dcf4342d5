"""The numbers of one call of `VideoUpscalePipeline`, and what it cuts a clip into."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from elevator.errors import CheckError
from elevator.hosts.scheduler import is_hooked
from elevator.pipelines.arguments import given_or
from elevator.pipelines.views import Views
from elevator.video.io import as_bytes
from elevator.video.windows import (
    PublishedTile,
    Tile,
    published_chunks,
    published_tiles,
    published_weights,
    published_windows,
    spans,
    tiles,
)

__all__ = [
    "DECODED",
    "SMALLEST",
    "Arrangement",
    "Clip",
    "Colour",
    "UpscaleCall",
    "at_least",
    "latent_shape",
    "pixels",
    "require",
    "scaled_tile",
    "within",
]

Clip: TypeAlias = NDArray[Any] | Sequence[PIL.Image.Image] | Float[Tensor, "..."]
"""PIL images or an array (f, h, w, 3), one clip; or a tensor (b, 3, f, h, w) in [-1, 1]."""

Arrangement: TypeAlias = Literal["smooth", "published"]
Colour: TypeAlias = Literal["none", "adain", "wavelet"]

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
        colour: whose colours the result gets.
        arrangement: how the clip is cut.
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
    colour: str
    arrangement: str
    first_frame: int
    output: str
    callback: Callable[..., dict[str, Any]] | None
    callback_inputs: tuple[str, ...]

    @property
    def published(self) -> bool:
        """Whether the arrangement is the published one."""
        return self.arrangement == "published"

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
        for name, word, known in (
            ("colour", self.colour, get_args(Colour)),
            ("arrangement", self.arrangement, get_args(Arrangement)),
            ("output_type", self.output, ("pil", "np", "pt", "latent")),
        ):
            if word not in known:
                found.append(f"{name} {word!r} is unknown; use one of {', '.join(known)}")
        return found

    def parts(self, height: int, width: int) -> Sequence[PublishedTile]:
        """Tiles that are sampled by themselves, with hard edges; one where nothing is cut.

        Raises:
            CheckError: the published tiles leave nothing of the picture.
        """
        if not self.published:
            whole = Tile(range(height), range(width))
            return [PublishedTile(whole, whole)]
        plan = published_tiles(
            height, width, given_or(self.tile, 256), always=self.tile is not None
        )
        if not plan:
            raise CheckError(
                [
                    f"the published tiles of {self.tile} pixels leave nothing of a picture of "
                    f"{height}x{width}; give larger ones, or none"
                ]
            )
        return plan

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


def require(
    pipe: Any,
    call: UpscaleCall,
    low: Float[Tensor, "b 3 f h w"],
    latents: Tensor | None,
    generator: torch.Generator | list[torch.Generator] | None,
) -> None:
    """Refuse arguments that cannot work, all at once.

    Args:
        pipe: the pipeline.
        call: the numbers.
        low: the frames.
        latents: initial noise, if the caller gave it.
        generator: what seeds the noise.

    Raises:
        CheckError: a number out of range, a word that is unknown, sizes that do not fit.
    """
    problems = list(call.problems(low.shape[2]))
    inputs, scheduler = pipe._callback_tensor_inputs, pipe.scheduler
    unknown = [name for name in call.callback_inputs if name not in inputs]
    if unknown:
        problems.append(f"callbacks can be given {' and '.join(inputs)}, not {', '.join(unknown)}")
    shape = latent_shape(pipe, low)
    if latents is not None and tuple(latents.shape) != shape:
        problems.append(
            f"latents of shape {tuple(latents.shape)} do not fit the frames; give {shape}"
        )
    if isinstance(generator, list) and len(generator) != len(low):
        problems.append(
            f"{len(generator)} generators were given for {len(low)} clips; give one, or one "
            "per clip"
        )
    trained = scheduler.config.get("num_train_timesteps", call.steps)
    if call.steps > trained:
        problems.append(
            f"num_inference_steps is {call.steps}, but the {type(scheduler).__name__} has "
            f"{trained} steps; give that many at most (30 are usual)"
        )
    if hasattr(scheduler, "noise_sampler"):
        problems.append(
            f"{type(scheduler).__name__} draws noise of its own, which no seed and no "
            "frame has a say in; switch the solver (DPMSolverMultistepScheduler with "
            'algorithm_type="sde-dpmsolver++" is one of its kind)'
        )
    if call.propagate and is_hooked(scheduler):
        problems.append(
            "a hook is attached to this pipeline, which attaches propagation itself; give that "
            "hook as hook=..., or propagate=() and attach recipes.upscale_a_video with it"
        )
    if problems:
        raise CheckError(problems)


def latent_shape(pipe: Any, low: Float[Tensor, "b 3 f h w"]) -> tuple[int, int, int, int, int]:
    """Shape of a clip's latents, which lie on the grid of its frames."""
    clips, _, frames, height, width = low.shape
    return clips, pipe.vae.config.latent_channels, frames, height, width


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


def scaled_tile(tile: Tile, factor: int) -> Tile:
    """The same tile on a grid `factor` times as fine."""
    return Tile(*(range(side.start * factor, side.stop * factor) for side in tile))


def within(part: range, whole: range, factor: int) -> range:
    """A range by its places in another, on a finer grid."""
    return range((part.start - whole.start) * factor, (part.stop - whole.start) * factor)
