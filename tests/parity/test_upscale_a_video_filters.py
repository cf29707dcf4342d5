"""Warps, masks, propagation and colour against tensors recorded from Upscale-A-Video's own code.

With `--goldens DIR` the files of DIR/upscale_a_video; without it those that lie in tests/data.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from elevator.filters import Flow, Propagate, adain, consistent, warp, wavelet
from elevator.filters.colour import low_frequencies
from tests.builders import make_run, make_step
from tests.parity.cases import folder_of, keys_of, offer, read_tensors

WARPS = (
    *("out.bilinear.zeros", "out.nearest.zeros", "out.bilinear.border"),
    *("ramp_out.bilinear", "ramp_out.nearest"),
)
WAYS = {"fw": ("fw", "bw"), "bw": ("bw", "fw")}
BOUNDS = {"pipeline": (0.001, 0.05), "default": (0.01, 0.5)}
MASKS = tuple(f"valid_{way}.{bounds}" for way in WAYS for bounds in BOUNDS)
PROPAGATED: dict[str, dict[str, Any]] = {
    "pipeline": {},
    "bilinear": {"mode": "bilinear"},
    "beta03": {"fuse": 0.3},
    "copy": {"fuse": 1.0},
    "defaults": {"mode": "bilinear", "alpha1": 0.01, "alpha2": 0.5},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = folder_of(metafunc.config, "upscale_a_video")
    for name, file, cases in (
        ("warped", "01_warp_consistency", WARPS),
        ("mask", "01_warp_consistency", MASKS),
        ("propagated", "02_propagation", tuple(f"out.{case}" for case in PROPAGATED)),
        (
            "halfway",
            "02_propagation",
            tuple(f"out_backward_pass.{case}" for case in PROPAGATED),
        ),
        ("short", "02_propagation", ("out.t2", "out_from_2x_flows")),
        ("masks", "02_propagation", ("mask_backward_pass",)),
        ("coloured", "03_color", ("adain", "wavelet", "wavelet_uint8_thwc", "wavelet_high")),
    ):
        if name in metafunc.fixturenames:
            found = [case for case in cases if case in keys_of(folder / file)]
            offer(metafunc, name, found, str)
            metafunc.parametrize("path", [folder / file], ids=[""])


def _close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_warp(warped: str, path: Path) -> None:
    tensors = read_tensors(path)
    ramp = warped.startswith("ramp")
    flow = tensors["ramp_flow" if ramp else "flow_hw2"]
    how: Any = warped.split(".")[1:]
    got = warp(tensors["ramp" if ramp else "x"], rearrange(flow, "n h w xy -> n xy h w"), *how)
    _close(got, tensors[warped])


def test_consistency(mask: str, path: Path) -> None:
    tensors = read_tensors(path)
    way, constants = mask.removeprefix("valid_").split(".")
    there, back = (tensors[name] for name in WAYS[way])
    got = consistent(there, back, *BOUNDS[constants])
    assert torch.equal(got.float(), tensors[mask])


def _propagated(hook: Propagate, latent: Tensor) -> Tensor:
    run = make_run(tuple(latent.shape))  # type: ignore[arg-type]
    return hook.update(latent, make_step(run), hook.init(run))[0]


def _flow(tensors: dict[str, Tensor], suffix: str = "") -> Flow:
    return Flow(*(tensors[f"flows_{way}{suffix}"] for way in ("forward", "backward")))


def test_propagation(propagated: str, path: Path) -> None:
    tensors, case = read_tensors(path), propagated.removeprefix("out.")
    hook = Propagate(_flow(tensors), **PROPAGATED[case])
    _close(_propagated(hook, tensors["x"]), tensors[propagated])


def test_the_backward_pass_alone(halfway: str, path: Path) -> None:
    """Where no way back is trusted, the forward pass does nothing: the backward pass is left."""
    tensors, case = read_tensors(path), halfway.removeprefix("out_backward_pass.")
    hook = Propagate(_flow(tensors), **PROPAGATED[case])
    run = make_run(tuple(tensors["x"].shape))  # type: ignore[arg-type]
    passes = hook.update(tensors["x"], make_step(run), hook.init(run))[1]
    assert passes is not None
    nowhere = passes.forward._replace(trusted=torch.zeros_like(passes.forward.trusted))
    half = passes._replace(forward=nowhere)
    _close(hook.update(tensors["x"], make_step(run), half)[0], tensors[halfway])


def test_propagation_of_other_sizes(short: str, path: Path) -> None:
    tensors = read_tensors(path)
    if short == "out.t2":
        flow = Flow(*(part[:, :, :1] for part in _flow(tensors)))
        got = _propagated(Propagate(flow), tensors["x"][:, :, :2])
    else:
        got = _propagated(Propagate(_flow(tensors, "_2x")), tensors["x_half"])
    _close(got, tensors[short])


def test_masks_of_the_passes(masks: str, path: Path) -> None:
    tensors = read_tensors(path)
    hook, run = Propagate(_flow(tensors)), make_run(tuple(tensors["x"].shape))  # type: ignore[arg-type]
    passes = hook.update(tensors["x"], make_step(run), hook.init(run))[1]
    assert passes is not None
    assert torch.equal(passes.backward.trusted.float(), tensors[masks])
    assert torch.equal(passes.forward.trusted.float(), tensors["mask_forward_pass"])


def test_colour(coloured: str, path: Path) -> None:
    tensors = read_tensors(path)
    frames, reference = tensors["output"], tensors["lr_bicubic_x4"]
    if coloured == "adain":
        _close(adain(frames, reference), tensors["adain"])
    elif coloured == "wavelet_high":
        low = low_frequencies(frames[:1])
        _close(frames[:1] - low, tensors["wavelet_high"])
        _close(low, tensors["wavelet_low"])
    elif coloured == "wavelet":
        _close(wavelet(frames, reference), tensors["wavelet"])
    else:
        # As it is saved there: clamped, and cut to whole numbers.
        unit = (wavelet(frames, reference) / 2 + 0.5).clamp(0, 1)
        levels = rearrange((unit * 255).to(torch.uint8), "t c h w -> t h w c")
        apart = (levels.short() - tensors[coloured].short()).abs()
        assert apart.max() <= 1
        assert apart.float().mean() < 1e-3
