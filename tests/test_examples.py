"""The examples run as they are, only with fewer frames."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elevator.recipes import PRESETS

EXAMPLES = Path(__file__).parents[1] / "benchmarks" / "examples"


def test_stylise_draws_one_motion_in_three_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(PRESETS["world-styled"], frames=2)
    monkeypatch.setitem(PRESETS, "world-styled", few)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "stylise.py"))
    seen = {}
    for look in ("plain", "ink", "mosaic"):
        with Image.open(f"{look}.gif") as picture:
            assert getattr(picture, "n_frames", 1) == 2
            seen[look] = np.asarray(picture.convert("RGB"), dtype=float)
    assert seen["ink"].mean() > seen["plain"].mean(), "paper is light"
    grout = {look: (pixels[::8] - pixels[4::8]).mean() for look, pixels in seen.items()}
    assert grout["mosaic"] < grout["plain"] - 10, "tiles are set in dark grout"
