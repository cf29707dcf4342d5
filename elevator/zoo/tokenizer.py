"""The zoo's tokenizer: byte pairs learnt from the captions of the world, in CLIP's file format."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from elevator import world

__all__ = ["LENGTH", "write"]

LENGTH = 24
"""Tokens of a text, marks and padding included."""
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def write(folder: Path) -> None:
    """Write the files that `CLIPTokenizer.from_pretrained` reads.

    Every word of a caption of one thing that moves straight becomes one token; other words, those
    of other motions among them, fall apart into pieces and bytes.
    """
    words = sorted({word for scene in world.scenes() for word in scene.caption().split()})
    merges = _merges(words)
    letters = _letters()
    tokens = [
        *letters,
        *(letter + _WORD_END for letter in letters),
        *map("".join, merges),
        START,
        END,
    ]
    files = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges), ""]),
        "tokenizer_config.json": json.dumps(_config(), indent=2),
        "special_tokens_map.json": json.dumps(_marks(), indent=2),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pairs to join, most frequent first, until every word is one piece."""
    split = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for pieces in split for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_join(pieces, best) for pieces in split]
    return merges


def _join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _letters() -> list[str]:
    """The 256 printable characters that stand for the bytes in CLIP's (and GPT-2's) vocabulary."""
    plain = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [*map(chr, plain), *(chr(256 + i) for i in range(256 - len(plain)))]


def _config() -> dict[str, object]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
        "errors": "replace",
        "clean_up_tokenization_spaces": True,
    }


def _marks() -> dict[str, object]:
    def mark(token: str) -> dict[str, object]:
        return {
            "content": token,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }

    return {
        "bos_token": mark(START),
        "eos_token": mark(END),
        "pad_token": END,
        "unk_token": mark(END),
    }
