"""RAFT against tensors recorded from the network that Upscale-A-Video runs, with random weights.

With `--goldens DIR` DIR/upscale_a_video/10_raft, where it is; the names and shapes of its published
weights are compared in tests/models.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from elevator.filters import Flow
from elevator.models import RAFT
from tests.parity.cases import COMMITTED, folder_of, keys_of, offer, read_json, read_tensors
from tests.parity.recipe import draw

FEATURES = ("fnet1", "cnet1")
STEPS = ("flow_lowres.it1", "flow_up.it1", "flow_lowres.it3", "flow_up.it3")
CLIPS = ("bi.forward", "bi.backward")
RESIZED = "resize.out_"
SEED, CLIP_STEPS = 400, 2


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = folder_of(metafunc.config, "upscale_a_video") / "10_raft"
    there = keys_of(path)
    for name, cases in (
        ("feature", FEATURES),
        ("step", STEPS),
        ("clip", CLIPS),
        ("resized", tuple(key for key in there if key.startswith(RESIZED))),
    ):
        if name in metafunc.fixturenames:
            offer(metafunc, name, [case for case in cases if case in there], str)
            metafunc.parametrize("path", [path], ids=[""])


@cache
def _network() -> RAFT:
    shapes = read_json(COMMITTED / "upscale_a_video" / "keys_raft_things")
    return RAFT.from_published(
        {name: draw(name.removeprefix("module."), shapes[name], SEED) for name in shapes},
        iterations=CLIP_STEPS,
    )


def _close(got: Tensor, wanted: Tensor) -> None:
    """To a thousandth of the largest value, which is how exact an iteration is."""
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-3 * wanted.abs().max()


def _as_recorded(flow: Tensor, width: float, height: float) -> Iterable[Tensor]:
    """Flow that was resized there: in place of dx and dy, its rows 0 and 1 are scaled.

    Args:
        flow: ours, resized.
        width: what its dx were multiplied by.
        height: what its dy were multiplied by.
    """
    scale = torch.tensor([width, height]).view(1, 2, *[1] * (flow.ndim - 2))
    unscaled = flow / scale
    for rows in ((height, width), (width, height)):
        recorded = unscaled.clone()
        recorded[..., 0, :] *= rows[0]
        recorded[..., 1, :] *= rows[1]
        yield recorded


def _close_to_one(found: Iterable[Tensor], wanted: Tensor) -> None:
    nearest = min(found, key=lambda flow: float((flow - wanted).abs().max()))
    _close(nearest, wanted)


def test_features(feature: str, path: Path) -> None:
    tensors = read_tensors(path)
    encoder = getattr(_network(), feature[:-1])
    with torch.no_grad():
        _close(encoder(tensors["image1"])[:, ::16], tensors[feature])


def test_steps(step: str, path: Path) -> None:
    tensors = read_tensors(path)
    name, _, count = step.partition(".it")
    with torch.no_grad():
        coarse, flow = _network().estimate(tensors["image1"], tensors["image2"], int(count))
    _close(coarse if name == "flow_lowres" else flow, tensors[step])


def test_clips_of_sizes_that_are_resized(clip: str, path: Path) -> None:
    tensors = read_tensors(path)
    frames, wanted = tensors["clip"], tensors[clip]
    flow = getattr(_network()(frames), clip.removeprefix("bi."))
    height, width = (side / (-(-side // 8) * 8) for side in frames.shape[-2:])
    _close_to_one(_as_recorded(flow, width, height), wanted)


def test_resizing(resized: str, path: Path) -> None:
    tensors = read_tensors(path)
    given, wanted = tensors["resize.in"], tensors[resized]
    sizes = zip(wanted.shape[-2:], given.shape[-2:], strict=True)
    height, width = (new / old for new, old in sizes)
    flow = Flow(given[:, :, None], given[:, :, None])
    got = flow.resize(wanted.shape[-2], wanted.shape[-1], "bilinear").forward[:, :, 0]
    _close_to_one(_as_recorded(got, width, height), wanted)
