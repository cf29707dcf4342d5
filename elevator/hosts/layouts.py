"""How each pipeline lays out the latents its solver sees, as einops patterns.

A pattern names the host's axes; axes in parentheses are packed into one. Where the host also packs
patches of two by two latent pixels into channels, `p` and `q` are their rows and columns, and what
hooks see stands after an arrow. Adding a pipeline whose layout is not told by the number of axes
means adding one line here.
"""

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from einops import rearrange
from torch import Tensor

from elevator.errors import LayoutError
from elevator.latent import Latent

__all__ = [
    "FRAMES_IN_BATCH",
    "LAYOUTS",
    "PATCH",
    "channel_axis",
    "declared_layout",
    "from_host",
    "layout_of",
    "packs_tokens",
    "to_host",
]

FRAMES_IN_BATCH = "(b f) c h w"
_TOKENS = "b (f h w) c"
_PATCHES_IN_BATCH = "(b f) (h w) (c p q) -> b c f (h p) (w q)"
PATCH: Mapping[str, int] = MappingProxyType({"p": 2, "q": 2})
"""Sides of a patch that is packed into channels."""

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
    "FluxPipeline": _PATCHES_IN_BATCH,
    "FluxImg2ImgPipeline": _PATCHES_IN_BATCH,
    "Kandinsky5I2IPipeline": "b f h w c",
    "Kandinsky5I2VPipeline": "b f h w c",
    "Kandinsky5T2IPipeline": "b f h w c",
    "Kandinsky5T2VPipeline": "b f h w c",
    "LTXPipeline": _TOKENS,
    "LTXConditionPipeline": _TOKENS,
    "LTX2Pipeline": _TOKENS,
    "QwenImagePipeline": _PATCHES_IN_BATCH,
    "QwenImageImg2ImgPipeline": _PATCHES_IN_BATCH,
    "VideoUpscalePipeline": "b c f h w",
    "WanModularPipeline": "b c f h w",
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
        "cannot be told apart; give attach(..., layout=...), an einops pattern of the axes "
        "b c f h w, such as 'b (f h w) c' for latents packed as tokens"
    )


def _sides(pattern: str) -> tuple[str, str]:
    """The host's axes and the hooks'."""
    host, _, hooks = pattern.partition("->")
    return host.strip(), hooks.strip() or "b c f h w"


@cache
def _axes(pattern: str) -> tuple[tuple[str, ...], ...]:
    """The names on every axis of the host: more than one where it packs some."""
    return tuple(
        tuple(name.strip("()").split())
        for name in re.findall(r"\([^)]*\)|[^\s()]+", _sides(pattern)[0])
    )


def _patch(pattern: str) -> dict[str, int]:
    """The sizes of the patches a pattern names."""
    names = {name for axis in _axes(pattern) for name in axis}
    return {name: size for name, size in PATCH.items() if name in names}


def packs_tokens(pattern: str) -> bool:
    """Whether rows and columns are packed into one axis, so that their sizes must be told."""
    return any({"h", "w"} <= set(names) for names in _axes(pattern))


def channel_axis(pattern: str) -> int:
    """Which axis of the host's latents holds the channels."""
    return next(i for i, names in enumerate(_axes(pattern)) if "c" in names)


def to_host(latent: Latent, pattern: str) -> Tensor:
    """From the hooks' layout to the host's."""
    host, hooks = _sides(pattern)
    return rearrange(latent, f"{hooks} -> {host}", **_patch(pattern))


def from_host(
    sample: Tensor, pattern: str, frames: int | None, grid: Mapping[str, int] | None = None
) -> Latent:
    """From the host's layout to the hooks'.

    Args:
        sample: the host's latents.
        pattern: their layout.
        frames: frames of a clip, needed where the batch hides them.
        grid: sizes of `f`, `h` and `w` in the host's axes, needed where tokens hide them.

    Raises:
        LayoutError: the latents do not have these axes or sizes, or a size is not known.
    """
    axes = _axes(pattern)
    if sample.ndim != len(axes):
        raise LayoutError(
            f"latents of shape {tuple(sample.shape)} do not fit the layout {pattern!r}; "
            "give attach(..., layout=...) the pattern of this pipeline"
        )
    sizes = _patch(pattern)
    for names, length in zip(axes, sample.shape, strict=True):
        if set(names) == {"b", "f"}:
            sizes["f"] = _frames_in_batch(length, frames)
        elif {"h", "w"} <= set(names):
            sizes |= _tokens(names, length, grid or {}, pattern)
        elif len(names) > 1 and set(names) - {"c"} - set(PATCH):
            raise LayoutError(
                f"the layout {pattern!r} hides the sizes of {' '.join(names)}; only frames in the "
                "batch, (b f), and tokens, (h w) or (f h w), can be told apart"
            )
    host, hooks = _sides(pattern)
    return rearrange(sample, f"{host} -> {hooks}", **sizes)


def _frames_in_batch(rows: int, frames: int | None) -> int:
    if frames is None or rows % frames:
        raise LayoutError(
            f"a batch of {rows} latents does not hold clips of {frames} frames; "
            "give attach(..., frames=...) the number of frames in one clip"
        )
    return frames


def _tokens(
    names: tuple[str, ...], length: int, grid: Mapping[str, int], pattern: str
) -> dict[str, int]:
    missing = [name for name in names if name not in grid]
    if missing:
        raise LayoutError(
            f"the layout {pattern!r} packs {' '.join(names)} into tokens, and this pipeline did "
            f"not tell {' and '.join(missing)} when it prepared its latents; it cannot be hooked"
        )
    sizes = {name: grid[name] for name in names}
    count = 1
    for size in sizes.values():
        count *= size
    if count != length:
        told = " x ".join(f"{name}={size}" for name, size in sizes.items())
        raise LayoutError(
            f"the latents are {length} tokens, but a clip of {told} has {count}; conditions that "
            "add tokens of their own cannot be hooked: give them for the first frame"
        )
    return sizes
