r"""T2V SDEdit: noise a clean estimate and let another model denoise it part of the way.

At step $i$ of $S$, with the other model's levels (Meng et al. 2022, arXiv 2108.01073;
VideoElevator, arXiv 2403.05438, section 3, "temporal motion refining"):

$$v_i = \bar\alpha_i\, c + \bar\sigma_i\, \eta, \qquad v_{k+1} = \text{solve}(v_k), \quad
  k = i, \dots, i + N - 1, \qquad c' = \hat c(v_{i+N-1}) .$$

The clean latent is the only bridge between the two models, so their schedules and prediction types
may differ.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch

from elevator.denoise import Denoiser
from elevator.hook import Hook, Host, Run, Step
from elevator.latent import Latent
from elevator.level import Level
from elevator.papers import SDEDIT
from elevator.samplers.ddim import DDIM, Solver
from elevator.schedule import Schedule

__all__ = ["SDEdit"]


@final
@dataclass(frozen=True)
class SDEdit(Hook[Schedule]):
    """Refine the clean estimate with `steps` steps of another model, freshly noised.

    Attributes:
        denoiser: the other model, e.g. `el.denoiser(t2v, prompt)`, guidance inside.
        steps: network calls per refinement, N >= 0; 0 changes nothing. Fewer are made where the
            run ends sooner.
        solver: makes its steps; `DDIM()`, or `LCM()` for consistency models.
        match: how its noise level is found. `timestep`: its own factors at the host's integer
            timestep, then its own grid of as many steps as the host's, from the same index (as
            the paper's code does). `snr`: the levels of the host's signal-to-noise ratios.

    Raises:
        ValueError: a negative number of steps, or another kind of matching.
    """

    denoiser: Denoiser
    steps: int
    solver: Solver = field(default_factory=DDIM)
    match: Literal["timestep", "snr"] = "timestep"

    paper: ClassVar[str | None] = SDEDIT

    def __post_init__(self) -> None:
        """Check the number of steps and the kind of matching."""
        if self.steps < 0:
            raise ValueError(f"SDEdit takes steps >= 0, got {self.steps}")
        if self.match not in ("timestep", "snr"):
            raise ValueError(f"SDEdit matches by 'timestep' or 'snr', got {self.match!r}")

    def check(self, host: Host) -> Iterable[str]:
        """Whether the other model's scheduler can make a grid as long as the run."""
        if host.steps is None or self.match == "snr":
            return
        try:
            length = len(self.denoiser.walk(host.steps))
        except ValueError as error:
            yield (
                f"the scheduler of {self.denoiser!r} has no grid of {host.steps} steps ({error}); "
                "use fewer num_inference_steps, or SDEdit(..., match='snr')"
            )
            return
        if length != host.steps:
            yield (
                f"the scheduler of {self.denoiser!r} makes {length} steps of {host.steps}; "
                "use a first-order scheduler such as DDIMScheduler for it, or match='snr'"
            )

    def init(self, run: Run) -> Schedule:
        """Make the other model's levels, one per step of the run."""
        if self.match == "timestep":
            return self.denoiser.walk(len(run.schedule))
        return _matched(self.denoiser.schedule, run.schedule)

    def update(self, clean: Latent, step: Step, state: Schedule) -> tuple[Latent, Schedule]:
        """Noise the clean estimate, walk N steps, return the last clean estimate."""
        if self.steps == 0:
            return clean, state
        levels = state
        if self.match == "timestep":
            # The step's own timestep: both calls of a second-order host start at one level.
            start = self.denoiser.schedule.at(step.run.schedule.timesteps[step.index])
            if levels.space != self.denoiser.schedule.space:  # e.g. Euler walks unscaled latents
                scale = levels.scale(start)
                start = Level(start.alpha * scale, start.sigma * scale, start.timestep)
        else:
            start = levels[step.index]
        noisy = start.alpha * clean + start.sigma * step.draw("sdedit")
        for index in range(step.index, min(step.index + self.steps, len(levels))):
            level = levels[index]
            prediction = self.denoiser(noisy, level)
            clean, noisy = self.solver(
                prediction,
                noisy,
                level,
                levels[index + 1],
                lambda: step.draw(f"solver {index}"),  # noqa: B023
            )
        return clean, state


def _matched(own: Schedule, run: Schedule) -> Schedule:
    """The levels of `own` with the signal-to-noise ratios of `run`."""
    rows = [own.match(run[index]) for index in range(len(run))]
    timesteps = [row.timestep for row in rows if row.timestep is not None]
    return Schedule(
        torch.stack([row.alpha for row in rows]),
        torch.stack([row.sigma for row in rows]),
        torch.stack(timesteps),
        own.final,
    )
