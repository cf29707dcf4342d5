"""How each pipeline lays out the latents its solver sees, as einops patterns.

Adding a pipeline whose layout is not told by the number of axes means adding one line here.
"""

import re
from collections.abc import Mapping
from functools import cache

from einops import rearrange
from torch import Tensor

from elevator.errors import LayoutError
from elevator.latent import Latent

__all__ = [
    "FRAMES_IN_BATCH",
    "LAYOUTS",
    "channel_axis",
    "declared_layout",
    "from_host",
    "layout_of",
    "to_host",
]

FRAMES_IN_BATCH = "(b f) c h w"

LAYOUTS: Mapping[str, str] = {
    "TextToVideoSDPipeline": FRAMES_IN_BATCH,
    "VideoToVideoSDPipeline": FRAMES_IN_BATCH,
    "AnimateDiffPipeline": "b c f h w",
    "AnimateDiffSDXLPipeline": "b c f h w",
    "StableVideoDiffusionPipeline": "b f c h w",
    "CogVideoXPipeline": "b f c h w",
    "CogVideoXFunControlPipeline": "b f c h w",
    "CogVideoXImageToVideoPipeline": "b f c h w",
    "CogVideoXVideoToVideoPipeline": "b f c h w",
    "ConsisIDPipeline": "b f c h w",
    "Kandinsky5I2IPipeline": "b f h w c",
    "Kandinsky5I2VPipeline": "b f h w c",
    "Kandinsky5T2IPipeline": "b f h w c",
    "Kandinsky5T2VPipeline": "b f h w c",
    "WanPipeline": "b c f h w",
}

_BY_AXES: Mapping[int, str] = {4: FRAMES_IN_BATCH, 5: "b c f h w"}


def declared_layout(pipeline: object) -> str | None:
    """The pattern listed for a pipeline's class or one it derives from."""
    names = (cls.__name__ for cls in type(pipeline).__mro__)
    return next((LAYOUTS[name] for name in names if name in LAYOUTS), None)


def layout_of(pipeline: object, ndim: int) -> str:
    """The einops pattern of a pipeline's latents; by the number of axes where it is not listed."""
    declared = declared_layout(pipeline)
    if declared is not None:
        return declared
    if ndim in _BY_AXES:
        return _BY_AXES[ndim]
    raise LayoutError(
        f"latents of {type(pipeline).__name__} have {ndim} axes at the step, so frames and space "
        "cannot be told apart; latents packed as tokens cannot be hooked, others can with "
        "attach(..., layout=...), an einops pattern of the axes b c f h w"
    )


@cache
def _axes(pattern: str) -> tuple[tuple[str, ...], ...]:
    """The names on every axis of a pattern: more than one where it packs some."""
    return tuple(
        tuple(name.strip("()").split()) for name in re.findall(r"\([^)]*\)|[^\s()]+", pattern)
    )


def channel_axis(pattern: str) -> int:
    """Which axis of the host's latents holds the channels."""
    return _axes(pattern).index(("c",))


def to_host(latent: Latent, pattern: str) -> Tensor:
    """From the hooks' layout to the host's."""
    return rearrange(latent, f"b c f h w -> {pattern}")


def from_host(sample: Tensor, pattern: str, frames: int | None) -> Latent:
    """From the host's layout to the hooks'; `frames` is needed where the batch hides them."""
    axes = _axes(pattern)
    if sample.ndim != len(axes):
        raise LayoutError(
            f"latents of shape {tuple(sample.shape)} do not fit the layout {pattern!r}; "
            "give attach(..., layout=...) the pattern of this pipeline"
        )
    packed = [names for names in axes if len(names) > 1]
    if not packed:
        return rearrange(sample, f"{pattern} -> b c f h w")
    if len(packed) > 1 or set(packed[0]) != {"b", "f"}:
        raise LayoutError(
            f"the layout {pattern!r} hides the sizes of {' '.join(sum(packed, ()))}; latents "
            "packed as tokens cannot be hooked, only frames in the batch: '(b f) c h w'"
        )
    rows = sample.shape[axes.index(packed[0])]
    if frames is None or rows % frames:
        raise LayoutError(
            f"a batch of {rows} latents does not hold clips of {frames} frames; "
            "give attach(..., frames=...) the number of frames in one clip"
        )
    return rearrange(sample, f"{pattern} -> b c f h w", f=frames)
