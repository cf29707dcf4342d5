r"""Initial noise that frames share in part.

$$x_f = \frac{a\,\epsilon + \epsilon_f}{\sqrt{1 + a^2}}, \qquad \epsilon, \epsilon_f \sim N(0, I),$$

still standard normal per frame, with correlation $a^2/(1+a^2)$ between frames
(Ge et al. 2023, "Preserve Your Own Correlation", arXiv 2305.10474, section 4.1; VideoElevator).
"""

from collections.abc import Sequence

import torch
from einops import rearrange

from elevator.latent import Latent
from elevator.noise import one_per_clip

__all__ = ["mixed_noise"]


def mixed_noise(
    shape: tuple[int, int, int, int, int],
    shared: float,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Latent:
    """Draw initial noise, first the shared part, then the frames' own.

    Args:
        shape: (b, c, f, h, w).
        shared: weight a >= 0 of the shared noise; 0 draws independent frames.
        generator: one for all clips, drawn clip after clip, or one per clip.
        device: where the result goes; the draws are made on the generator's device.
        dtype: dtype of the result.

    Raises:
        ValueError: `shared` is negative, or the generators are not one per clip.
    """
    b, c, f, h, w = shape
    if shared < 0:
        raise ValueError(f"the weight of the shared noise must be >= 0, got {shared}")
    clips = []
    for one in one_per_clip(generator, b):
        where = one.device if one is not None else torch.device(device)
        base = torch.randn(1, c, h, w, generator=one, device=where)
        own = torch.randn(f, c, h, w, generator=one, device=where)
        mixed = (shared * base + own) / (1 + shared**2) ** 0.5
        clips.append(rearrange(mixed, "f c h w -> c f h w"))
    return torch.stack(clips).to(device=device, dtype=dtype)
