"""How each pipeline lays out the latents its solver sees, as einops patterns.

Adding a pipeline whose layout is not told by the number of axes means adding one line here.
"""

from collections.abc import Mapping

from einops import rearrange
from torch import Tensor

from elevator.errors import LayoutError
from elevator.latent import Latent

__all__ = ["FRAMES_IN_BATCH", "LAYOUTS", "from_host", "layout_of", "to_host"]

FRAMES_IN_BATCH = "(b f) c h w"

LAYOUTS: Mapping[str, str] = {
    "TextToVideoSDPipeline": FRAMES_IN_BATCH,
    "VideoToVideoSDPipeline": FRAMES_IN_BATCH,
    "AnimateDiffPipeline": "b c f h w",
    "AnimateDiffSDXLPipeline": "b c f h w",
    "StableVideoDiffusionPipeline": "b f c h w",
    "CogVideoXPipeline": "b f c h w",
    "WanPipeline": "b c f h w",
}

_BY_AXES: Mapping[int, str] = {4: FRAMES_IN_BATCH, 5: "b c f h w"}


def layout_of(pipeline: object, ndim: int) -> str:
    """The einops pattern of a pipeline's latents; by the number of axes where it is not listed."""
    name = type(pipeline).__name__
    if name in LAYOUTS:
        return LAYOUTS[name]
    if ndim in _BY_AXES:
        return _BY_AXES[ndim]
    raise LayoutError(
        f"latents of {name} have {ndim} axes at the step, so frames and space cannot be told "
        "apart; give attach(..., layout=...) an einops pattern of the axes b c f h w"
    )


def to_host(latent: Latent, pattern: str) -> Tensor:
    """From the hooks' layout to the host's."""
    return rearrange(latent, f"b c f h w -> {pattern}")


def from_host(sample: Tensor, pattern: str, frames: int | None) -> Latent:
    """From the host's layout to the hooks'; `frames` is needed where the batch hides them."""
    axes = sample.ndim
    expected = len(pattern.replace("(b f)", "n").split())
    if axes != expected:
        raise LayoutError(
            f"latents of shape {tuple(sample.shape)} do not fit the layout {pattern!r}; "
            "give attach(..., layout=...) the pattern of this pipeline"
        )
    if pattern != FRAMES_IN_BATCH:
        return rearrange(sample, f"{pattern} -> b c f h w")
    if frames is None or sample.shape[0] % frames:
        raise LayoutError(
            f"a batch of {sample.shape[0]} latents does not hold clips of {frames} frames; "
            "give attach(..., frames=...) the number of frames in one clip"
        )
    return rearrange(sample, f"{pattern} -> b c f h w", f=frames)
