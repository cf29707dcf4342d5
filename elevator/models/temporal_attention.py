r"""Attention over frames, and the transformer blocks of Upscale-A-Video's U-Net.

Tokens of one pixel attend to each other along time, with rotary positions and a learned bias per
distance,

$$\mathrm{out} = \mathrm{softmax}\!\left(\frac{\rho(Q)\,\rho(K)^\top}{\sqrt d} + B\right) V,$$

with $\rho$ the rotation of the first channels of every head by $p\,\omega_i$ at frame $p$ (Su et
al. 2021, arXiv 2104.09864) and $B_{hij}$ the bias of head $h$ for the bucket of $j - i$ (Raffel et
al. 2020, arXiv 1910.10683, section 2.1). Scores never exist as a whole: all attention runs through
torch's `scaled_dot_product_attention`.
"""

import math

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from elevator.latent import Latent
from elevator.models.temporal_blocks import FrameNorm, TemporalResnet, zeroed

__all__ = [
    "RelativeBias",
    "Rotary",
    "TemporalAttention",
    "TemporalTransformer",
    "TransformerBlock",
]

BUCKETS = 32
"""Distances in frames that the bias tells apart, half of them for each direction."""
FARTHEST = 32
"""Distance from which on all are one bucket."""
ROWS = 2**15
"""Pixels attended to at once: CUDA's kernels count rows of a batch in 16 bits."""


class Rotary(nn.Module):
    r"""Turn pairs of channels by $p\,\omega_i$ at position p, $\omega_i = 10000^{-2i/d}$.

    Pairs are neighbours, (0, 1), (2, 3), ...; channels after the first d stay as they are. The
    frequencies are part of the state, as published (there one parameter, saved under every name).

    Args:
        channels: d, even.
    """

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        steps = torch.arange(0, channels, 2, dtype=torch.float32)
        self.register_buffer("freqs", 10000.0 ** (-steps / channels))

    def forward(self, x: Float[Tensor, "n heads f d"]) -> Float[Tensor, "n heads f d"]:
        positions = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)
        angles = torch.outer(positions, self.freqs.float())
        turned = 2 * angles.shape[1]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        even, odd = x[..., 0:turned:2], x[..., 1:turned:2]
        pairs = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
        return torch.cat([pairs.flatten(-2), x[..., turned:]], dim=-1)


class RelativeBias(nn.Module):
    r"""A learned bias per head and distance between frames, in 32 buckets.

    Of $d = j - i$: later frames have the second 16 buckets; $\lvert d\rvert < 8$ has a bucket of
    its own, and beyond they grow as $8 + \lfloor 8 \log_4(\lvert d\rvert / 8)\rfloor$, at most 15.
    Zero when made.

    Args:
        heads: attention heads.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)
        zeroed(self.relative_attention_bias)

    @staticmethod
    def buckets(frames: int, device: torch.device | None = None) -> Int[Tensor, "f f"]:
        """The bucket of every pair of frames, [i, j]."""
        place = torch.arange(frames, device=device)
        offset = place[None, :] - place[:, None]
        half, exact = BUCKETS // 2, BUCKETS // 4
        near = offset.abs()
        growth = (near.clamp(min=exact).float() / exact).log() / math.log(FARTHEST / exact)
        far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
        return torch.where(near < exact, near, far) + half * (offset > 0)

    def forward(self, frames: int) -> Float[Tensor, "heads f f"]:
        weight = self.relative_attention_bias.weight
        return rearrange(weight[self.buckets(frames, weight.device)], "i j heads -> heads i j")


class TemporalAttention(nn.Module):
    """Attention of all frames of a pixel to each other; its last layer is zero when made.

    Args:
        channels: channels in and out.
        heads: attention heads.
        rotary: channels of a head that rotary positions turn; None for no rotary positions.
        relative_bias: whether distances have a bias.
    """

    def __init__(self, channels: int, heads: int, rotary: int | None, relative_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(zeroed(nn.Linear(channels, channels)))
        self.rotary_emb = None if rotary is None else Rotary(rotary)
        self.time_rel_pos_bias = RelativeBias(heads) if relative_bias else None

    def forward(self, x: Float[Tensor, "n f c"]) -> Float[Tensor, "n f c"]:
        bias = None
        if self.time_rel_pos_bias is not None:
            bias = self.time_rel_pos_bias(x.shape[1]).to(x.dtype)[None]
        return self.to_out(torch.cat([self._attend(rows, bias) for rows in x.split(ROWS)]))

    def _attend(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (
            rearrange(project(x), "n f (heads d) -> n heads f d", heads=self.heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        if self.rotary_emb is not None:
            q, k = self.rotary_emb(q), self.rotary_emb(k)
        y = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return rearrange(y, "n heads f d -> n f (heads d)")


class TransformerBlock(nn.Module):
    r"""Attention within frames, to the text, along time, and a gated feed-forward layer.

    Tokens have the axes `b f n c`. All of a clip's frames are asked at once what the text says, so
    that its keys and values are computed once per clip and not once per frame.

    Args:
        channels: channels of a token.
        heads: heads of all three attentions.
        cross_dim: width of the text.
        only_cross: the first attention, too, attends to the text, and not within the frame.
        temporal: attend along time.
        rotary: as for `TemporalAttention`.
        relative_bias: as for `TemporalAttention`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        cross_dim: int,
        *,
        only_cross: bool,
        temporal: bool = True,
        rotary: int | None = 32,
        relative_bias: bool = True,
    ) -> None:
        super().__init__()
        size = {"query_dim": channels, "heads": heads, "dim_head": channels // heads}
        self.only_cross, self.temporal = only_cross, temporal
        self.attn1 = Attention(**size, cross_attention_dim=cross_dim if only_cross else None)
        self.norm1 = nn.LayerNorm(channels)
        self.attn2 = Attention(**size, cross_attention_dim=cross_dim)
        self.norm2 = nn.LayerNorm(channels)
        if temporal:
            self.attn_temporal = TemporalAttention(channels, heads, rotary, relative_bias)
            self.norm_temporal = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.norm3 = nn.LayerNorm(channels)

    def forward(
        self, x: Float[Tensor, "b f n c"], text: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b f n c"]:
        clips, frames, tokens, _ = x.shape
        if self.only_cross:
            x = x + self._read(self.attn1, self.norm1(x), text)
        else:
            flat = rearrange(self.norm1(x), "b f n c -> (b f) n c")
            x = x + rearrange(self.attn1(flat), "(b f) n c -> b f n c", f=frames)
        x = x + self._read(self.attn2, self.norm2(x), text)
        if self.temporal:
            flat = rearrange(self.norm_temporal(x), "b f n c -> (b n) f c")
            y = self.attn_temporal(flat)
            x = x + rearrange(y, "(b n) f c -> b f n c", b=clips, n=tokens)
        return x + self.ff(self.norm3(x))

    def _read(self, attention: Attention, x: Tensor, text: Tensor) -> Tensor:
        y = attention(rearrange(x, "b f n c -> b (f n) c"), encoder_hidden_states=text)
        return rearrange(y, "b (f n) c -> b f n c", f=x.shape[1])


class TemporalTransformer(nn.Module):
    r"""A convolution over time, then a transformer block on the tokens of every frame.

    $$x' = x + T(x), \qquad y = x' + W_2\,B(W_1 N(x'))$$

    with T a `TemporalResnet`, N a norm of each frame by itself, and B a `TransformerBlock`.

    Args:
        channels: channels in and out.
        heads: attention heads.
        cross_dim: width of the text.
        groups: groups of the norms.
        only_cross: as for `TransformerBlock`.
        over_frames: whether the statistics of T's norms span the frames.
        convolution: convolve over time.
        attention: attend along time.
        rotary: as for `TemporalAttention`.
        relative_bias: as for `TemporalAttention`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        cross_dim: int,
        *,
        groups: int = 32,
        only_cross: bool,
        over_frames: bool = True,
        convolution: bool = True,
        attention: bool = True,
        rotary: int | None = 32,
        relative_bias: bool = True,
    ) -> None:
        super().__init__()
        self.convolution = convolution
        if convolution:
            self.resblock_temporal = TemporalResnet(
                channels, groups=groups, over_frames=over_frames
            )
        self.norm = FrameNorm(groups, channels, 1e-6, over_frames=False)
        self.proj_in = nn.Linear(channels, channels)
        block = TransformerBlock(
            channels,
            heads,
            cross_dim,
            only_cross=only_cross,
            temporal=attention,
            rotary=rotary,
            relative_bias=relative_bias,
        )
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Latent, text: Float[Tensor, "b m d"]) -> Latent:
        if self.convolution:
            x = self.resblock_temporal(x)
        height = x.shape[3]
        y = self.proj_in(rearrange(self.norm(x), "b c f h w -> b f (h w) c"))
        for block in self.transformer_blocks:
            y = block(y, text)
        return x + rearrange(self.proj_out(y), "b f (h w) c -> b c f h w", h=height)
