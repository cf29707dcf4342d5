r"""DDIM, as a solver for one step, and the reference sampling loop.

With the prediction $(\hat c, \hat n)$ at level $(\alpha, \sigma)$ and the next level
$(\alpha', \sigma')$ (Song et al. 2021, arXiv 2010.02502, equations 12 and 16):

$$x' = \alpha' \hat c + \sqrt{\sigma'^2 - s^2}\,\hat n + s\,\eta', \qquad
  s = \eta\,\sigma' \sqrt{1 - \frac{\alpha^2 \sigma'^2}{\alpha'^2 \sigma^2}} .$$

$s/\eta$ is the standard deviation of the DDPM posterior in any scale of $(\alpha, \sigma)$.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

from elevator.combine import identity
from elevator.denoise import Denoiser
from elevator.hook import Hook, Run, Step
from elevator.latent import Latent
from elevator.level import Level, Prediction
from elevator.noise import KeyedNoise, Noise

__all__ = ["DDIM", "Solved", "Solver", "sample"]


class Solved(NamedTuple):
    """What a solver makes of a prediction: its clean estimate and the next latent."""

    clean: Latent
    noisy: Latent


@runtime_checkable
class Solver(Protocol):
    """One step of a sampler, without memory."""

    def __call__(
        self,
        prediction: Prediction,
        noisy: Latent,
        level: Level,
        next: Level,
        draw: Callable[[], Latent],
    ) -> Solved:
        """From a prediction at `level` to the latent at `next`; `draw` gives fresh noise."""
        ...


@final
@dataclass(frozen=True)
class DDIM:
    """DDIM; deterministic at `eta` 0, DDPM's variance at 1.

    Attributes:
        eta: weight of fresh noise, in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        """Check the weight."""
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM takes eta from 0 to 1, got {self.eta}")

    def __call__(
        self,
        prediction: Prediction,
        noisy: Latent,
        level: Level,
        next: Level,
        draw: Callable[[], Latent],
    ) -> Solved:
        """From a prediction at `level` to the latent at `next`."""
        clean, noise = prediction
        if self.eta == 0:
            return Solved(clean, next.alpha * clean + next.sigma * noise)
        ratio = level.alpha * next.sigma / (next.alpha * level.sigma)
        deviation = self.eta * next.sigma * (1 - ratio**2).clamp_min(0).sqrt()
        kept = (next.sigma**2 - deviation**2).clamp_min(0).sqrt()
        return Solved(clean, next.alpha * clean + kept * noise + deviation * draw())


def sample(
    denoiser: Denoiser,
    noisy: Latent,
    steps: int,
    *,
    hook: Hook[Any] | None = None,
    solver: Solver | None = None,
    noise: Noise | None = None,
) -> Iterator[Solved]:
    """Sample step by step, hooks included: the loop `attach` is checked against.

    Args:
        denoiser: the model.
        noisy: latents at the first level of `denoiser.walk(steps)`.
        steps: number of steps.
        hook: a hook, applied to each clean estimate.
        solver: makes the step; DDIM at eta 0 by default.
        noise: source of every draw; keyed with seed 0 by default.

    Yields:
        The clean estimate and the next latent after each step; the last one's is the result.
    """
    hook, solver, noise = hook or identity(), solver or DDIM(), noise or KeyedNoise()
    schedule = denoiser.walk(steps)
    b, c, f, h, w = noisy.shape
    run = Run(schedule, (b, c, f, h, w), noisy.device, noisy.dtype, noise)
    state = hook.init(run)
    for index in range(len(schedule)):
        level, following = schedule[index], schedule[index + 1]
        predicted = denoiser(noisy, level)
        step = Step(run, index, noisy, predicted, level, following)
        clean, state = hook.update(predicted.clean, step, state)
        if clean is not predicted.clean:
            # What the noise would have been, had the network seen `clean`.
            predicted = Prediction(clean, (noisy - level.alpha * clean) / level.sigma)
        solved = solver(predicted, noisy, level, following, lambda: step.draw("solver"))  # noqa: B023
        noisy, state = hook.finish(solved.clean, solved.noisy, step, state)
        yield Solved(solved.clean, noisy)
