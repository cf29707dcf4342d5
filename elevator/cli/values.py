"""What an argument of the command line may be: text in, value out, or a sentence why not."""

from __future__ import annotations

import argparse

__all__ = [
    "count",
    "crf",
    "indices",
    "lora",
    "number",
    "positive",
    "seed",
    "share",
    "size",
    "version",
    "whole",
]


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.lstrip("+").isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def indices(text: str) -> tuple[int, ...]:
    """Whole numbers between commas; nothing for none."""
    return tuple(whole(part.strip()) for part in text.split(",")) if text.strip() else ()


def seed(text: str) -> int:
    """A whole number from 0 to 2^63 - 1."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def number(text: str) -> float:
    """A number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1e6 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def crf(text: str) -> float:
    """A constant rate factor of x264."""
    value = number(text)
    if not 0 <= value <= 51:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 51")
    return value


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return value


def size(text: str) -> tuple[int, int]:
    """Width and height."""
    width, times, height = text.lower().replace("×", "x").partition("x")
    try:
        return count(width), count(height if times else width)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text} is not a size; write 64 or 96x64, width first"
        ) from None


def lora(text: str) -> tuple[str, float]:
    """File and scale."""
    file, colon, scale = text.rpartition(":")
    try:
        return (file, number(scale)) if colon else (text, 1.0)
    except argparse.ArgumentTypeError:
        return text, 1.0  # a colon in the name


def version() -> str:
    """Which elevator this is."""
    import elevator

    return f"elevator {elevator.__version__}"
