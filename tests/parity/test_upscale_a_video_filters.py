"""Warps, masks, propagation and colour against tensors recorded from Upscale-A-Video's own code.

With `--goldens DIR` the files of DIR/upscale_a_video; without it those that lie in tests/data.
"""

from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor

from elevator.filters import consistent, warp
from tests.parity.cases import folder_of, keys_of, offer, read_tensors

WARPS = ("out.bilinear.zeros", "out.nearest.zeros", "out.bilinear.border")
RAMPS = ("ramp_out.bilinear", "ramp_out.nearest")
MASKS = {"pipeline": (0.001, 0.05), "default": (0.01, 0.5)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = folder_of(metafunc.config, "upscale_a_video")
    for name, file, cases in (
        ("warped", "01_warp_consistency", (*WARPS, *RAMPS)),
        ("mask", "01_warp_consistency", tuple(f"valid_{way}.{k}" for way in WAYS for k in MASKS)),
    ):
        if name in metafunc.fixturenames:
            found = [case for case in cases if case in keys_of(folder / file)]
            offer(metafunc, name, found, str)
            metafunc.parametrize("path", [folder / file], ids=[""])


WAYS = {"fw": ("fw", "bw"), "bw": ("bw", "fw")}


def _close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_warp(warped: str, path: Path) -> None:
    tensors = read_tensors(path)
    ramp = warped.startswith("ramp")
    flow = tensors["ramp_flow" if ramp else "flow_hw2"]
    _, mode, *padding = warped.split(".")
    got = warp(
        tensors["ramp" if ramp else "x"], rearrange(flow, "n h w xy -> n xy h w"), mode, *padding
    )  # type: ignore[arg-type]
    _close(got, tensors[warped])


def test_consistency(mask: str, path: Path) -> None:
    tensors = read_tensors(path)
    way, constants = mask.removeprefix("valid_").split(".")
    there, back = (tensors[name] for name in WAYS[way])
    got = consistent(there, back, *MASKS[constants])
    assert torch.equal(got.float(), tensors[mask])
