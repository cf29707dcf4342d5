"""A table of noise levels: what a network was trained on, or what one run walks through."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.level import Level

__all__ = ["Schedule"]

_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Schedule:
    """Noise levels from noisiest to cleanest, and the level that follows the last of them.

    `schedule[i]` is the level step `i` starts from; `schedule[len(schedule)]` the final one.

    Attributes:
        alphas: factor of the clean latent per row, float64.
        sigmas: factor of the noise per row, falling; float64.
        timesteps: what the network is told per row; not increasing; float64.
        final: the level after the last row (sigma is 0 or nearly so).
    """

    alphas: Float[Tensor, " n"]
    sigmas: Float[Tensor, " n"]
    timesteps: Float[Tensor, " n"]
    final: Level

    def __len__(self) -> int:
        """Number of levels a step starts from (the final one not counted)."""
        return len(self.alphas)

    def __getitem__(self, index: int) -> Level:
        """The level at row `index`, from 0 (noisiest) to `len(self)` (the final level)."""
        if index == len(self):
            return self.final
        if not 0 <= index < len(self):
            raise IndexError(
                f"level {index} of a schedule of {len(self)} steps; give 0..{len(self)}"
            )
        return Level(self.alphas[index], self.sigmas[index], self.timesteps[index])

    @property
    def space(self) -> Literal["preserving", "exploding", "flow"]:
        """Which curve (alpha, sigma) lies on: the unit circle, alpha = 1, or alpha + sigma = 1."""
        if bool((self.alphas == 1).all()):
            return "exploding"
        on_circle = (self.alphas**2 + self.sigmas**2 - 1).abs().max()
        on_line = (self.alphas + self.sigmas - 1).abs().max()
        return "preserving" if on_circle <= on_line else "flow"

    def scale(self, level: Level) -> Tensor:
        """Factor that brings a latent at any (alpha, sigma) of equal ratio onto this curve."""
        match self.space:
            case "preserving":
                return (level.alpha**2 + level.sigma**2).rsqrt()
            case "exploding":
                return 1 / level.alpha
            case "flow":
                return 1 / (level.alpha + level.sigma)

    def at(self, timestep: int | float | Tensor) -> Level:
        """The level of a timestep; between rows, log(sigma / alpha) is interpolated linearly.

        Timesteps outside the table take its first or last row.
        """
        rising = self.timesteps.flip(0)
        wanted = torch.as_tensor(timestep, dtype=torch.float64, device=rising.device)
        return self._interpolate(rising, wanted)

    def match(self, level: Level) -> Level:
        """The level of this schedule with the signal-to-noise ratio of `level`.

        Ratios outside the table take its first or last row; sigma = 0 takes the cleanest row.
        """
        ratio = (
            level.sigma.double().clamp_min(_TINY) / level.alpha.double().clamp_min(_TINY)
        ).log()
        return self._interpolate(self._log_ratios().flip(0), ratio.to(self.alphas.device))

    def _log_ratios(self) -> Float[Tensor, " n"]:
        return (self.sigmas.clamp_min(_TINY) / self.alphas.clamp_min(_TINY)).log()

    def _interpolate(self, rising: Float[Tensor, " n"], wanted: Tensor) -> Level:
        """Row of the table (reversed, cleanest first) where `rising` takes the value `wanted`."""
        alphas, sigmas, timesteps = (
            column.flip(0) for column in (self.alphas, self.sigmas, self.timesteps)
        )
        last = len(rising) - 1
        upper = torch.searchsorted(rising.contiguous(), wanted).clamp(0, last)
        lower = (upper - 1).clamp_min(0)
        span = rising[upper] - rising[lower]
        weight = torch.where(span > 0, (wanted - rising[lower]) / span, torch.ones_like(span))
        weight = weight.clamp(0, 1)
        if bool((weight == 1).all()):  # on a row, the usual case: no rounding through logarithms
            return Level(alphas[upper], sigmas[upper], timesteps[upper])
        log_ratio = self._log_ratios().flip(0)
        ratio = torch.lerp(log_ratio[lower], log_ratio[upper], weight).exp()
        timestep = torch.lerp(timesteps[lower], timesteps[upper], weight)
        match self.space:
            case "preserving":
                alpha = (1 + ratio**2).rsqrt()
            case "exploding":
                alpha = torch.ones_like(ratio)
            case "flow":
                alpha = 1 / (1 + ratio)
        return Level(alpha, ratio * alpha, timestep)
