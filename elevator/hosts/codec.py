"""Autoencoders of pipelines: clean latents as their networks take them, to frames and back.

A causal video autoencoder makes one latent frame of the first picture and one of every following
few; an image model knows only latents of single pictures. So a clip crosses from one to the other
as pixels, even where both have the same weights.
"""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from elevator.denoise import Call, record_call
from elevator.errors import CheckError
from elevator.hosts.latent_space import TOLERANCE, distance, encoding_device, probe
from elevator.hosts.pipeline import knows_its_frames, pixels_per_latent
from elevator.latent import Latent
from elevator.through import Bridge, Other, Shape

__all__ = ["Codec", "LatentBridge", "SameSpace", "bridge", "codec"]

Frames = Float[Tensor, "b 3 F H W"]


@dataclass(frozen=True, eq=False)
class Codec:
    r"""An autoencoder with the normalisation its pipeline uses, $c = (E(x) - \mu)\,/\,s$.

    Attributes:
        vae: the autoencoder.
        mean: $\mu$, `(c, 1)`; `(c, f)` where every latent frame has its own (Cosmos).
        spread: $s$, of the same shape.
        space: pixels along a side of a latent pixel.
        time: pictures of a latent frame after the first; 1 where every picture has its own.
        name: what `el.plan` calls it.
        at_once: pictures that are encoded or decoded at once where each has a latent of its own.
    """

    vae: Any = field(repr=False)
    mean: Float[Tensor, "c m"] = field(repr=False)
    spread: Float[Tensor, "c m"] = field(repr=False)
    space: int
    time: int
    name: str
    at_once: int = 8

    def frames_shape(self, shape: Shape) -> Shape:
        """Shape of the frames `(b, 3, f, h, w)` of latents of a shape."""
        b, _, f, h, w = shape
        return b, 3, self.time * (f - 1) + 1, self.space * h, self.space * w

    def latent_shape(self, shape: Shape) -> Shape:
        """Shape of the latents of frames of a shape."""
        b, _, f, h, w = shape
        return b, len(self.mean), (f - 1) // self.time + 1, h // self.space, w // self.space

    def decode(self, latents: Latent) -> Frames:
        """Frames in about [-1, 1].

        Raises:
            CheckError: the autoencoder has no statistics for so many latent frames, or makes
                another number of pictures of them.
        """
        expected = self.frames_shape(_five(latents))
        mean, spread = self._factors(latents.shape[2], latents.device)
        record_call(Call(f"{self.name} decoder", latents.shape[0], latents.shape[2]))
        if latents.is_meta:
            return torch.empty(expected, device="meta")
        raw = (latents.float() * spread + mean).to(self.vae.dtype)
        with torch.no_grad():
            told = inspect.signature(self.vae.decode).parameters
            if "num_frames" in told:  # it looks at neighbours, and must know whose they are
                clips = raw.transpose(1, 2)
                parts = [self.vae.decode(clip, num_frames=len(clip)).sample for clip in clips]
            elif self.vae.config.get("timestep_conditioning"):  # it may denoise a little; not here
                parts = [self.vae.decode(raw, temb=raw.new_zeros(len(raw))).sample]
            else:
                parts = [self.vae.decode(part).sample for part in self._parts(raw)]
        frames = self._whole(parts, latents.shape[0]).float()
        self._require(frames, expected, f"decodes {latents.shape[2]} latent frames")
        return frames

    def pictures(self, latents: Latent) -> Float[Tensor, "b F 3 H W"]:
        """Frames in about [0, 1], as `el.preview` shows them."""
        return self.decode(latents).transpose(1, 2) / 2 + 0.5

    def encode(self, frames: Frames) -> Latent:
        """Clean latents of frames in [-1, 1]: the mode of the posterior.

        Raises:
            CheckError: the autoencoder does not take frames of that number or size.
        """
        _, _, count, height, width = frames.shape
        if (count - 1) % self.time or height % self.space or width % self.space:
            clips = f"{self.time}k + 1 pictures" if self.time > 1 else "pictures"
            raise CheckError(
                [
                    f"{self.name} encodes {clips} with sides that are multiples of {self.space} "
                    f"pixels, not {count} of {width}x{height}; give the host a size and length "
                    "that both autoencoders can make"
                ]
            )
        expected = self.latent_shape(_five(frames))
        mean, spread = self._factors(expected[2], frames.device)
        record_call(Call(f"{self.name} encoder", frames.shape[0], frames.shape[2]))
        if frames.is_meta:
            return torch.empty(expected, device="meta")
        with torch.no_grad():
            parts = [
                _mode(self.vae.encode(part)) for part in self._parts(frames.to(self.vae.dtype))
            ]
        raw = self._whole(parts, frames.shape[0]).float()
        self._require(raw, expected, f"encodes {count} pictures")
        return (raw - mean) / spread

    def _factors(self, frames: int, device: torch.device) -> list[Float[Tensor, "c n 1 1"]]:
        """Mean and spread of so many latent frames."""
        known = self.mean.shape[1]
        if 1 < known < frames:
            raise CheckError(
                [
                    f"{self.name} knows the statistics of {known} latent frames, and was given "
                    f"{frames}; give the host fewer frames"
                ]
            )
        factors = (values[:, :frames, None, None] for values in (self.mean, self.spread))
        return [values.to(device, torch.float32) for values in factors]

    def _require(self, made: Tensor, expected: Shape, does: str) -> None:
        if tuple(made.shape) != expected:
            raise CheckError(
                [
                    f"{self.name} {does} to {tuple(made.shape)}, where {expected} (b c f h w) was "
                    "expected, so the clip cannot cross; give the host another number of frames "
                    "(CogVideoX's autoencoder takes odd numbers of latent frames only)"
                ]
            )

    def _parts(self, clip: Tensor) -> Iterator[Tensor]:
        """As the autoencoder takes a clip: whole, or some pictures at once."""
        if self.time > 1:
            yield clip
            return
        single = "(b f) c 1 h w" if _is_video(self.vae) else "(b f) c h w"
        yield from rearrange(clip, f"b c f h w -> {single}").split(self.at_once)

    def _whole(self, parts: list[Tensor], clips: int) -> Tensor:
        joined = torch.cat(parts)
        if self.time > 1:
            return joined
        single = "(b f) c 1 h w" if joined.ndim == 5 else "(b f) c h w"
        return rearrange(joined, f"{single} -> b c f h w", b=clips)


@final
@dataclass(frozen=True)
class SameSpace:
    """The bridge between models of one latent space: nothing to do."""

    def across(self, latent: Latent) -> Latent:
        """The latent itself."""
        return latent

    def back(self, latent: Latent) -> Latent:
        """The latent itself."""
        return latent

    def shape_across(self, shape: Shape) -> Shape:
        """The shape itself."""
        return shape

    def pictures_across(self, pictures: int) -> int:
        """As many."""
        return pictures

    def check(self, frames: int | None) -> Iterable[str]:
        """Nothing stands against it."""
        return ()


@final
@dataclass(frozen=True)
class LatentBridge:
    """Through pixels: decoded here, encoded there, and back.

    Attributes:
        here: the host's autoencoder.
        there: the other model's.
    """

    here: Codec
    there: Codec

    def __repr__(self) -> str:
        return f"<bridge from {self.here.name} to {self.there.name}>"

    def across(self, latent: Latent) -> Other:
        """From the host's latents to the other model's."""
        return self.there.encode(self.here.decode(latent).clamp(-1, 1))

    def back(self, latent: Latent) -> Other:
        """From the other model's latents to the host's."""
        return self.here.encode(self.there.decode(latent).clamp(-1, 1))

    def shape_across(self, shape: Shape) -> Shape:
        """The shape of the other model's latents."""
        return self.there.latent_shape(self.here.frames_shape(shape))

    def pictures_across(self, pictures: int) -> int:
        """The other autoencoder's."""
        return self.there.time

    def check(self, frames: int | None) -> Iterable[str]:
        """Both must have the same pictures."""
        if frames is None:
            return
        pictures = self.here.time * (frames - 1) + 1
        kept = self.there.time * ((pictures - 1) // self.there.time) + 1
        if kept != pictures:
            yield (
                f"{self.there.name} makes latents of {self.there.time}k + 1 pictures, so {pictures}"
                f" cannot cross; give {kept} or {kept + self.there.time} frames"
            )

    def loss(self, latent: Latent) -> float:
        """What a round trip changes: the relative L2 distance of latents here."""
        return distance(self.back(self.across(latent)), latent.float())


def codec(pipeline: Any, name: str | None = None) -> Codec:
    """The autoencoder of a pipeline, as the pipeline itself uses it.

    Args:
        pipeline: an image or a video pipeline with a `vae`.
        name: what `el.plan` calls it; the pipeline's class by default.

    Raises:
        CheckError: there is no autoencoder, or no known normalisation.
    """
    vae, called = getattr(pipeline, "vae", None), type(pipeline).__name__
    if vae is None:
        raise CheckError([f"{called} has no vae, so its latents cannot be seen; load one with it"])
    space, time = pixels_per_latent(pipeline)
    mean, spread = _normalisation(pipeline)
    own_frames = knows_its_frames(pipeline) and _is_video(vae)
    return Codec(vae, mean, spread, space, time if own_frames else 1, name or called)


def bridge(here: Any, there: Any) -> Bridge:
    """The way from one pipeline's clean latents to another's.

    Nothing to do where both encode a short clip alike, which is measured (within 2 % of its norm);
    else through pixels.

    Args:
        here: the pipeline a hook is attached to.
        there: the pipeline whose latents the hook works on.

    Raises:
        CheckError: one of them has no autoencoder, or no known normalisation.
    """
    own, other = codec(here), codec(there)
    if _kind(own) == _kind(other):
        picture = probe(8 * own.space)
        clip = torch.stack([picture.roll(4 * shift, -1) for shift in range(own.time + 1)], dim=2)
        seen, told = (
            one.encode(clip.to(encoding_device(pipeline))).cpu()
            for one, pipeline in ((own, here), (other, there))
        )
        if distance(seen, told) <= TOLERANCE:
            return SameSpace()
    return LatentBridge(own, other)


def _kind(one: Codec) -> tuple[int, int, int]:
    """What the shape of its latents depends on."""
    return one.space, one.time, len(one.mean)


def _five(tensor: Tensor) -> Shape:
    b, c, f, h, w = tensor.shape
    return b, c, f, h, w


def _is_video(vae: Any) -> bool:
    """Whether an autoencoder takes clips rather than pictures."""
    kinds = (nn.Conv2d, nn.Conv3d)
    first = next(module for module in vae.encoder.modules() if isinstance(module, kinds))
    return isinstance(first, nn.Conv3d)


def _mode(encoded: Any) -> Tensor:
    distribution = getattr(encoded, "latent_dist", None)
    latents: Tensor = encoded.latents if distribution is None else distribution.mode()
    return latents


def _normalisation(pipeline: Any) -> tuple[Tensor, Tensor]:
    """Mean and spread `(c, m)` of an autoencoder's raw latents, as its pipeline takes them out."""
    vae, config = pipeline.vae, pipeline.vae.config
    scale = config.get("scaling_factor")
    channels = config.get("latent_channels") or config.get("z_dim")
    # In the configuration, or (LTX) among the weights.
    means, spreads = (
        config.get(name) if config.get(name) is not None else vars(vae)["_buffers"].get(name)
        for name in ("latents_mean", "latents_std")
    )
    if channels and means is not None and spreads is not None:
        mean, spread = (
            torch.as_tensor(v).float().cpu().reshape(channels, -1) for v in (means, spreads)
        )
        # Cosmos' networks take latents of its scheduler's spread.
        cosmos = type(pipeline).__name__.startswith("Cosmos")
        data = float(pipeline.scheduler.config.get("sigma_data", 1.0)) if cosmos else 1.0
        return mean, spread / ((scale or 1.0) * data)
    if not channels or scale is None:
        raise CheckError(
            [
                f"{type(vae).__name__} has neither scaling_factor nor latents_mean and "
                "latents_std for latent_channels, so how its latents are normalised is not known"
            ]
        )
    shift = config.get("shift_factor") or 0.0
    return torch.full((channels, 1), float(shift)), torch.full((channels, 1), 1 / float(scale))
