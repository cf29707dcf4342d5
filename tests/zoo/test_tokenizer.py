"""The tokenizer: CLIP's format, one token a word of the world."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from elevator import world
from elevator.zoo import tokenizer


@pytest.fixture
def words(tmp_path: Path) -> CLIPTokenizer:
    tokenizer.write(tmp_path)
    return CLIPTokenizer.from_pretrained(tmp_path)


def test_a_caption_has_one_token_a_word(words: CLIPTokenizer) -> None:
    caption = world.draw(1, seed=0)[0].caption()
    ids = words(caption).input_ids
    assert len(ids) == len(caption.split()) + 2
    assert len(ids) <= tokenizer.LENGTH


def test_unknown_words_fall_apart_without_loss(words: CLIPTokenizer) -> None:
    ids = words("hippo, naïve!").input_ids
    assert words.unk_token_id not in ids[1:-1]
    text = words.decode(ids, skip_special_tokens=True)
    assert text.replace(" ", "") == "hippo,naïve!"


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenizer.write(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
