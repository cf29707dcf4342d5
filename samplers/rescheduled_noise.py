r"""Initial noise of a long clip from that of a short one: FreeNoise's noise rescheduling.

The first $L$ frames have noise of their own. Every later unit of $S$ frames takes the noise of the
unit $L$ frames before it, in another order,

$$x_{u}, \dots, x_{u+S-1} = \text{shuffle}(x_{u-L}, \dots, x_{u-L+S-1}), \qquad
  u = L, L + S, L + 2S, \dots$$

(Qiu et al. 2023, arXiv 2310.15169, "local noise shuffle unit"). Each frame is still standard
normal; windows of $L$ frames that begin at a multiple of $S$ hold the same noise in other orders,
which keeps the content of a long clip together, while the order leaves it free to move.
"""

from collections.abc import Sequence

import torch
from einops import rearrange

from elevator.latent import Latent
from elevator.noise import one_per_clip

__all__ = ["rescheduled_noise"]


def rescheduled_noise(
    shape: tuple[int, int, int, int, int],
    window: int = 16,
    stride: int = 4,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Latent:
    """Draw initial noise, the first window's frames, then the order of every later unit.

    Clips of at most `window` frames have noise of their own in every frame.

    Args:
        shape: (b, c, f, h, w).
        window: frames L with noise of their own, >= 1; the length the network was trained on.
        stride: frames S shuffled among themselves, from 1 to `window`; 4 of 16 in the paper. That
            of the windows the network works in.
        generator: one for all clips, drawn clip after clip, or one per clip.
        device: where the result goes; the draws are made on the generator's device.
        dtype: dtype of the result.

    Raises:
        ValueError: a window or stride out of range, or the generators are not one per clip.
    """
    b, c, f, h, w = shape
    if not 1 <= stride <= window:
        raise ValueError(
            "rescheduled_noise takes 1 <= stride <= window, frames shuffled among themselves and "
            f"frames of their own; got stride {stride} and window {window}"
        )
    clips = []
    for one in one_per_clip(generator, b):
        where = one.device if one is not None else torch.device(device)
        own = torch.randn(min(window, f), c, h, w, generator=one, device=where)
        order = list(range(len(own)))
        while len(order) < f:
            unit = order[-window:][:stride]
            shuffled = torch.randperm(len(unit), generator=one, device=where)
            order += [unit[place] for place in shuffled.tolist()]
        clips.append(rearrange(own[order[:f]], "f c h w -> c f h w"))
    return torch.stack(clips).to(device=device, dtype=dtype)
