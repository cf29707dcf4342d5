r"""Initial noise that remembers an earlier result: FreeInit's re-initialisation.

Training noises a clip only to $\sqrt{\bar\alpha_T} > 0$, so the noisiest latents a network has
seen still show the clip's slow, coarse part, while sampling starts from noise that shows nothing.
FreeInit (Wu et al. 2023, arXiv 2312.07537, "noise reinitialization") closes the gap: a finished
clip $z_0$ is noised with its *own* initial noise $\epsilon$, and gives the next run its low
frequencies,

$$z_T = \alpha z_0 + \sigma \epsilon, \qquad
  z' = \mathcal F^{-1}\left(H \cdot \mathcal F z_T + (1 - H) \cdot \mathcal F \eta\right)
     = \eta + L(z_T - \eta), \qquad \eta \sim N(0, I),$$

where $L$ is the low-pass filter with the mask $H$ over frames, height and width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.hook import Hook, Run, Step
from elevator.latent import Latent
from elevator.level import Prediction
from elevator.noise import KeyedNoise, one_per_clip
from elevator.schedule import Schedule

__all__ = ["reinitialise"]


def reinitialise(
    clean: Latent,
    noise: Float[Tensor, "..."],
    schedule: Schedule,
    lowpass: Hook[Any],
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    *,
    pictures: int = 1,
) -> Latent:
    """Initial noise for another run: low frequencies of an earlier one's result, fresh high ones.

    Args:
        clean: the earlier run's clean latents.
        noise: the noise that the first run of all started from, same shape.
        schedule: levels of the model; its first one, the noisiest, is where `clean` is noised to.
            The training schedule as published: `el.denoiser(pipe, ...).schedule`. Flow matching
            starts at alpha = 0, where nothing of `clean` is left: there only `noise` is filtered.
        lowpass: the filter; linear. `LowPass("butterworth", temporal=0.25, spatial=0.25)` in the
            paper. One that changes nothing gives the noised latents themselves.
        generator: of the fresh noise; one for all clips, drawn clip after clip, or one per clip.
        pictures: pictures a latent frame after the first stands for (4 for Wan), for a filter in
            cycles per second.

    Returns:
        Noise of the shape and dtype of `noise`, for a pipeline's `latents=`.

    Raises:
        ValueError: `clean` and `noise` differ in shape, or the generators are not one per clip.
    """
    if clean.shape != noise.shape:
        raise ValueError(
            f"reinitialise takes the noise a clip was made from: got clean latents of shape "
            f"{tuple(clean.shape)} and noise of shape {tuple(noise.shape)}"
        )
    b, c, f, h, w = clean.shape
    level, clean, given = schedule[0], clean.float(), noise.to(clean.device, torch.float32)
    noisy = level.alpha * clean + level.sigma * given
    drawn = [
        torch.randn(c, f, h, w, generator=one, device=clean.device if one is None else one.device)
        for one in one_per_clip(generator, b)
    ]
    fresh = torch.stack(drawn).to(clean.device)
    run = Run(schedule, (b, c, f, h, w), clean.device, noise.dtype, KeyedNoise(), pictures=pictures)
    step = Step(run, 0, noisy, Prediction(clean, given), level, schedule[1])
    difference = noisy - fresh
    low, _ = lowpass.update(difference, step, lowpass.init(run))
    mixed = noisy if low is difference else fresh + low
    return mixed.to(noise.dtype)
