"""A training loop that can be killed at any moment and goes on as if nothing had happened.

Every step draws its data and noise from a generator seeded with (seed, step), and the learning rate
is a function of the step. So weights, their moving average, the optimizer and the step number are
all there is to keep, and a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, distributed, nn

from elevator.errors import CheckError, ElevatorError

__all__ = [
    "Average",
    "DivergedError",
    "Progress",
    "Rates",
    "Recipe",
    "Task",
    "fit",
    "leads",
    "report",
]


Average: TypeAlias = dict[str, Tensor]
"""A moving average of weights, by their names."""


@runtime_checkable
class Task(Protocol):
    """What is trained: some weights and a loss."""

    @property
    def weights(self) -> nn.Module:
        """The weights; they stay where they are while they are trained."""
        ...

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """The loss of a step, all of whose random draws come from `generator` (on the CPU)."""
        ...

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Called when `step` steps are done, with the moving average of the weights."""


@dataclass(frozen=True)
class Rates:
    """How fast to learn.

    Attributes:
        peak: highest learning rate of the one-cycle schedule.
        warm: part of the steps, in (0, 1), in which it rises; then it falls along a cosine.
        part: part of the cycle, in (0, 1], that is run before it is cut short.
        average: decay of the moving average of the weights.
        clip: largest norm of the gradient.
    """

    peak: float
    warm: float = 0.05
    part: float = 1.0
    average: float = 0.998
    clip: float = 1.0

    def at(self, step: int, steps: int) -> float:
        """Learning rate of a step, from 0 (the first) to `steps - 1`."""
        steps = round(steps / self.part)
        rise = max(1, round(self.warm * steps))
        if step < rise:
            return self.peak * (step + 1) / rise
        return self.peak * (
            0.01 + 0.99 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2
        )


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a model is trained.

    Attributes:
        steps: steps in all.
        batch: stills or clips a step.
        rates: learning rate and averaging.
        needs: folder, made by another training, that this one starts from.
        shards: batches of that size a step; `torchrun` computes them side by side.
        seed: added to the seed, so that a training that goes on from another sees new examples.
        lean: of an image model, to noisy levels above 1, to clean ones below.
    """

    steps: int
    batch: int
    rates: Rates
    needs: str
    shards: int = 1
    seed: int = 0
    lean: float = 1.0


class DivergedError(ElevatorError, ArithmeticError):
    """A training went astray; no weights of it are saved."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        name: what is trained.
        step: steps done.
        steps: steps in all.
        loss: mean over the last hundred steps or so.
        seconds_left: estimate from the steps of this run.
    """

    name: str
    step: int
    steps: int
    loss: float
    seconds_left: float

    def __str__(self) -> str:
        """One line for people."""
        left = f"{int(self.seconds_left // 60)}:{int(self.seconds_left % 60):02d}"
        return f"{self.name}: step {self.step}/{self.steps}, loss {self.loss:.4f}, {left} left"


def report(progress: Progress) -> None:
    """Print a progress line every fifty steps and at the end."""
    if progress.step % 50 == 0 or progress.step == progress.steps:
        print(progress, flush=True)


def fit(
    name: str,
    task: Task,
    rates: Rates,
    *,
    steps: int,
    seed: int,
    checkpoint: Path,
    shards: int = 1,
    resume: bool = True,
    save_every: float = 60.0,
    progress: Callable[[Progress], None] = report,
) -> Average:
    """Train `task.weights` in place.

    Args:
        name: for the progress lines.
        task: weights and loss.
        rates: learning rate and averaging.
        steps: steps in all, those before an interruption included.
        seed: of everything that is drawn.
        checkpoint: file to go on from and to save to; written aside, then renamed.
        shards: losses averaged in a step, each with draws of its own; where `torch.distributed` is
            set up, its processes share them out, and only the first saves and reports.
        resume: whether to go on from an existing checkpoint.
        save_every: seconds between checkpoints.
        progress: called after every step.

    Returns:
        The moving average of the weights.

    Raises:
        CheckError: shards that cannot be shared out, or a checkpoint of another training.
        DivergedError: a gradient that is not finite.
    """
    _, processes = _place()
    if shards % processes:
        raise CheckError(
            [f"{shards} shards cannot be shared out evenly among {processes} processes; run fewer"]
        )
    state = task.weights.state_dict()
    trained = [p for p in task.weights.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rates.peak, betas=(0.9, 0.99), weight_decay=0.01)
    average = {key: value.detach().clone() for key, value in state.items()}
    start, mean = 0, math.nan
    settings = {"steps": steps, "seed": seed, "shards": shards, **asdict(rates)}
    if resume and checkpoint.exists():
        saved = torch.load(
            checkpoint, map_location=next(iter(state.values())).device, weights_only=True
        )
        if saved["settings"] != settings:
            other = (f"{k}={v}" for k, v in saved["settings"].items() if v != settings[k])
            asked = (f"{k}={v}" for k, v in settings.items() if v != saved["settings"][k])
            raise CheckError(
                [
                    f"{checkpoint} is a training with {', '.join(other)}, asked was one with "
                    f"{', '.join(asked)}; ask for the same, or train anew with resume=False"
                ]
            )
        task.weights.load_state_dict(saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        average, start, mean = saved["average"], saved["step"], saved["mean"]

    def save(done: int) -> None:
        aside = checkpoint.with_suffix(".part")
        content = {"step": done, "settings": settings, "mean": mean, "average": average}
        content |= {"weights": task.weights.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(content, aside)
        os.replace(aside, checkpoint)

    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    began = saved_at = time.monotonic()
    for step in range(start, steps):
        optimizer.param_groups[0]["lr"] = rates.at(step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss = _gradient(task, trained, step, shards, seed)
        length = float(nn.utils.clip_grad_norm_(trained, rates.clip))
        if not math.isfinite(length):  # of the mean over all processes: they stop together
            raise DivergedError(
                f"{name}: the gradient of step {step + 1} is no number any more, so this step was "
                "not taken; lower the learning rate, or take larger clips or batches. The last "
                f"good weights are in {checkpoint}, if it is there"
            )
        optimizer.step()
        done = step + 1
        decay = min(rates.average, done / (done + 10))
        for key, value in task.weights.state_dict().items():
            average[key].lerp_(value, 1 - decay) if value.is_floating_point() else average[
                key
            ].copy_(value)
        mean = loss if math.isnan(mean) else mean + (loss - mean) * max(0.01, 1 / done)
        task.after(done, average)
        now = time.monotonic()
        if not leads():
            continue
        if now - saved_at >= save_every or done == steps:
            save(done)
            saved_at = now
        left = (now - began) / (done - start) * (steps - done)
        progress(Progress(name, done, steps, mean, left))
    return average


def leads() -> bool:
    """Whether this process is the one that writes, of those that share a training."""
    return _place()[0] == 0


def _place() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _gradient(task: Task, trained: list[nn.Parameter], step: int, shards: int, seed: int) -> float:
    """Leave the gradient of a step's mean loss in `trained`, and return this process's share."""
    rank, processes = _place()
    total = 0.0
    for shard in range(rank, shards, processes):
        # Of a seed, torch's generator heeds the lowest 32 bits only.
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step * shards + shard)
        loss = task.loss(step, generator) / shards
        loss.backward()
        total += loss.item()
    if processes > 1:
        gradients = [p.grad for p in trained if p.grad is not None]
        joined = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(joined)
        parts = joined.split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    return total * processes
