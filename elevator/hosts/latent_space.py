"""Whether two pipelines speak of the same latents, told from configurations and measured."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["TOLERANCE", "distance", "encoding_device", "probe", "same_latent_space"]

TOLERANCE = 0.02
"""Half precision moves latents by a tenth of that, another encoder by fifty times that."""
_FAMILY = (
    "choose both from one family: any Stable Diffusion 1.x model goes with ZeroScope, ModelScope "
    "and AnimateDiff"
)


def same_latent_space(t2i: Any, t2v: Any) -> list[str]:
    """Say why clean latents of one pipeline mean something else to the other.

    Compared are the latent channels of the networks and, where both have a VAE, its channels,
    downscaling, scaling and shift; and measured is whether both encoders give the same latents for
    one small picture, within 2 % of their norm. Decoders may differ (fine-tuned VAEs do).

    Args:
        t2i: a pipeline with a `unet` and a `vae` (the VAE may be None).
        t2v: another.

    Returns:
        One sentence per difference, each with its remedy; empty where the latents are the same.
    """
    return list(_differences(t2i, t2v))


def _differences(t2i: Any, t2v: Any) -> Iterator[str]:
    ours, theirs = (int(pipeline.unet.config.in_channels) for pipeline in (t2i, t2v))
    if ours != theirs:
        yield f"the T2I's network takes {ours} channels, the T2V's {theirs}; {_FAMILY}"
    one, other = getattr(t2i, "vae", None), getattr(t2v, "vae", None)
    if one is None or other is None or one is other:
        return
    shapes = False
    for what, read in (("latent channels", _channels), ("pixels per latent", _downscale)):
        if read(one) != read(other):
            shapes = True
            yield f"the T2I's VAE has {read(one)} {what}, the T2V's {read(other)}; {_FAMILY}"
    for name in ("scaling_factor", "shift_factor"):
        first, second = (getattr(vae.config, name, None) for vae in (one, other))
        if first != second:
            yield (
                f"the T2I's VAE has {name} {first}, the T2V's {second}, so their latents differ "
                f"in size; if the weights are the same, correct it with "
                f"`vae.register_to_config({name}={second})`; otherwise {_FAMILY}"
            )
    if not shapes:
        apart = distance(_encode(t2i), _encode(t2v))
        if not apart <= TOLERANCE:  # not a number counts as a difference
            yield (
                f"the two VAEs encode the same picture to latents {apart:.0%} apart (allowed: "
                f"{TOLERANCE:.0%}), so they are different latent spaces; {_FAMILY}"
            )


def _channels(vae: Any) -> int:
    return int(vae.config.latent_channels)


def _downscale(vae: Any) -> int:
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def distance(first: Float[Tensor, "..."], second: Float[Tensor, "..."]) -> float:
    """Relative L2 distance of two latents."""
    return float((first - second).norm() / torch.maximum(first.norm(), second.norm()))


def encoding_device(pipeline: Any) -> torch.device:
    """Where a pipeline's autoencoder wants its pictures."""
    offloaded = hasattr(pipeline.vae, "_hf_hook")  # then its weights come to where it runs
    device: torch.device = pipeline._execution_device if offloaded else pipeline.vae.device
    return device


def _encode(pipeline: Any) -> Float[Tensor, "1 c h w"]:
    vae, device = pipeline.vae, encoding_device(pipeline)
    with torch.no_grad():
        latents: Tensor = vae.encode(
            probe(8 * _downscale(vae)).to(device, vae.dtype)
        ).latent_dist.mode()
    return latents.float().cpu()


def probe(size: int) -> Float[Tensor, "1 3 h w"]:
    """A picture with soft areas, hard edges and a little noise, the same every time."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((2, 3, 4, 4), generator=generator) * 2 - 1
    soft = interpolate(coarse[:1], size, mode="bilinear")
    edges = interpolate(coarse[1:], size, mode="nearest")
    noise = torch.randn((1, 3, size, size), generator=generator)
    return (0.6 * soft + 0.3 * edges + 0.05 * noise).clamp(-1, 1)
