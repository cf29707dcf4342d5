"""Flow beside the sampling: when it is estimated, what it raises, and that its thread ends."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elevator.filters import DIS, Flow
from elevator.pipelines.motion import cut_flow, flow_beside, flow_of_call
from elevator.video.windows import Tile
from tests.builders import make_latent

FRAMES = make_latent((1, 3, 3, 40, 40)).clamp(-1, 1)


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("elevator-flow")]


def test_the_block_runs_while_flow_is_estimated() -> None:
    seen = threading.Event()

    def estimate(frames: Tensor) -> Flow:
        assert seen.wait(20)  # as long as nobody sets it: the block does
        return DIS()(frames)

    with flow_beside(FRAMES, estimate) as flow:
        assert isinstance(flow, Future)
        assert len(threads()) == 1
        seen.set()
        made = flow.result()
    assert threads() == []
    for ours, own in zip(made, DIS()(FRAMES), strict=True):
        assert torch.equal(ours, own)


@pytest.mark.parametrize("error", [RuntimeError("block"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_no_thread_behind(error: BaseException) -> None:
    seen, ended = threading.Event(), threading.Event()

    def estimate(frames: Tensor) -> Flow:
        assert seen.wait(20)
        ended.set()
        return DIS()(frames)

    def fail() -> None:
        with flow_beside(FRAMES, estimate):
            seen.set()
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    assert ended.is_set()
    assert threads() == []


class Resting(nn.Module):
    """An estimator that lies on some device, and keeps how it was called."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device=device))
        self.calls: list[Any] = []

    def forward(self, frames: Tensor) -> Flow:
        name = threading.current_thread().name
        self.calls.append((name, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return Flow(*(torch.zeros(1, 2, 2, 40, 40) for _ in range(2)))


def test_a_network_of_another_device_runs_before() -> None:
    there, here = Resting("meta"), Resting("cpu")
    with torch.no_grad(), flow_beside(FRAMES, there) as flow:
        assert isinstance(flow, Flow)
    assert there.calls == [(threading.current_thread().name, False, False)]
    with flow_beside(FRAMES, here) as beside:
        assert isinstance(beside, Future)
    with torch.inference_mode(), flow_beside(FRAMES, here):
        pass
    assert here.calls == [("elevator-flow_0", False, False), ("elevator-flow_0", False, True)]


def test_a_function_runs_beside_where_its_frames_are_on_the_cpu() -> None:
    def estimate(frames: Tensor) -> Flow:
        return Flow(*(torch.zeros(1, 2, 2, 40, 40) for _ in range(2)))

    with flow_beside(FRAMES.to("meta"), estimate) as flow:
        assert isinstance(flow, Flow)
    with flow_beside(FRAMES, estimate) as beside:
        assert isinstance(beside, Future)


def test_what_a_call_propagates_along() -> None:
    given = Flow(*(torch.zeros(1, 2, 2, 20, 20) for _ in range(2)))

    def never(frames: Tensor) -> Flow:
        raise AssertionError("is not asked for")

    with flow_of_call(FRAMES, never, ()) as flow:
        assert flow is None
    with flow_of_call(FRAMES[:, :, :1], never, (1,)) as flow:
        assert flow is None
    with flow_of_call(FRAMES, given, (1,)) as flow:
        assert isinstance(flow, Flow)
        assert flow.forward.shape == (1, 2, 2, 40, 40)
    with flow_of_call(FRAMES, None, (1,)) as flow:
        assert isinstance(flow, Future)
        tile = cut_flow(flow, Tile(range(8), range(3, 9)))
    whole = DIS()(FRAMES)
    assert torch.equal(tile.backward, whole.backward[..., :8, 3:9])
