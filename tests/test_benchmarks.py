"""The benchmarks' own machinery: what is kept, how work is shared, what intervals say."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import _arrangements
from benchmarks._arrangements import Models, composed, elevated, painted, way
from benchmarks._claims import PARTS, claims
from benchmarks._kept import share
from benchmarks._measure import table
from benchmarks._rows import Judge, Kept, Rows, bootstrap, cut, difference, jackknife
from benchmarks.quality_videoelevator import GROUPS
from elevator import world
from elevator.recipes import Preset
from elevator.zoo.sampling import NUMBERS, STYLED


def _counted(
    models: Models, scene: world.Scene, seed: int, *, grey: float, t2i: str = "t2i"
) -> torch.Tensor:
    """A clip that costs nothing, and is counted."""
    MADE.append((scene, seed))
    return torch.full((2, 3, 8, 8), grey)


MADE: list[tuple[world.Scene, int]] = []


@pytest.fixture(autouse=True)
def _nothing_made() -> None:
    MADE.clear()


def test_clips_are_made_once_and_only_what_is_missing(tmp_path: Path) -> None:
    kept, grey = Kept(tmp_path, Models()), way(_counted, grey=0.2)
    clips = kept.clips("grey", grey, 3)
    assert clips.shape == (3, 2, 3, 8, 8)
    assert clips.mean() == pytest.approx(0.2)
    assert len(MADE) == 3
    kept.clips("grey", grey, 5)
    assert len(MADE) == 5
    assert len({seed for _, seed in MADE}) == 5


def test_other_arguments_weights_or_seeds_are_kept_apart(tmp_path: Path) -> None:
    kept = Kept(tmp_path, Models())
    kept.make("grey", way(_counted, grey=0.2), 1)
    kept.make("grey", way(_counted, grey=0.4), 1)
    kept.make("grey", way(_counted, grey=0.2, t2i="t2i-ink"), 1)
    Kept(tmp_path, Models(), seed=1).make("grey", way(_counted, grey=0.2), 1)
    assert len(MADE) == 4
    assert len([*tmp_path.iterdir()]) == 4


def test_shares_add_up_and_do_not_overlap(tmp_path: Path) -> None:
    kept, grey = Kept(tmp_path, Models()), way(_counted, grey=0.2)
    for part in ((0, 3), (1, 3), (2, 3)):
        kept.make("grey", grey, 8, part)
    assert len(MADE) == len({seed for _, seed in MADE}) == 8
    kept.clips("grey", grey, 8)
    assert len(MADE) == 8


def test_captions_are_held_out_and_none_comes_twice() -> None:
    scenes = Kept(Path("nowhere"), Models()).scenes(128)
    assert len(set(scenes)) == len(scenes) == 128
    assert all(scene.held_out for scene in scenes)
    assert Kept(Path("nowhere"), Models()).scenes(40) == scenes[:40]


def test_captions_that_are_left_out_do_not_come_and_too_many_are_refused() -> None:
    kept = Kept(Path("nowhere"), Models())
    judged = kept.scenes(256)
    others = replace(kept, seed=1000, without=frozenset(judged)).scenes(8)
    assert len(set(others)) == 8
    assert not set(others) & set(judged)
    assert set(Kept(Path("nowhere"), Models(), seed=1000).scenes(8)) & set(judged)
    with pytest.raises(ValueError, match="600 captions are asked for, but there are 545"):
        kept.scenes(600)


@pytest.mark.parametrize("text", ["1", "2/2", "0/0", "a/b", "-1/2"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not I/N with 0 <= I < N"):
        share(text)
    assert share("1/2") == (1, 2)


def test_intervals_hold_the_value_and_shrink_with_the_number_of_clips() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)

    def width(count: int) -> float:
        found = bootstrap(lambda chosen: float(values[chosen].mean()), count)
        assert found["low"] < found["value"] < found["high"]
        return found["high"] - found["low"]

    assert width(400) == pytest.approx(width(100) / 2, rel=0.25)


def test_leaving_out_clips_in_turn_gives_the_interval_of_a_mean_and_spares_distances() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)
    drawn = bootstrap(lambda chosen: float(values[chosen].mean()), 400)
    left_out = jackknife(lambda chosen: float(values[chosen].mean()), 400)
    for end in ("low", "value", "high"):
        assert left_out[end] == pytest.approx(drawn[end], abs=0.01)

    def twice(chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        """A statistic that clips which come twice make larger, as they make a distance."""
        return len(chosen) / len(set(chosen))

    assert bootstrap(twice, 40)["low"] > 1.2
    assert jackknife(twice, 40) == {"low": 1, "value": 1, "high": 1}


def test_differences_are_paired_over_what_both_have() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=50)
    ours, theirs = {"x": base + 0.5}, {"x": base[:20]}
    found = difference(ours, theirs, "x")
    assert found["low"] == pytest.approx(0.5)
    assert found["high"] == pytest.approx(0.5)
    assert len(cut(ours, slice(7))["x"]) == 7


def test_arrangements_from_parts_are_the_pipelines() -> None:
    models, scene = Models(steps=5), world.draw(1, seed=0, split="held-out")[0]
    whole, parts = elevated(models, scene, 0), composed(models, scene, 0)
    assert torch.allclose(whole, parts, atol=1e-4)
    assert not torch.allclose(whole, composed(models, scene, 0, rule="predicted"), atol=1e-2)


def test_the_t2i_alone_gets_as_many_calls_or_the_steps_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = Models()
    asked: list[Preset] = []

    def paint(*_: object, numbers: Preset) -> torch.Tensor:
        asked.append(numbers)
        return torch.zeros(1)

    monkeypatch.setattr(_arrangements, "paint", paint)
    (scene,) = world.draw(1, seed=0)
    painted(models, scene, 0)
    painted(models, scene, 0, numbers=STYLED)
    forwards = models.pipe().plan("", preset=replace(NUMBERS, steady=())).frame_forwards()
    assert 2 * asked[0].steps * NUMBERS.frames == pytest.approx(forwards, abs=NUMBERS.frames)
    assert asked[0].steps > NUMBERS.steps
    assert asked[1] == STYLED


def test_columns_stay_in_line_however_long_the_names() -> None:
    rows = {"a": 1.0, "a name that is longer than any other": 2.0}
    lines = table({name: {"x": x, "a long column's": x} for name, x in rows.items()}).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert "x  a long column's" in lines[0]


class _Near(Judge):
    """Distances are the features' mean."""

    def distance(self, rows: Rows, look: object = None) -> float:
        return float(rows["features"].mean())


LESS_IS_BETTER = ("jitter", "change", "features")


def _rows(better: float) -> dict[str, Rows]:
    """Rows in which VideoElevator is better by so much, in all measures, parts of it by less."""
    ours = [name for name in ARRANGED if "VideoElevator" in name]
    bases = {name for name, *_ in PARTS}
    ranks = {name: 2 if name in bases or name in ours else 0 for name in ARRANGED}
    noise = 0.01 * np.random.default_rng(0).normal(size=(len(ARRANGED), 16))
    rows: dict[str, Rows] = {}
    for row, name in zip(noise, ARRANGED, strict=True):
        up, down = 0.92 + row + better * ranks[name], 1 + row - better * ranks[name]
        rows[name] = dict.fromkeys(COLUMNS, up) | dict.fromkeys(LESS_IS_BETTER, down)
    rows["truth"] |= dict.fromkeys(LESS_IS_BETTER, np.full(16, 0.1))
    return rows


ARRANGED = tuple(name for group in GROUPS.values() if not group.own for name in group.ways)
COLUMNS = (
    *("motion", "heading", "words", "colour", "shape", "texture", "ink", "mosaic"),
    *("sharpness", *LESS_IS_BETTER),
)


def test_claims_have_verdicts_that_turn_with_the_numbers() -> None:
    up, down = ([*claims(_rows(better), _Near())] for better in (0.2, -0.2))
    assert len(up) == len({claim.sentence for claim in up})
    assert [claim.sentence for claim in up if not claim.holds] == [
        f"{name}: sharpness, part of the truth's"
        for name in ("VideoElevator", "VideoElevator, inverted")
    ]
    assert [claim.sentence for claim in down if claim.holds] == ["T2V moves as told"]
    even = {claim.sentence: claim.holds for claim in claims(_rows(0.0), _Near())}
    assert even["VideoElevator: sharpness, part of the truth's"]
    assert even["VideoElevator: jitter, part of the T2V's"]
    assert even["VideoElevator keeps the T2V's motion, by arithmetic"]
    assert not even["motion against T2I frame by frame"]
    assert not even["VideoElevator nearer to crisp stills than the T2V"]


def test_every_claim_is_one_of_what_is_made() -> None:
    assert {name for pair in PARTS for name in pair[:2]} <= {*ARRANGED}
