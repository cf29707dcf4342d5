"""RAFT: its layout, its steps against plain loops, and frames of any size."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from elevator.errors import CheckpointError, LayoutError
from elevator.filters import Flow, FlowEstimator
from elevator.models import RAFT
from elevator.models.raft import torchvision_raft
from elevator.models.raft_layers import LEVELS, RADIUS, STRIDE, Similarities, enlarge
from tests.builders import make_latent
from tests.parity.cases import COMMITTED
from tests.reference import raft as reference

KEYS: dict[str, list[int]] = json.loads(
    (COMMITTED / "upscale_a_video" / "keys_raft_things.json").read_text()
)


@pytest.fixture(scope="module")
def raft() -> RAFT:
    torch.manual_seed(0)
    return RAFT(iterations=2)


def published(network: RAFT) -> dict[str, Tensor]:
    """Its tensors as the authors' code saves them."""
    own = network.state_dict()
    again = {
        name.replace("downsample.1", "norm3"): tensor
        for name, tensor in own.items()
        if "downsample.1" in name
    }
    return {f"module.{name}": tensor for name, tensor in {**own, **again}.items()}


def texture(height: int, width: int, frames: int = 2, batch: int = 1, seed: int = 0) -> Tensor:
    return make_latent((batch, 3, frames, height, width), seed).clamp(-1, 1)


# --- layout ---------------------------------------------------------------------------------------


def test_it_has_the_published_layout() -> None:
    with torch.device("meta"):
        network = RAFT()
    assert {name: list(tensor.shape) for name, tensor in published(network).items()} == KEYS
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_257_536


@pytest.mark.parametrize("file", ["raft-things.pth", "raft-things.safetensors"])
def test_published_weights_are_loaded(raft: RAFT, tmp_path: Path, file: str) -> None:
    tensors = {name: tensor.clone() for name, tensor in published(raft).items()}
    if file.endswith("pth"):
        torch.save(tensors, tmp_path / file)
    else:
        save_file(tensors, tmp_path / file)
    loaded = RAFT.from_published(tmp_path / file, iterations=3)
    assert loaded.config.iterations == 3
    assert RAFT.from_published(tensors).config.iterations == 20
    assert not loaded.training
    for name, tensor in raft.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_it_is_saved_and_loaded_as_a_model_of_diffusers(raft: RAFT, tmp_path: Path) -> None:
    raft.save_pretrained(tmp_path)
    again = RAFT.from_pretrained(tmp_path)
    frames = texture(64, 64)
    assert torch.equal(again(frames).forward, raft(frames).forward)


def test_weights_of_another_network(raft: RAFT, tmp_path: Path) -> None:
    tensors = published(raft)
    del tensors["module.fnet.conv1.weight"]
    with pytest.raises(CheckpointError, match=r"does not fit RAFT's 169 tensors: it lacks fnet\."):
        RAFT.from_published(tensors)
    with pytest.raises(CheckpointError, match="is not a file; give the published weights"):
        RAFT.from_published(tmp_path / "nowhere.pth")


# --- its steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (8, 16)])
def test_similarities_are_looked_up_as_in_loops(size: tuple[int, int]) -> None:
    """Also where the coarsest level is a single square, whose sides cannot be divided by."""
    first, second = make_latent((2, 5, *size)), make_latent((2, 5, *size), 1)
    places = make_latent((2, 2, *size), 2) * 3 + 4
    got = Similarities(first, second).around(places)
    for one in range(2):
        wanted = reference.look_up(first[one], second[one], places[one], LEVELS, RADIUS)
        torch.testing.assert_close(got[one], wanted, rtol=1e-4, atol=1e-5)


def test_enlarging_is_as_in_loops() -> None:
    flow, weights = make_latent((2, 2, 2, 3)), make_latent((2, 9 * STRIDE**2, 2, 3), 1)
    got = enlarge(flow, weights)
    for one in range(2):
        wanted = reference.enlarge(flow[one], weights[one], STRIDE)
        torch.testing.assert_close(got[one], wanted)


def test_estimates_can_be_trained(raft: RAFT) -> None:
    first, second = texture(64, 64).unbind(2)
    coarse, flow = raft.estimate(first, second, 1)
    assert coarse.shape == (1, 2, 8, 8)
    assert flow.shape == (1, 2, 64, 64)
    flow.square().mean().backward()
    assert raft.fnet.conv1.weight.grad is not None
    raft.zero_grad()
    assert not raft(texture(64, 64)).forward.requires_grad


# --- clips ----------------------------------------------------------------------------------------


def test_a_clip_is_its_pairs_both_ways(raft: RAFT) -> None:
    frames = texture(128, 128, frames=3, batch=2)
    flow = raft(frames)
    assert flow.forward.shape == flow.backward.shape == (2, 2, 2, 128, 128)
    with torch.no_grad():
        for i in range(2):
            first, second = frames[:, :, i], frames[:, :, i + 1]
            there, back = raft.estimate(first, second)[1], raft.estimate(second, first)[1]
            torch.testing.assert_close(flow.forward[:, :, i], there, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(flow.backward[:, :, i], back, rtol=1e-4, atol=1e-4)


def test_features_are_computed_once_per_frame(raft: RAFT) -> None:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handles = [encoder.register_forward_hook(count) for encoder in (raft.fnet, raft.cnet)]
    raft(texture(64, 64, frames=3))
    for handle in handles:
        handle.remove()
    assert calls == 6


@pytest.mark.parametrize("size", [(1, 1), (8, 20), (56, 64), (57, 120), (121, 130), (136, 7)])
def test_any_size_will_do(raft: RAFT, size: tuple[int, int]) -> None:
    for part in raft(texture(*size)):
        assert part.shape == (1, 2, 1, *size)
        assert part.isfinite().all()
        assert part.dtype == torch.float32


def test_one_frame_has_no_flow_and_none_is_an_error(raft: RAFT) -> None:
    assert raft(texture(16, 24, frames=1, batch=2)).backward.shape == (2, 2, 0, 16, 24)
    with pytest.raises(LayoutError, match=r"no frames in \(1, 3, 0, 8, 8\); give one or more"):
        raft(torch.empty(1, 3, 0, 8, 8))


@pytest.mark.parametrize("size", [(64, 60), (48, 48), (128, 130)])
def test_estimates_of_sizes_that_do_not_fit(raft: RAFT, size: tuple[int, int]) -> None:
    first, second = texture(*size).unbind(2)
    with pytest.raises(LayoutError, match=r"multiples of 8 and at least 64, got .* call"):
        raft.estimate(first, second)


def test_in_half_precision_and_under_autocast(raft: RAFT) -> None:
    frames = texture(64, 64)
    wanted = raft(frames).forward
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(raft(frames).forward, wanted)
    torch.manual_seed(0)
    half = RAFT(iterations=2).to(torch.bfloat16)
    got = half(frames.bfloat16()).forward
    assert got.dtype == torch.float32
    assert (got - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="iterations=0; give 1 or more"):
        RAFT(iterations=0)


# --- torchvision's --------------------------------------------------------------------------------


class Steady(nn.Module):
    """Stands in for torchvision's network: the same vector everywhere, once per update."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.tensor([4.0, -8.0]))

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        assert not self.training
        assert min(first.shape[-2:]) >= 128
        assert all(side % 8 == 0 for side in first.shape[-2:])
        moves = self.vector[:, None, None].expand(len(first), 2, *first.shape[-2:])
        forwards = float(second.mean() > first.mean())
        return [torch.zeros_like(moves)] * (num_flow_updates - 1) + [moves * (2 * forwards - 1)]


def _installed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []

    def raft_large(weights: str | None, progress: bool) -> nn.Module:
        asked.append(weights)
        return Steady()

    for name in ("torchvision", "torchvision.models", "torchvision.models.optical_flow"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torchvision.models.optical_flow"].raft_large = raft_large  # type: ignore[attr-defined]
    return asked


@pytest.mark.parametrize("size", [(128, 128), (64, 120), (130, 200), (32, 136)])
def test_vectors_are_scaled_back_component_by_component(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    asked = _installed(monkeypatch)
    estimator: FlowEstimator = torchvision_raft("C_T_V2", iterations=3)
    frames = torch.stack([torch.full((1, 3, *size), value) for value in (-0.5, 0.0, 0.5)], 2)
    flow = estimator(frames)
    assert isinstance(flow, Flow)
    assert asked == ["C_T_V2"]
    grown = [max(128, math.ceil(side / 8) * 8) for side in size]
    vector = torch.tensor([4.0 * size[1] / grown[1], -8.0 * size[0] / grown[0]])
    wanted = vector[:, None, None, None].expand(1, 2, 2, *size)
    torch.testing.assert_close(flow.forward, wanted)
    torch.testing.assert_close(flow.backward, -wanted)


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"needs torchvision, .* pip install 'elevator\[torchv"):
        torchvision_raft()
