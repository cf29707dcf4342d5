"""The training loop: seeded, and resumable bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from elevator.zoo.loop import DivergedError, Progress, Rates, fit


class Line:
    """Fits a line to noisy points."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.weights: nn.Module = nn.Linear(3, 1)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        points = torch.randn(16, 3, generator=generator)
        error: Tensor = self.weights(points) - points.sum(1, keepdim=True)
        return error.square().mean()

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing."""


class StopError(Exception):
    """The power went out."""


def run(
    folder: Path,
    *,
    stop: int | None = None,
    seed: int = 0,
    steps: int = 30,
    shards: int = 1,
) -> dict[str, Tensor]:
    def progress(now: Progress) -> None:
        if now.step == stop:
            raise StopError

    average = fit(
        "line",
        Line(),
        Rates(0.05),
        steps=steps,
        seed=seed,
        checkpoint=folder / "line.pt",
        shards=shards,
        save_every=0.0,
        progress=progress,
    )
    return average


def test_resumed_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(StopError):
        run(tmp_path / "cut", stop=11)
    resumed = run(tmp_path / "cut")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not list(tmp_path.glob("*/*.part"))


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert all(torch.equal(first[key], value) for key, value in run(tmp_path).items())


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match="a training with seed=0, asked was one with seed=1; ask"):
        run(tmp_path, seed=1)
    with pytest.raises(ValueError, match="with shards=1, asked was one with shards=2"):
        run(tmp_path, shards=2)


def test_a_training_that_goes_astray_stops_with_its_last_good_weights(tmp_path: Path) -> None:
    class Astray(Line):
        def loss(self, step: int, generator: torch.Generator) -> Tensor:
            return super().loss(step, generator) * (torch.nan if step == 7 else 1.0)

    rates = Rates(0.05)
    with pytest.raises(DivergedError, match=r"gradient of step 8 is no number .* lower the"):
        fit(
            *("line", Astray(), rates),
            steps=30,
            seed=0,
            checkpoint=tmp_path / "line.pt",
            save_every=0.0,
            progress=lambda _: None,
        )
    saved = torch.load(tmp_path / "line.pt")
    assert saved["step"] == 7
    assert all(value.isfinite().all() for value in saved["weights"].values())


def _one_of_two(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    average = run(folder, shards=2)
    torch.save(average, folder / f"rank-{rank}.pt")


def test_processes_share_out_the_losses_of_a_step(tmp_path: Path) -> None:
    alone = run(tmp_path / "alone", shards=2)
    spawn(_one_of_two, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    for key, value in alone.items():
        torch.testing.assert_close(ranks[0][key], value)
        assert torch.equal(ranks[0][key], ranks[1][key])
    assert not torch.equal(alone["weight"], run(tmp_path / "one")["weight"])


def test_rates_rise_and_fall() -> None:
    rates = Rates(1.0, warm=0.1)
    assert rates.at(0, 100) == pytest.approx(0.1)
    assert rates.at(9, 100) == pytest.approx(1.0)
    assert rates.at(99, 100) == pytest.approx(0.01, abs=0.01)


def test_progress_reads_like_a_sentence() -> None:
    assert str(Progress("t2i", 50, 100, 0.25, 75.0)) == "t2i: step 50/100, loss 0.2500, 1:15 left"
