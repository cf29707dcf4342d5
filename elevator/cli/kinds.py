"""What an argument of the command line may be: each turns its text into a value, or refuses it."""

from __future__ import annotations

import argparse

__all__ = ["count", "crf", "indices", "lora", "number", "positive", "seed", "share", "size"]


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.lstrip("+").isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def number(text: str) -> float:
    """Any number a person would give."""
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not -1e6 < found < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return found


def positive(text: str) -> float:
    """A number above 0."""
    found = number(text)
    if found <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return found


def crf(text: str) -> float:
    """A constant rate factor on x264's scale."""
    found = number(text)
    if not 0 <= found <= 51:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 51")
    return found


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    found = number(text)
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return found


def size(text: str) -> tuple[int, int]:
    """Width and height."""
    width, times, height = text.lower().replace("×", "x").partition("x")
    try:
        return count(width), count(height if times else width)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text} is not a size; write 64 or 96x64, width first"
        ) from None


def indices(text: str) -> tuple[int, ...]:
    """Steps, or none."""
    try:
        return () if text == "none" else tuple(seed(part) for part in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text} are no steps; write 24,26,28, or none") from None


def lora(text: str) -> tuple[str, float]:
    """File and scale."""
    file, colon, scale = text.rpartition(":")
    try:
        return (file, number(scale)) if colon else (text, 1.0)
    except argparse.ArgumentTypeError:
        return text, 1.0  # a colon in the name
