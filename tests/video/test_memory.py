"""How memory is handed out, in processes of their own, since the C library's settings stay."""

import ctypes
import os
import subprocess
import sys

import pytest

PROBE = """
import ctypes, os, sys
import numpy as np
from elevator.video.memory import give_back, keep_apart

class Info(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
if sys.argv[1] == "apart":
    keep_apart()
np.ones(20 << 20, np.uint8)  # freed at once: from now on glibc would keep blocks up to this size
blocks = [library.mallinfo2().field3]
held = np.ones(8 << 20, np.uint8)
blocks.append(library.mallinfo2().field3)
del held
give_back()
print(blocks[1] - blocks[0], os.environ.get("THP_MEM_ALLOC_ENABLE"))
"""
glibc = pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="only glibc tells which blocks it took one by one",
)


def _probe(word: str, **environment: str) -> list[str]:
    names = ("MALLOC_MMAP_THRESHOLD_", "THP_MEM_ALLOC_ENABLE")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    told = subprocess.run(
        [sys.executable, "-c", PROBE, word],
        env=kept | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return told.stdout.split()


@glibc
def test_large_blocks_are_taken_one_by_one() -> None:
    assert _probe("apart") == ["1", "1"]


@glibc
def test_left_alone_they_are_not() -> None:
    assert _probe("alone") == ["0", "None"]


@glibc
def test_the_environment_goes_first() -> None:
    given = {"MALLOC_MMAP_THRESHOLD_": str(16 << 20), "THP_MEM_ALLOC_ENABLE": "0"}
    assert _probe("apart", **given) == ["0", "0"]
