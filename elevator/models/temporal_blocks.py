r"""Convolutional blocks of video networks that grow out of image networks.

Activations keep the axes `b c f h w` throughout. A 2-D layer takes the frames one by one, with the
4-D weights it has in the image network; a temporal layer mixes the frames of a pixel, or of a
neighbourhood. Layers that an image network does not have are neutral when they are made: their last
convolution is zero, so that $y = x + 0$.

Statistics of a `GroupNorm` are those of one frame in an image network, and of all frames given at
once in Upscale-A-Video (Zhou et al. 2024, arXiv 2312.06640), whose residual blocks hand 5-D tensors
to it. `over_frames` chooses; with it, how a clip is cut changes the numbers.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv3d, interpolate, pad, silu

from elevator.latent import Latent

__all__ = [
    "Downsample",
    "FrameConv",
    "FrameNorm",
    "FrameResnet",
    "TemporalModule",
    "TemporalResnet",
    "Upsample",
    "VolumeConv",
    "zeroed",
]

_SLOWEST = 20_480
"""Numbers over all axes but the last up to which torch computes a 3-D convolution of one clip,
float32 on the CPU, by a path that takes up to nine times as long."""


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters zero: what it is added to stays as it is."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class FrameConv(nn.Conv2d):
    """A 2-D convolution of every frame."""

    def forward(self, input: Latent) -> Float[Tensor, "b d f y x"]:
        frames = input.shape[2]
        y = super().forward(rearrange(input, "b c f h w -> (b f) c h w"))
        return rearrange(y, "(b f) c h w -> b c f h w", f=frames)


class VolumeConv(nn.Conv3d):
    """A 3-D convolution of stride 1 over frames and pixels, as fast on small clips as on large.

    torch chooses how to compute it by the number of channels times frames times rows. Where that
    would be the slow way, the frames become the last axis: the same sums, in another order.
    """

    def forward(self, input: Latent) -> Float[Tensor, "b d f h w"]:
        plain = input.device.type == "cpu" and input.dtype == torch.float32
        if not plain or len(input) > 1 or input[..., 0].numel() > _SLOWEST:
            return super().forward(input)
        frames, *sides = self.kernel_size
        y = conv3d(
            rearrange(input, "b c f h w -> b c h w f"),
            rearrange(self.weight, "d c f h w -> d c h w f"),
            self.bias,
            padding=tuple(size // 2 for size in (*sides, frames)),
        )
        return rearrange(y, "b d h w f -> b d f h w").contiguous()


class FrameNorm(nn.GroupNorm):
    """Group normalisation with the statistics of every frame, or of all frames at once.

    Args:
        groups: groups of channels.
        channels: channels, a multiple of `groups`.
        eps: added to the variance.
        over_frames: take mean and variance over frames too.
    """

    def __init__(self, groups: int, channels: int, eps: float, over_frames: bool) -> None:
        super().__init__(groups, channels, eps=eps)
        self.over_frames = over_frames

    def forward(self, input: Latent) -> Latent:
        if self.over_frames:
            return super().forward(input)
        frames = input.shape[2]
        y = super().forward(rearrange(input, "b c f h w -> (b f) c h w"))
        return rearrange(y, "(b f) c h w -> b c f h w", f=frames)


class FrameResnet(nn.Module):
    r"""The residual block of Stable Diffusion on frames; with `volume`, one more over 3x3x3.

    $$h = s(x) + C_2(\sigma(N_2(C_1(\sigma(N_1(x))) + W\sigma(e)))), \qquad
      y = h + V(\sigma(N_3(h)))$$

    with SiLU $\sigma$, $s$ the identity or a 1x1 convolution, $V$ a 3x3x3 convolution, zero when
    made (Upscale-A-Video's video VAE). Without an embedding or `volume` their terms are left out.

    Args:
        channels: channels in.
        out_channels: channels out.
        embedding: width of the embedding e of timestep and labels; None for none.
        groups: groups of the norms; of the first one at most `channels`.
        eps: of the norms.
        over_frames: whether statistics span the frames.
        volume: add the 3x3x3 branch.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        embedding: int | None = None,
        groups: int = 32,
        eps: float = 1e-5,
        over_frames: bool = True,
        volume: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = FrameNorm(min(groups, channels), channels, eps, over_frames)
        self.conv1 = FrameConv(channels, out_channels, 3, padding=1)
        if embedding is not None:
            self.time_emb_proj = nn.Linear(embedding, out_channels)
        self.norm2 = FrameNorm(groups, out_channels, eps, over_frames)
        self.conv2 = FrameConv(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.conv_shortcut = FrameConv(channels, out_channels, 1)
        if volume:
            self.norm_3d = FrameNorm(groups, out_channels, eps, over_frames)
            self.conv_3d = zeroed(VolumeConv(out_channels, out_channels, 3, padding=1))
        self.shortcut, self.volume = channels != out_channels, volume

    def forward(
        self, x: Latent, embedding: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b d f h w"]:
        h = self.conv1(silu(self.norm1(x)))
        if embedding is not None:
            h = h + self.time_emb_proj(silu(embedding))[:, :, None, None, None]
        h = self.conv2(silu(self.norm2(h)))
        h = h + (self.conv_shortcut(x) if self.shortcut else x)
        return h + self.conv_3d(silu(self.norm_3d(h))) if self.volume else h


class TemporalResnet(nn.Module):
    r"""A residual block that convolves along the frames of every pixel, zero-padded at the ends.

    $$y = x + T_2(\sigma(N_2(T_1(\sigma(N_1(x))) + W\sigma(e))))$$

    $T_1$ spans `kernel` frames and $T_2$ three; $T_2$ is zero when made.

    Args:
        channels: channels in and out.
        embedding: width of the embedding e; None for none.
        kernel: frames that the first convolution sees, odd.
        groups: groups of the norms.
        over_frames: whether statistics span the frames.
    """

    def __init__(
        self,
        channels: int,
        *,
        embedding: int | None = None,
        kernel: int = 3,
        groups: int = 32,
        over_frames: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = FrameNorm(groups, channels, 1e-6, over_frames)
        self.conv1 = VolumeConv(channels, channels, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
        if embedding is not None:
            self.time_emb_proj = nn.Linear(embedding, channels)
        self.norm2 = FrameNorm(groups, channels, 1e-6, over_frames)
        self.conv2 = zeroed(VolumeConv(channels, channels, (3, 1, 1), padding=(1, 0, 0)))

    def forward(self, x: Latent, embedding: Float[Tensor, "b e"] | None = None) -> Latent:
        h = self.conv1(silu(self.norm1(x)))
        if embedding is not None:
            h = h + self.time_emb_proj(silu(embedding))[:, :, None, None, None]
        return x + self.conv2(silu(self.norm2(h)))


class TemporalModule(nn.Module):
    r"""What follows every block of Upscale-A-Video's U-Net: $y = x + Z(R(T(x, e), e))$.

    T is a `TemporalResnet` over five frames, R a `FrameResnet` and Z a 1x1 convolution, zero when
    made.

    Args:
        channels: channels in and out.
        embedding: width of the embedding e.
        groups: groups of the norms.
        over_frames: whether statistics span the frames.
    """

    def __init__(
        self, channels: int, embedding: int, *, groups: int = 32, over_frames: bool = True
    ) -> None:
        super().__init__()
        self.resblocks_3d_temporal = TemporalResnet(
            channels, embedding=embedding, kernel=5, groups=groups, over_frames=over_frames
        )
        self.resblocks_3d_spatial = FrameResnet(
            channels,
            channels,
            embedding=embedding,
            groups=groups,
            eps=1e-6,
            over_frames=over_frames,
        )
        self.shift_conv = zeroed(FrameConv(channels, channels, 1))

    def forward(self, x: Latent, embedding: Float[Tensor, "b e"]) -> Latent:
        h = self.resblocks_3d_temporal(x, embedding)
        return x + self.shift_conv(self.resblocks_3d_spatial(h, embedding))


class Upsample(nn.Module):
    """Nearest neighbours to a size of frames, twice as large unless given, then a convolution.

    Args:
        channels: channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv(channels, channels, 3, padding=1)

    def forward(self, x: Latent, size: tuple[int, int] | None = None) -> Float[Tensor, "b c f y x"]:
        frames, height, width = x.shape[2:]
        x = rearrange(x, "b c f h w -> (b f) c h w")
        x = interpolate(x, size=size or (2 * height, 2 * width), mode="nearest")
        return self.conv(rearrange(x, "(b f) c h w -> b c f h w", f=frames))


class Downsample(nn.Module):
    """A convolution with stride 2, padded by one on all sides, or only at the right and bottom.

    Args:
        channels: channels in and out.
        padding: 1 for all sides (U-Nets), 0 for right and bottom (autoencoders).
    """

    def __init__(self, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = FrameConv(channels, channels, 3, stride=2, padding=padding)
        self.padding = padding

    def forward(self, x: Latent) -> Float[Tensor, "b c f y x"]:
        return self.conv(x if self.padding else pad(x, (0, 1, 0, 1)))
