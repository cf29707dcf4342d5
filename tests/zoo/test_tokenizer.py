"""The tokenizer: CLIP's format, one token a word of the world."""

from __future__ import annotations

from pathlib import Path

import pytest

from elevator import world
from elevator.zoo import tokenizer

transformers = pytest.importorskip("transformers")


@pytest.fixture
def words(tmp_path: Path) -> object:
    tokenizer.write(tmp_path)
    return transformers.CLIPTokenizer.from_pretrained(tmp_path)


def test_a_caption_has_one_token_a_word(words: object) -> None:
    caption = world.draw(1, seed=0)[0].caption()
    ids = words(caption).input_ids  # type: ignore[operator]
    assert len(ids) == len(caption.split()) + 2
    assert len(ids) <= tokenizer.LENGTH


def test_unknown_words_fall_apart_without_loss(words: object) -> None:
    ids = words("hippo, naïve!").input_ids  # type: ignore[operator]
    assert words.unk_token_id not in ids[1:-1]  # type: ignore[attr-defined]
    text = words.decode(ids, skip_special_tokens=True)  # type: ignore[attr-defined]
    assert text.replace(" ", "") == "hippo,naïve!"


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenizer.write(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
