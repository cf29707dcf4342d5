r"""Super-resolution of clips by regression: one pass, no noise, the same result every time.

What the network adds to bicubic interpolation $B$ is computed at the low resolution and rearranged
into pixels,

$$\hat y = B(x) + \mathrm{shuffle}_s\bigl(W_\mathrm{out}\, h_n(\dots h_1(W_\mathrm{in} x))\bigr),
  \qquad h(z) = z + W_2\, \rho(W_1\, \mathrm{shift}(z)),$$

with 3x3 convolutions $W$, leaky rectifiers $\rho$, and $W_\mathrm{out} = 0$ at the start, when the
result is bicubic exactly. The blocks are those of EDSR (Lim et al. 2017, arXiv 1707.02921, section
3.1), the pixel shuffle is ESPCN's (Shi et al. 2016, arXiv 1609.05158, section 3.2), and the shift
hands an eighth of the channels on to the next frame and an eighth back to the one before, which
costs no arithmetic (temporal shift module; Lin et al. 2019, arXiv 1811.08383, section 3).
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pixel_shuffle

from elevator.errors import CheckError

__all__ = ["RegressionUpscaler"]

SHARE = 8
"""One channel in so many goes to the next frame, and as many to the one before."""
SLOPE = 0.1
"""Of the leaky rectifiers."""
CALM = 0.1
"""How large, against the usual, the weights are at first that lead back to the shortcuts."""


class RegressionUpscaler(ModelMixin, ConfigMixin):
    """Enlarges the frames of a clip, each with a glance at its neighbours.

    Args:
        scale: how many times larger the frames get, 2 or more.
        width: channels, a multiple of 16.
        blocks: residual blocks; each lets a frame see one further on either side (`reach`).

    Raises:
        CheckError: a number out of range.
    """

    @register_to_config
    def __init__(self, scale: int = 4, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        if scale < 2 or blocks < 1 or width < 16 or width % 16:
            raise CheckError(
                [
                    f"RegressionUpscaler got scale={scale}, width={width}, blocks={blocks}; scale "
                    "must be at least 2, width a multiple of 16, blocks at least 1"
                ]
            )
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.trunk = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.conv_out = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        with torch.no_grad():
            for parameter in self.conv_out.parameters():
                parameter.zero_()

    @property
    def scale(self) -> int:
        """How many times larger the frames get."""
        return int(self.config.scale)

    @property
    def reach(self) -> int:
        """Frames on either side on which a frame's result depends.

        A clip may be upscaled in parts that overlap by twice this many frames, of which those
        within `reach` of a cut are thrown away: the result is the same, rounding apart.
        """
        return len(self.trunk)

    def forward(self, frames: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f H W"]:
        """Enlarge clips.

        Args:
            frames: RGB in [0, 1], of any size, at least one frame of one pixel.

        Returns:
            Frames `scale` times as high and wide; a little outside of [0, 1] near strong edges, as
            bicubic interpolation is.
        """
        count = frames.shape[2]
        flat = rearrange(frames, "b c f h w -> (b f) c h w")
        seen = self.conv_in(flat.contiguous(memory_format=torch.channels_last))
        for block in self.trunk:
            seen = block(seen, count)
        detail = pixel_shuffle(self.conv_out(seen), self.scale)
        large = interpolate(flat, scale_factor=self.scale, mode="bicubic") + detail
        return rearrange(large, "(b f) c h w -> b c f h w", f=count)


class _Block(nn.Module):
    """Two convolutions beside a shortcut, the first of which sees neighbouring frames too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():  # so that a stack of blocks starts as one, and learns without norms
            self.conv2.weight.mul_(CALM)

    def forward(self, seen: Float[Tensor, "n c h w"], frames: int) -> Float[Tensor, "n c h w"]:
        """Go over the frames of clips that follow one another."""
        inner = leaky_relu(self.conv1(_shifted(seen, frames)), SLOPE)
        return seen + self.conv2(inner)


def _shifted(seen: Float[Tensor, "n c h w"], frames: int) -> Float[Tensor, "n c h w"]:
    """Some channels from the frame before, some from the one after; at the ends a frame's own."""
    if frames == 1:
        return seen
    part = seen.shape[1] // SHARE
    clips = seen.unflatten(0, (-1, frames))
    moved = clips.clone()
    moved[:, 1:, :part] = clips[:, :-1, :part]
    moved[:, :-1, part : 2 * part] = clips[:, 1:, part : 2 * part]
    return moved.flatten(0, 1)
