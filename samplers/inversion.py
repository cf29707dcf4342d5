r"""DDIM inversion as a re-noising rule, with the correction of its error.

From the clean latent $c$ up the host's own levels $u_j$, noisier and noisier
(Song et al. 2021; VideoElevator, arXiv 2403.05438, section 3):

$$e_j = \epsilon_\theta(z_{j}, u_{j+1}), \qquad
  z_{j+1} = \alpha_{j+1} \frac{z_j - \sigma_j e_j}{\alpha_j} + \sigma_{j+1} e_j .$$

As published, the network is told the *new* level's timestep $u_{j+1}$ for the *old* latent, and
until the next refinement each step is corrected by the error sampling would make on the inverted
latents themselves (as in Direct Inversion, Ju et al. 2023, arXiv 2310.01506):

$$x' \leftarrow x' + z_{i+1} - \text{DDIM}(z_i) .$$

With `told="own"` it is told the latent's own level, $\epsilon_\theta(z_j, u_j)$, the Euler step of
Song et al., section 4.3. On the built-in T2I that leads back much closer to $c$, without correction
and even where it climbs several levels at once (`stride`): `python -m benchmarks.inversion`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

from elevator.denoise import Denoiser
from elevator.hook import Host, Run, Step
from elevator.latent import Latent
from elevator.level import Level
from elevator.papers import VIDEOELEVATOR
from elevator.renoise import Renoise
from elevator.samplers.ddim import DDIM

__all__ = ["DDIMInversion"]


class _Trail(NamedTuple):
    """Inverted latents, cleanest first, up to the one at the next step's level."""

    latents: tuple[Latent, ...] = ()
    fresh: bool = False


@final
@dataclass(frozen=True)
class DDIMInversion(Renoise[_Trail]):
    """Put a changed clean estimate at the next level by inverting the host's own network.

    Attributes:
        invert: the host's network as used for the inversion; the paper uses the negative prompt,
            unguided: `el.denoiser(t2i, negative, guidance=1)`.
        correct: the host's network as used for the correction; the paper uses the prompt, unguided:
            `el.denoiser(t2i, prompt, guidance=1)`. None: no correction.
        stride: visit every `stride`-th level only, counted back from the one to reach, >= 1. The
            correction needs every level, so it excludes a stride.
        told: which level the network is told: the `"next"` one, as published, or the latent's
            `"own"`.
        reuse: take the correction of the step right after a refinement from the host's own call,
            whose conditional half it repeats when `correct` is the host's prompt and network.

    Raises:
        ValueError: a stride under 1 or beside a correction, or another level to tell.
    """

    invert: Denoiser
    correct: Denoiser | None = None
    stride: int = 1
    told: Literal["next", "own"] = "next"
    reuse: bool = False

    paper: ClassVar[str | None] = (
        VIDEOELEVATOR
        + """

@inproceedings{song2021denoising,
  title={Denoising Diffusion Implicit Models},
  author={Song, Jiaming and Meng, Chenlin and Ermon, Stefano},
  booktitle={International Conference on Learning Representations},
  year={2021},
  eprint={2010.02502},
}

@article{ju2023direct,
  title={Direct Inversion: Boosting Diffusion-based Editing with 3 Lines of Code},
  author={Ju, Xuan and Zeng, Ailing and Bian, Yuxuan and Liu, Shaoteng and Xu, Qiang},
  journal={arXiv preprint arXiv:2310.01506},
  year={2023},
}"""
    )

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.stride < 1:
            raise ValueError(f"DDIMInversion takes stride >= 1, got {self.stride}")
        if self.told not in ("next", "own"):
            raise ValueError(f"DDIMInversion takes told='next' or 'own', got {self.told!r}")
        if self.stride > 1 and self.correct is not None:
            raise ValueError(
                "the correction needs the inverted latent at every level; give DDIMInversion "
                "either correct=... or stride=..., not both"
            )

    def init(self, run: Run) -> _Trail:
        """No inverted latents yet."""
        return _Trail()

    def check(self, host: Host) -> Iterable[str]:
        """A solver that clips its clean estimate does not walk back where inversion came from."""
        if host.clips:
            yield (
                f"{host.solver} clips the clean estimate, which DDIM inversion cannot undo; set "
                "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, "
                "clip_sample=False, thresholding=False)"
            )

    def claims(self, acts_at: frozenset[int], steps: int) -> frozenset[int]:
        """With a correction, every step from the first refinement on."""
        if self.correct is None or not acts_at:
            return acts_at
        return frozenset(range(min(acts_at), steps))

    def update(
        self, clean: Latent | None, proposed: Latent, step: Step, state: _Trail
    ) -> tuple[Latent, _Trail]:
        """Invert after a refinement, correct between refinements."""
        if clean is not None:
            trail = self._trail(clean, step)
            kept = tuple(trail[1:]) if self.correct is not None else ()
            return trail[-1], _Trail(kept, fresh=True)
        if self.correct is None or len(state.latents) < 2:
            return proposed, _Trail()
        *rest, here = state.latents
        prediction = step.conditional() if self.reuse and state.fresh else None
        if prediction is None:
            prediction = self.correct(here, step.level)
        solver = DDIM(float(step.options.get("eta", 0.0)))
        drifted = solver(
            prediction, here, step.level, step.next, lambda: step.draw("correction")
        ).noisy
        return proposed + (rest[-1] - drifted), _Trail(tuple(rest))

    def _trail(self, clean: Latent, step: Step) -> list[Latent]:
        """The clean latent and its inversions at each level visited, up to `step.next`."""
        schedule = step.run.schedule
        latent, old, trail = clean, schedule.final, [clean]
        for index in _ladder(len(schedule) - 1, step.index + 1, self.stride):
            new = schedule[index]
            timestep = new.timestep if self.told == "next" else old.timestep
            prediction = self.invert(latent, Level(old.alpha, old.sigma, timestep))
            latent = new.alpha * prediction.clean + new.sigma * prediction.noise
            trail.append(latent)
            old = new
        return trail


def _ladder(cleanest: int, noisiest: int, stride: int) -> list[int]:
    """Schedule rows from the cleanest up to the noisiest, which is always one of them."""
    return list(range(noisiest, cleanest + 1, stride))[::-1]
