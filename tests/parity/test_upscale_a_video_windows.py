"""Windows and tiles as published, against the plans recorded from the reference implementation."""

from itertools import chain
from typing import Any

import pytest
import torch

from elevator.video.windows import (
    Tile,
    published_chunks,
    published_tiles,
    published_weights,
    published_windows,
)
from tests.parity.cases import folder_of, offer, read_json


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = folder_of(metafunc.config, "upscale_a_video")
    if "window_case" in metafunc.fixturenames:
        there = (folder / "11_window_plan.json").exists()
        plans = read_json(folder / "11_window_plan") if there else {}
        offer(metafunc, "window_case", list(plans.items()), lambda case: f"{case[0]}-frames")
    if "tile_case" in metafunc.fixturenames:
        there = (folder / "12_tile_plan.json").exists()
        plans = read_json(folder / "12_tile_plan") if there else []
        offer(metafunc, "tile_case", plans, _name)


def _name(case: dict[str, Any]) -> str:
    return "-".join([f"{case['h']}x{case['w']}", *(part.strip("-") for part in case["extra"])])


def test_windows_weights_and_chunks(window_case: tuple[str, dict[str, Any]]) -> None:
    frames, recorded = int(window_case[0]), window_case[1]
    plan = published_windows(frames)
    assert [[span.start, span.stop] for span in plan] == recorded["windows"]
    expected = torch.tensor(recorded["blend_weights"], dtype=torch.float64)
    assert torch.equal(published_weights(plan), expected)
    assert [len(chunk) for chunk in published_chunks(frames)] == recorded["vae_decode_chunks"]
    assert [*chain.from_iterable(published_chunks(frames))] == list(range(frames))


def test_tiles(tile_case: dict[str, Any]) -> None:
    options = tile_case["extra"]
    size = int(options[options.index("--tile_size") + 1]) if "--tile_size" in options else 256
    height, width = tile_case["processed_h"], tile_case["processed_w"]
    plan = published_tiles(height, width, size, always="--perform_tile" in options)
    assert len(plan) == tile_case["n_calls"]
    for tile, recorded in zip(plan, tile_case["tiles"], strict=True):
        assert tile.seen == _tile(recorded["input_y"], recorded["input_x"], 1)
        assert tile.kept == _tile(recorded["output_y"], recorded["output_x"], 4)
    missed = torch.ones(height, width)
    for tile in plan:
        tile.kept.cut(missed).zero_()
    assert 16 * int(missed.sum()) == tile_case["uncovered_pixels"]


def _tile(y: list[int], x: list[int], scale: int) -> Tile:
    """A recorded tile in pixels of the clip."""
    assert not any(edge % scale for edge in (*y, *x))
    return Tile(range(y[0] // scale, y[1] // scale), range(x[0] // scale, x[1] // scale))
