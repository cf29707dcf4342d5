"""The judge: what it reads, and how its training goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from elevator import world, zoo
from elevator.zoo.recogniser import (
    LOOKS,
    WORDS,
    Reading,
    Recogniser,
    Recognising,
    perceptual_distance,
    shares,
    words,
)
from elevator.zoo.train import train


def test_reading_names_the_likeliest_word() -> None:
    scene = world.Scene("dotted", "blue", "star", "moving up", "sand")
    told = {kind: getattr(scene, kind, "ink") for kind in WORDS}
    scores = {
        kind: torch.tensor([[float(word == told[kind]) for word in known]])
        for kind, known in WORDS.items()
    }
    reading = Reading(scores, torch.zeros(1, 8, 4), torch.zeros(1, 8, 2))
    assert words(reading) == [told]
    assert all(share == 1 for share in shares(reading, [scene]).values())
    other = world.Scene("dotted", "blue", "star", "moving down", "sand")
    assert {kind: float(share) for kind, share in shares(reading, [other]).items()} == {
        "texture": 1,
        "colour": 1,
        "shape": 1,
        "motion": 0,
        "background": 1,
    }


@pytest.mark.parametrize(("frames", "side"), [(1, 64), (8, 64), (5, 32)])
def test_clips_of_any_length_and_size_are_read(frames: int, side: int) -> None:
    torch.manual_seed(0)
    judge = Recogniser(width=16, features=8)
    reading = judge(torch.rand(2, frames, 3, side, side))
    assert reading.features.shape == (2, frames, 8)
    assert reading.places.shape == (2, frames, 2)
    assert reading.places.abs().max() < 1
    assert {k: v.shape for k, v in reading.scores.items()} == {
        k: (2, len(v)) for k, v in WORDS.items()
    }


def test_motion_is_read_from_places_alone() -> None:
    torch.manual_seed(0)
    judge = Recogniser(width=16, features=8)
    clip = torch.rand(1, 4, 3, 64, 64)
    forth, back = judge(clip), judge(clip.flip(1))
    assert torch.allclose(forth.places, back.places.flip(1), atol=1e-6)
    assert torch.allclose(forth.scores["shape"], back.scores["shape"], atol=1e-5)
    assert not torch.allclose(forth.scores["motion"], back.scores["motion"], atol=1e-5)


def test_training_shows_every_look() -> None:
    task = Recognising(Recogniser(width=16, features=8), batch=16)
    scenes, clips, look = task.clips(torch.Generator().manual_seed(0))
    assert len(scenes) == len(clips) == 16
    assert torch.bincount(look, minlength=len(LOOKS)).tolist() == [6, 6, 2, 2]
    assert clips.min() >= 0
    assert clips.max() <= 1
    assert task.loss(0, torch.Generator().manual_seed(0)).isfinite()


def test_training_saves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    folder = train("recogniser", 2, tmp_path, "cpu", batch=8)
    judge = Recogniser.from_pretrained(folder)
    assert judge.config.features == 48


def test_distance_is_nought_for_equal_frames_and_grows_with_what_is_wrong() -> None:
    reader = zoo.load_recogniser()
    (clip,) = world.render(world.draw(1, seed=3), frames=2, seed=3)
    grain = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    assert perceptual_distance(reader, clip, clip) == 0
    little, much = (perceptual_distance(reader, clip + s * grain, clip) for s in (0.02, 0.2))
    assert 0 < little < much
    assert perceptual_distance(reader, clip, clip + 0.2 * grain) == pytest.approx(much)
    with pytest.raises(ValueError, match="give two of one shape"):
        perceptual_distance(reader, clip, clip[:1])


def test_distance_is_the_mean_over_places_of_that_between_directions() -> None:
    reader, rng = Recogniser(width=8), torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 32, 32, generator=rng) for _ in range(2))
    layers = []
    with torch.no_grad():
        for x, y in zip(reader.activations(a), reader.activations(b), strict=True):
            cosine = torch.nn.functional.cosine_similarity(x, y)
            layers.append(float((2 - 2 * cosine).mean()))
    expected = sum(layers) / len(layers)
    assert perceptual_distance(reader, a, b) == pytest.approx(expected, rel=1e-4)
