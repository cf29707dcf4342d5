"""The flow of a clip, estimated beside the sampling that it is for."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elevator.filters import DIS, Flow, FlowEstimator
from elevator.video.windows import Tile

__all__ = ["cut_flow", "flow_beside", "flow_of_call"]


def flow_of_call(
    frames: Float[Tensor, "b 3 f h w"], flow: FlowEstimator | Flow | None, propagate: Sequence[int]
) -> AbstractContextManager[Flow | Future[Flow] | None]:
    """The flow that a call of `VideoUpscalePipeline` propagates along; None where it does not.

    Args:
        frames: RGB in [-1, 1], float32.
        flow: an estimator, DIS by default, or the flow itself.
        propagate: at which steps.
    """
    if not propagate:
        return nullcontext()
    if isinstance(flow, Flow):
        return nullcontext(flow.resize(*frames.shape[-2:]))
    if frames.shape[2] == 1:
        return nullcontext()
    return flow_beside(frames, DIS() if flow is None else flow)


@contextmanager
def flow_beside(
    frames: Float[Tensor, "b 3 f h w"], estimator: FlowEstimator
) -> Iterator[Flow | Future[Flow]]:
    """Estimate flow in a thread while the `with` block runs; it ends when the estimate has.

    An estimator that computes on the frames' own GPU, or on any other, runs before the block
    instead: there it would take turns with the sampling, gain nothing, and need memory on top.

    Args:
        frames: RGB in [-1, 1]; not to be written into within the block.
        estimator: DIS computes on the CPU, a network where it lies, any other where the frames are.

    Yields:
        A future of the flow, which raises what the estimator raised; or the flow.
    """
    if not _on_cpu(estimator, frames):
        yield estimator(frames)
        return
    # Copied here, on the stream the frames were made on; flow goes where it is needed by itself.
    near, inference = frames.cpu(), torch.is_inference_mode_enabled()

    def estimate() -> Flow:
        with torch.inference_mode(inference), torch.no_grad():  # which are a thread's own
            return estimator(near)

    with ThreadPoolExecutor(1, "elevator-flow") as worker:
        yield worker.submit(estimate)


def _on_cpu(estimator: FlowEstimator, frames: Tensor) -> bool:
    if isinstance(estimator, DIS):
        return True
    if isinstance(estimator, nn.Module):
        return all(parameter.device.type == "cpu" for parameter in estimator.parameters())
    return frames.device.type == "cpu"


def cut_flow(flow: Flow | Future[Flow], tile: Tile) -> Flow:
    """The flow within a tile; one that is still being estimated is waited for."""
    known = flow.result() if isinstance(flow, Future) else flow
    return Flow(*(tile.cut(part) for part in known))
