"""How the C library hands memory out, so that a long clip needs no more than a short one.

Without it, what a stretch leaves between blocks that are in use adds up, and differently from run
to run. Nothing is done where the C library is another than glibc.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

__all__ = ["give_back", "keep_apart"]

LARGE = 4 << 20
"""Bytes from which a block is taken from the system by itself, and goes back when it is freed.

Below it are the blocks of which there are many. Left alone, glibc raises this up to 32 MiB.
"""
MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's `malloc.h`."""


def keep_apart() -> None:
    """Take large blocks from the system one by one, in huge pages; for a process that is ours.

    To be called before torch makes its first tensor, when it looks whether huge pages are wanted.
    They win back most of the time that taking blocks one by one costs. What the environment says of
    either goes first.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    option = getattr(_c_library(), "mallopt", None)
    if option is not None and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        option(MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Give freed memory back to the system."""
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def _c_library() -> Any:
    return ctypes.CDLL(None) if os.name == "posix" else None
