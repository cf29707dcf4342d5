"""Training of the regression upscalers: small, worn clips of leaves, noise and the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fft
from torch.nn.functional import interpolate

from elevator import world
from elevator.models.regression import RegressionUpscaler
from elevator.world.degrade import blur
from elevator.zoo import path

__all__ = ["Regressing", "footage", "psnr", "started"]

FRAMES = 5
"""Frames of a clip."""
CROP = 32
"""Side of a small frame in pixels."""
SLACK = 1e-3
"""Difference below which the loss is a squared error, above which it is an absolute one."""
EDGES, WAVES = 0.5, 0.02
"""Weights of the errors of neighbouring pixels' differences, and of the Fourier coefficients. The
mean of what an edge may have been is a soft edge; these make that dear."""


def footage(
    batch: int, frames: int, size: int, generator: torch.Generator
) -> Float[Tensor, "b 3 f h w"]:
    """Sharp clips without captions: of eight about five of leaves, two of noise, one of the world.

    They come in this order.
    """
    first, second, third = torch.randint(2**40, (3,), generator=generator).tolist()
    kinds = torch.randint(8, (batch,), generator=generator).tolist()
    counts = [sum(low <= kind < high for kind in kinds) for low, high in ((0, 5), (5, 7), (7, 8))]
    parts = []
    if counts[0]:
        parts.append(world.leaves(counts[0], frames=frames, size=size, seed=first))
    if counts[1]:
        parts.append(world.noise(counts[1], frames=frames, size=size, seed=second))
    if counts[2]:
        scenes = world.draw(counts[2], seed=third)
        clips = world.render(scenes, frames=frames, size=size, seed=third)
        parts.append(clips.transpose(1, 2))
    return torch.cat(parts)


def started(name: str, folder: Path, needs: str) -> RegressionUpscaler:
    """A new upscaler, with the trunk of another, if it needs one: made here before, or committed.

    Args:
        name: of the upscaler; it ends in how many times larger frames get.
        folder: where trainings leave their results.
        needs: name of the other; empty for none.
    """
    upscaler = RegressionUpscaler(int(name[-1]))
    if needs:
        source = folder / needs if (folder / needs).exists() else path(needs)
        other = RegressionUpscaler.from_pretrained(source, torch_dtype=torch.float32)
        trunk = {k: v for k, v in other.state_dict().items() if not k.startswith("conv_out.")}
        upscaler.load_state_dict(trunk, strict=False)
    return upscaler


class Regressing:
    """Charbonnier error of pixels, of their differences and of their Fourier coefficients."""

    def __init__(self, weights: RegressionUpscaler, batch: int, softest: float = 0.0) -> None:
        """Set up the training.

        Args:
            weights: the network, trained in place.
            batch: clips a step.
            softest: standard deviation, in pixels, of the strongest blur of the clips before they
                are reduced. Footage is hardly ever sharp to the pixel, which counts where the
                factor is small: what was soft must stay so.
        """
        network: Any = weights  # mypy and pyright disagree on this overload
        network.to(memory_format=torch.channels_last)
        self.weights, self.batch, self.softest = weights, batch, softest

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error on a batch of clips."""
        device, scale = self.weights.device, self.weights.scale
        sharp = footage(self.batch, FRAMES, CROP * scale, generator)
        if self.softest:
            sharp = _softened(sharp, self.softest, generator)
        seed = int(torch.randint(2**40, (), generator=generator))
        small = world.shrink(sharp, scale, seed=seed)
        with torch.autocast(device.type, torch.bfloat16):
            seen = self.weights(small.to(device))
        error = seen.float() - sharp.to(device)
        waves = fft.rfft2(error, norm="ortho").abs().mean()
        edges = _slack(error.diff(dim=-1)) + _slack(error.diff(dim=-2))
        return _slack(error) + EDGES * edges + WAVES * waves

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing to do between steps."""


def _softened(
    clips: Float[Tensor, "b 3 f h w"], most: float, generator: torch.Generator
) -> Float[Tensor, "b 3 f h w"]:
    """Each clip with a blur of its own."""
    sigmas = (most * torch.rand(len(clips), generator=generator)).clamp_min(0.05).tolist()
    flat = clips.flatten(1, 2)[:, :, None]
    soft = [blur(clip, sigma) for clip, sigma in zip(flat, sigmas, strict=True)]
    return torch.stack(soft).view_as(clips)


def _slack(error: Tensor) -> Tensor:
    """Charbonnier's penalty, a smooth absolute value."""
    return (error.square() + SLACK**2).sqrt().mean()


@torch.no_grad()
def psnr(weights: RegressionUpscaler, clips: Float[Tensor, "b 3 f h w"]) -> tuple[float, float]:
    """Peak signal-to-noise ratio in dB of reduced clips, enlarged by bicubic and by the network."""
    scale = weights.scale
    small = world.shrink(clips, scale, footage=world.Footage(clean=1.0))
    size = (clips.shape[2], *clips.shape[-2:])
    plain = torch.stack(
        [interpolate(c.transpose(0, 1), size[1:], mode="bicubic").transpose(0, 1) for c in small]
    )
    first, second = (
        float(-10 * torch.log10((seen.clamp(0, 1) - clips).square().mean()))
        for seen in (plain, weights(small))
    )
    return first, second
