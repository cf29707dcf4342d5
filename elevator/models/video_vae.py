r"""The autoencoders of Upscale-A-Video: Stable Diffusion's, with norms and convolutions over time.

**Memory of the attention in the middle.** It is over all n = h w latent pixels of a frame, with one
head of c channels. Scores as a matrix take 4 n² bytes a frame in float32: at 320x320 low-resolution
pixels, n = 102400, 39 GiB, and 117 GiB for three frames. Here frames go one by one and queries
in rows, so that scores take at most `SCORES` = 64 MiB, whatever kernel torch chooses (one that
writes them down needs three such arrays). Of one frame there are besides, at c = 512 in 200 MiB
each, up to four arrays of n c numbers (normed tokens, keys, values and what the norm copies), and
the result of all frames. Beside its input the layer then holds at most

    4 · 200 MiB (one frame)  +  3 · 64 MiB (scores)  +  3 · 200 MiB (result of 3 frames)  = 1.6 GiB

(counted: 1.43 GiB) instead of 117 GiB and the same result, and no longer the square of n.
"""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from elevator.errors import CheckError, CheckpointError
from elevator.latent import Latent
from elevator.models.published import Source, fill, known, read_config, read_weights, taken_over
from elevator.models.temporal_blocks import (
    Downsample,
    FrameConv,
    FrameNorm,
    FrameResnet,
    Upsample,
    zeroed,
)

__all__ = ["ConditionFuse", "FrameAttention", "VideoVAE"]

SCORES = 64 * 2**20
"""Bytes that the scores of attention may take at once."""

EPS = 1e-6

_PUBLISHED = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Today's names of an autoencoder's attention layers, and those of its published weights."""


class FrameAttention(nn.Module):
    r"""Self-attention of the pixels of every frame, one head: $y = x + W_o\,A(N(x))$.

    Args:
        channels: channels in and out.
        groups: groups of the norm, whose statistics are those of single frames.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.proj_attn = nn.Linear(channels, channels)

    def forward(self, x: Latent) -> Latent:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        for frame in range(x.shape[2]):
            here = rearrange(x[:, :, frame], "b c h w -> b (h w) c")
            tokens = rearrange(self.group_norm(x[:, :, frame]), "b c h w -> b (h w) c")
            seen = y[:, :, frame].flatten(2).mT  # a view: written to in place
            self._attend(tokens, here, seen)
        return y

    def _attend(
        self,
        tokens: Float[Tensor, "b n c"],
        here: Float[Tensor, "b n c"],
        seen: Float[Tensor, "b n c"],
    ) -> None:
        """Write down every token's answer, as many at once as `SCORES` allows."""
        clips, count, _ = tokens.shape
        k, v = self.key(tokens)[:, None], self.value(tokens)[:, None]
        rows = max(1, SCORES // (clips * count * tokens.element_size()))
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            q = self.query(tokens[:, part])[:, None]
            answer = scaled_dot_product_attention(q, k, v)[:, 0]
            seen[:, part] = here[:, part] + self.proj_attn(answer)


class VideoVAE(ModelMixin, ConfigMixin):
    r"""Both autoencoders of Upscale-A-Video (Zhou et al. 2024, arXiv 2312.06640, section 3.3).

    Defaults are those of `vae_3d`, the x4 image upscaler's autoencoder on frames: 204 tensors. With
    `volume=True, condition_channels=128` it is `vae_video`, 296 tensors, whose decoder convolves
    over 3x3x3 and is modulated by the clean low-resolution frames l,

    $$f' = f + w\,(f \cdot s(l, f) + t(l, f)),$$

    right after its first convolution, with strength w. What an image autoencoder does not have is
    neutral when made.

    Chunks: with `norm_over_frames`, as published, the norms' statistics span all frames given, so a
    clip decoded in chunks differs from the clip decoded at once. Published results are of chunks of
    three frames.

    Args:
        in_channels: channels of a frame.
        out_channels: channels of a decoded frame.
        latent_channels: channels of a latent.
        block_out_channels: channels of the levels; each but the last halves the sides.
        layers_per_block: residual blocks of a level of the encoder; one more in the decoder.
        norm_num_groups: groups of every norm.
        sample_size: side of the frames it was trained on; for information.
        scaling_factor: what latents are multiplied by for the U-Net.
        volume: 3x3x3 convolutions in the decoder's residual blocks.
        condition_channels: width of what is made of low-resolution frames; None for no condition.
        norm_over_frames: statistics of the residual blocks' norms span all frames given.

    Raises:
        CheckError: channels that the groups do not divide.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 4,
        block_out_channels: Sequence[int] = (128, 256, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        sample_size: int | None = 256,
        scaling_factor: float = 0.08333,
        volume: bool = False,
        condition_channels: int | None = None,
        norm_over_frames: bool = True,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        for width in (*widths, *([condition_channels] if condition_channels else [])):
            if width % norm_num_groups:
                raise CheckError(
                    [f"{width} channels are no multiple of norm_num_groups={norm_num_groups}"]
                )
        norms: dict[str, Any] = {"groups": norm_num_groups, "over_frames": norm_over_frames}
        self.encoder = _Encoder(in_channels, 2 * latent_channels, widths, layers_per_block, norms)
        self.decoder = _Decoder(
            latent_channels,
            out_channels,
            widths,
            layers_per_block + 1,
            norms,
            volume=volume,
            condition=condition_channels,
            condition_in=in_channels,
        )
        self.quant_conv = FrameConv(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = FrameConv(latent_channels, latent_channels, 1)

    def encode(self, frames: Float[Tensor, "b c f h w"], return_dict: bool = True) -> Any:
        """The distribution of latents of frames in [-1, 1]; sides are multiples of `factor`."""
        code = DiagonalGaussianDistribution(self.quant_conv(self.encoder(frames)))
        return AutoencoderKLOutput(latent_dist=code) if return_dict else (code,)

    def decode(
        self,
        latents: Latent,
        condition: Float[Tensor, "b i f y x"] | None = None,
        strength: float = 1.0,
        return_dict: bool = True,
    ) -> Any:
        """Frames of latents, about [-1, 1].

        Args:
            latents: divided by `scaling_factor` already, as for any autoencoder of diffusers.
            condition: low-resolution frames of the latents' size, in [-1, 1]; ignored by an
                autoencoder without `condition_channels`.
            strength: weight w of the modulation; at 0 no condition is needed.
            return_dict: give an object with `sample`, and not a tuple.

        Raises:
            CheckError: a condition is missing, or has another size.
        """
        if self.config.condition_channels is not None and strength != 0:
            size, wanted = None if condition is None else tuple(condition.shape), latents.shape
            if size is None or (size[0], *size[2:]) != (wanted[0], *wanted[2:]):
                raise CheckError(
                    [
                        "this VideoVAE is conditioned on low-resolution frames of the latents' "
                        f"clips, frames and size {(wanted[0], *wanted[2:])}, got {size}; give "
                        "condition=..., or strength=0"
                    ]
                )
        else:
            condition = None
        sample = self.decoder(self.post_quant_conv(latents), condition, strength)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        frames: Float[Tensor, "b c f h w"],
        condition: Float[Tensor, "b i f y x"] | None = None,
        strength: float = 1.0,
        return_dict: bool = True,
    ) -> Any:
        """Frames through the latents' mean and back."""
        latents = self.encode(frames).latent_dist.mode()
        return self.decode(latents, condition, strength, return_dict)

    @property
    def factor(self) -> int:
        """Pixels along a side of a latent pixel."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    @classmethod
    def from_vae2d(cls, vae: Any, **options: Any) -> "VideoVAE":
        """An image autoencoder, on every frame.

        Args:
            vae: an `AutoencoderKL` of Stable Diffusion's kind; it is not changed.
            **options: any argument of this class, such as `volume=True`, neutral at first, like
                `condition_channels=...`. Without `norm_over_frames=True` the norms' statistics stay
                those of single frames.

        Raises:
            CheckError: the autoencoder has parts this class has no place for.
        """
        config = {"norm_over_frames": False} | known(cls, vae.config) | options
        network = cls(**config)
        tensors = _published_names(vae.state_dict())
        missing, extra = network.load_state_dict(tensors, strict=False)
        new = ("norm_3d", "conv_3d", "condition_")
        lost = [name for name in missing if not any(part in name for part in new)]
        return taken_over(network, vae, lost, extra)

    @classmethod
    def from_published(
        cls,
        weights: Source,
        config: str | PathLike[str] | Mapping[str, Any] | None = None,
    ) -> "VideoVAE":
        """Load `vae_3d.bin` or `vae_video.bin` as they were published.

        Args:
            weights: the file, or its tensors by name.
            config: the json beside it or its content; None tells the two apart by their tensors
                and takes the published numbers.

        Raises:
            CheckpointError: it cannot be read or does not fit.
        """
        tensors = read_weights(weights)
        settings = {} if config is None else read_config(config)
        conditioned = settings.get("condition_img", False)
        if config is None:
            conditioned = any(name.startswith("decoder.condition_in.") for name in tensors)
        if settings.get("act_fn", "silu") != "silu":
            raise CheckpointError(
                f"VideoVAE cannot take act_fn={settings['act_fn']!r}; give the published silu"
            )
        told = known(cls, settings)
        if conditioned:
            told.setdefault("condition_channels", 128)
        kinds = settings.get("up_block_types")
        volume = any("plus" in kind for kind in kinds) if kinds else conditioned
        network = cls(**told | {"volume": volume})
        fill(network, _published_names(tensors))
        return network.eval()


class _Level(nn.Module):
    """Residual blocks of one size, then a change of it."""

    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(
        self,
        resnets: Sequence[FrameResnet],
        *,
        attention: FrameAttention | None = None,
        down: Downsample | None = None,
        up: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attention is not None:
            self.attentions = nn.ModuleList([attention])
        if down is not None:
            self.downsamplers = nn.ModuleList([down])
        if up is not None:
            self.upsamplers = nn.ModuleList([up])
        self.attends, self.halves, self.doubles = attention is not None, bool(down), bool(up)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for place, resnet in enumerate(self.resnets):
            if self.attends and place == 1:
                x = self._run(self.attentions[0], x)
            x = self._run(resnet, x)
        if self.halves:
            x = self.downsamplers[0](x)
        return self.upsamplers[0](x) if self.doubles else x

    def _run(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, x)
        return layer(x)


def _middle(channels: int, norms: Mapping[str, Any], *, volume: bool = False) -> _Level:
    resnets = [FrameResnet(channels, channels, eps=EPS, volume=volume, **norms) for _ in range(2)]
    return _Level(resnets, attention=FrameAttention(channels, norms["groups"]))


class _Encoder(nn.Module):
    """Frames to the means and logarithms of variances of latents, before `quant_conv`."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        widths: Sequence[int],
        layers: int,
        norms: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.conv_in = FrameConv(channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        before = widths[0]
        for level, width in enumerate(widths):
            ins = [before, *[width] * (layers - 1)]
            resnets = [FrameResnet(one, width, eps=EPS, **norms) for one in ins]
            last = level == len(widths) - 1
            self.down_blocks.append(_Level(resnets, down=None if last else Downsample(width, 0)))
            before = width
        self.mid_block = _middle(before, norms)
        self.conv_norm_out = FrameNorm(norms["groups"], before, EPS, norms["over_frames"])
        self.conv_out = FrameConv(before, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))


class _Decoder(nn.Module):
    """Latents, after `post_quant_conv`, to frames; modulated by low-resolution ones if told so."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        widths: Sequence[int],
        layers: int,
        norms: Mapping[str, Any],
        *,
        volume: bool,
        condition: int | None,
        condition_in: int,
    ) -> None:
        super().__init__()
        options = {"eps": EPS, "volume": volume, **norms}
        before = widths[-1]
        self.conv_in = FrameConv(channels, before, 3, padding=1)
        if condition is not None:
            plus = {"eps": EPS, "volume": True, **norms}
            self.condition_in = nn.Sequential(
                FrameResnet(condition_in, condition, **plus),
                FrameResnet(condition, condition, **plus),
            )
            self.condition_fuse = ConditionFuse(condition, before, norms)
        self.mid_block = _middle(before, norms, volume=volume)
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(reversed(widths)):
            ins = [before, *[width] * (layers - 1)]
            resnets = [FrameResnet(one, width, **options) for one in ins]
            last = level == len(widths) - 1
            self.up_blocks.append(_Level(resnets, up=None if last else Upsample(width)))
            before = width
        self.conv_norm_out = FrameNorm(norms["groups"], before, EPS, norms["over_frames"])
        self.conv_out = FrameConv(before, out_channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor | None, strength: float) -> Tensor:
        x = self.conv_in(x)
        if condition is not None:
            x = self.condition_fuse(self.condition_in(condition), x, strength)
        x = self.mid_block(x)
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(silu(self.conv_norm_out(x)))


class ConditionFuse(nn.Module):
    r"""Scale and shift features by what a condition says: $f + w\,(f \cdot s + t)$.

    Args:
        condition: channels of the condition.
        channels: channels of the features.
        norms: `groups` and `over_frames` of the norms.
    """

    def __init__(self, condition: int, channels: int, norms: Mapping[str, Any]) -> None:
        super().__init__()
        self.shared = nn.Sequential(
            FrameResnet(condition + channels, channels, eps=EPS, **norms),
            FrameResnet(channels, channels, eps=EPS, **norms),
        )
        self.scale = zeroed(FrameConv(channels, channels, 3, padding=1))
        self.shift = zeroed(FrameConv(channels, channels, 3, padding=1))

    def forward(
        self, condition: Float[Tensor, "b i f h w"], features: Latent, strength: float
    ) -> Latent:
        both = self.shared(torch.cat([condition, features], dim=1))
        return features + strength * (features * self.scale(both) + self.shift(both))


def _published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with its attention layers under their published names, as matrices."""
    renamed = {}
    for name, value in tensors.items():
        head, marked, layer = name.partition(".attentions.0.")
        if marked:
            for today, then in _PUBLISHED.items():
                if layer.startswith(f"{today}."):
                    layer = then + layer.removeprefix(today)
            if value.ndim == 4:  # 1x1 convolutions of the oldest checkpoints
                value = value.flatten(1)
        renamed[head + marked + layer] = value
    return renamed
