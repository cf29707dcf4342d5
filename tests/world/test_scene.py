"""Captions and the held-out split."""

from __future__ import annotations

from inspect import unwrap

import pytest

from elevator.world import ACTIONS, MOTIONS, Scene, draw, scenes

RING = Scene("striped", "red", "ring", "moving left", "teal")


def test_caption_reads_like_a_sentence() -> None:
    assert RING.caption() == "a striped red ring moving left on a teal background"


def test_every_caption_leads_back_to_its_scene() -> None:
    every = [*scenes(motions=(*MOTIONS, *ACTIONS)), *draw(50, seed=0, split="all", pairs=True)]
    assert all(Scene.from_caption(s.caption()) == s for s in every)


def test_caption_tells_of_the_object_behind() -> None:
    scene = Scene("striped", "red", "ring", "growing", "teal", "plain blue disc")
    told = "a striped red ring growing in front of a plain blue disc on a teal background"
    assert scene.caption() == told
    assert Scene.from_caption(told) == scene


def test_pairs_keep_to_their_split_and_differ_in_colour() -> None:
    for split in ("train", "held-out"):
        pairs = draw(30, seed=1, split=split, motions=ACTIONS, pairs=True)
        assert pairs == draw(30, seed=1, split=split, motions=ACTIONS, pairs=True)
        for pair in pairs:
            assert pair.held_out == (split == "held-out")
            assert pair.motion in ACTIONS
            assert pair.behind is not None
            assert pair.colour != pair.behind.split()[1]


def test_unknown_object_behind_says_what_to_give() -> None:
    with pytest.raises(ValueError, match=r"behind='a disc'.*such as 'plain blue disc'"):
        Scene("striped", "red", "ring", "moving left", "teal", "a disc")


@pytest.mark.parametrize(
    "caption",
    [
        "A striped red ring moving left on a teal background.",
        "  a striped red  ring moving left on a teal background",
    ],
)
def test_case_blanks_and_full_stop_do_not_matter(caption: str) -> None:
    assert Scene.from_caption(caption) == RING


@pytest.mark.parametrize(
    "caption",
    ["", "a dog", "a striped red ring", "a striped beige ring moving left on a teal background"],
)
def test_unknown_captions_give_none(caption: str) -> None:
    assert Scene.from_caption(caption) is None


def test_unknown_word_names_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"colour='beige'.*red, orange"):
        Scene("striped", "beige", "ring", "moving left", "teal")


def test_splits_are_disjoint_and_complete() -> None:
    train, held_out = set(scenes("train")), set(scenes("held-out"))
    assert not train & held_out
    assert train | held_out == set(scenes())
    assert len(held_out) / len(scenes()) == pytest.approx(0.1, abs=0.02)


def test_every_word_is_seen_in_training() -> None:
    for name in ("texture", "colour", "shape", "motion", "background"):
        assert {getattr(s, name) for s in scenes("train")} == {getattr(s, name) for s in scenes()}


def test_draw_is_seeded_and_keeps_to_its_split() -> None:
    assert draw(50, seed=3) == draw(50, seed=3)
    assert draw(50, seed=3) != draw(50, seed=4)
    assert not any(s.held_out for s in draw(200, seed=0))
    assert all(s.held_out for s in draw(200, seed=0, split="held-out"))


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split='test'"):
        unwrap(scenes)("test")  # beneath the type checks of the test run
