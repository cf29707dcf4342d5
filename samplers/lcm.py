r"""The sampler of latent consistency models (Luo et al. 2023, arXiv 2310.04378, section 4.3).

$$\hat c = c_{\text{skip}}\,x + c_{\text{out}}\,c_\theta, \quad
  c_{\text{skip}} = \frac{s_d^2}{(k t)^2 + s_d^2}, \quad
  c_{\text{out}} = \frac{k t}{\sqrt{(k t)^2 + s_d^2}}, \quad
  x' = \alpha' \hat c + \sigma' \eta .$$
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from elevator.errors import HookError
from elevator.latent import Latent
from elevator.level import Level, Prediction
from elevator.samplers.ddim import Solved

__all__ = ["LCM"]


@final
@dataclass(frozen=True)
class LCM:
    """One step of a consistency model: the boundary-corrected estimate, freshly noised.

    Attributes:
        timestep_scaling: k, 10 in the published models.
        sigma_data: s_d, 0.5 in the published models.
    """

    timestep_scaling: float = 10.0
    sigma_data: float = 0.5

    def __call__(
        self,
        prediction: Prediction,
        noisy: Latent,
        level: Level,
        next: Level,
        draw: Callable[[], Latent],
    ) -> Solved:
        """From a prediction at `level` to the latent at `next`; no noise where sigma' is 0."""
        if level.timestep is None:
            raise HookError("LCM needs the timestep of a level; take levels from denoiser.walk()")
        scaled = self.timestep_scaling * level.timestep
        skip = self.sigma_data**2 / (scaled**2 + self.sigma_data**2)
        out = scaled / (scaled**2 + self.sigma_data**2).sqrt()
        clean = out * prediction.clean + skip * noisy
        if bool(next.sigma == 0):
            return Solved(clean, next.alpha * clean)
        return Solved(clean, next.alpha * clean + next.sigma * draw())
