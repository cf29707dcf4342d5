"""Count network calls before anything runs, by running the hooks on tensors without data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from elevator.denoise import Call, count_calls
from elevator.errors import CheckError, ElevatorError
from elevator.hook import Hook, Run, Step
from elevator.level import Prediction
from elevator.noise import KeyedNoise
from elevator.patch import Patch, calls_of

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """The network calls of a run.

    Attributes:
        host: calls the plain pipeline makes.
        hooks: calls the hooks add.
    """

    host: Counter[Call]
    hooks: Counter[Call]

    @property
    def total(self) -> Counter[Call]:
        """All calls, the pipeline's and the hooks'."""
        return self.host + self.hooks

    def frame_forwards(self, name: str | None = None) -> int:
        """Frames all calls process together (those of the network `name`, if given)."""
        return sum(
            call.frame_forwards * count
            for call, count in self.total.items()
            if name is None or call.name == name
        )

    def __str__(self) -> str:
        """A table: calls, batch, frames, frame-forwards, and the cost against the plain run."""
        lines = [f"{'network':<28}{'calls':>7}{'batch':>7}{'frames':>8}{'frame-forwards':>16}"]
        for call, count in self.total.items():
            lines.append(
                f"{call.name:<28}{count:>7}{call.batch:>7}{call.frames:>8}"
                f"{count * call.frame_forwards:>16}"
            )
        plain = sum(call.frame_forwards * count for call, count in self.host.items())
        lines.append(
            f"{self.frame_forwards()} frame-forwards, "
            f"{self.frame_forwards() / plain:.2f} times the plain pipeline"
        )
        return "\n".join(lines)


def plan(
    pipeline: Any,
    hook: Hook[Any],
    *,
    steps: int = 50,
    frames: int = 16,
    clips: int = 1,
    height: int | None = None,
    width: int | None = None,
    guided: bool = True,
    start: int = 0,
    patches: Sequence[Patch] = (),
) -> Plan:
    """Predict the network calls of a run, by batch, without computing anything.

    The hooks run on meta tensors, on which denoisers record their calls; so a count is right by
    construction for any hook that does not look at values.

    Args:
        pipeline: the pipeline the hook would be attached to.
        hook: the composition.
        steps: num_inference_steps.
        frames: frames per clip.
        clips: clips in the batch.
        height: height in pixels; the network's own by default.
        width: width in pixels; the network's own by default.
        guided: whether the pipeline runs classifier-free guidance, which doubles its batch.
        start: index of the first step that is run; image-to-image begins later than 0.
        patches: changes inside its network that would be applied.

    Raises:
        CheckError: the composition cannot run on this pipeline, or looks at values.
    """
    from elevator.attach import check
    from elevator.hosts.coefficients import family_of, prepared, run_schedule
    from elevator.hosts.pipeline import (
        frames_per_row,
        kind_of,
        latent_shape,
        network_of,
        pixels_per_latent,
        tokens_of,
    )

    _, pictures = pixels_per_latent(pipeline)
    latent_frames = (frames - 1) // pictures + 1
    problems = check(pipeline, hook, patches, frames=latent_frames, steps=steps)
    if problems:
        raise CheckError(problems)
    latents = latent_shape(pipeline, frames, height, width)
    scheduler = prepared(pipeline.scheduler, steps, tokens_of(pipeline, latents))
    schedule, order = run_schedule(scheduler), family_of(scheduler).order
    shape = (clips, *latents)
    meta = torch.device("meta")
    run = Run(schedule, shape, meta, torch.float32, KeyedNoise(), pictures=pictures)
    blank = torch.empty(shape, device=meta)
    own = frames_per_row(pipeline, shape[2])
    rows = clips * shape[2] // own * (2 if guided else 1)
    once = calls_of(patches, Call(kind_of(network_of(pipeline)).__name__, rows, own))
    positions = range(start * order, len(scheduler.timesteps))

    with count_calls() as calls:
        state = hook.init(run)
        for position in positions:
            index = position // order
            predicted = Prediction(blank, torch.empty_like(blank))
            step = Step(
                run=run,
                index=index,
                noisy=blank,
                predicted=predicted,
                level=schedule[index],
                next=schedule[index + 1],
                conditional=lambda: Prediction(blank, blank),
            )
            try:
                clean, state = hook.update(predicted.clean, step, state)
                _, state = hook.finish(clean, torch.empty_like(blank), step, state)
            except ElevatorError:
                raise
            except (RuntimeError, NotImplementedError, TypeError) as error:
                raise CheckError(
                    [
                        f"{hook!r} looks at the values of a latent, so its calls cannot be "
                        f"planned without running it ({error})"
                    ]
                ) from error
    return Plan(Counter(once * len(positions)), Counter(calls))
