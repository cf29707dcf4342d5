r"""Where every pixel of a clip moves to: the flow between neighbouring frames, both ways.

An estimator is anything that takes frames and gives a `Flow`: OpenCV's DIS (the default, no
weights), RAFT (`elevator.models.RAFT`), or a function that returns flow known otherwise.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, final, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from elevator.errors import LayoutError

__all__ = ["DIS", "Flow", "FlowEstimator", "Preset"]

Preset: TypeAlias = Literal["ultrafast", "fast", "medium"]

_SMALLEST = 32
"""Side in pixels that frames are enlarged to for DIS, whose patches are 8 pixels wide."""


class Flow(NamedTuple):
    """Displacements (dx, dy) in pixels of their own grid, x to the right and y down; float32.

    For `e = f - 1` pairs of neighbours among f frames; a single frame has `e = 0`.

    Attributes:
        forward: from frame i to frame i + 1, on the pixels of frame i.
        backward: from frame i + 1 to frame i, on the pixels of frame i + 1.
    """

    forward: Float[Tensor, "b 2 e h w"]
    backward: Float[Tensor, "b 2 e h w"]

    def resize(self, height: int, width: int, mode: Literal["area", "bilinear"] = "area") -> "Flow":
        """The same motion on another grid: dx scales with the width, dy with the height.

        Args:
            height: rows of the new grid, >= 1.
            width: its columns, >= 1.
            mode: how a side that becomes shorter is sampled: "area" takes the mean over what a
                new pixel covers, "bilinear" the values at its centre. A side that grows is
                bilinear.

        Returns:
            The flow; this very one where it has that size.
        """
        if tuple(self.forward.shape[-2:]) == (height, width):
            return self
        return Flow(*(_resize(part, height, width, mode) for part in self))


@runtime_checkable
class FlowEstimator(Protocol):
    """Anything that estimates the flow of clips."""

    def __call__(self, frames: Float[Tensor, "b 3 f h w"]) -> Flow:
        """Estimate the flow between neighbouring frames.

        Args:
            frames: RGB in [-1, 1].
        """
        ...


@final
@dataclass(frozen=True)
class DIS:
    """OpenCV's dense inverse search: fast, no weights, the same result for any number of threads.

    At full resolution whatever the preset (OpenCV stops at half of it or at a quarter), since what
    moves in a small frame is a few pixels wide. Frames with a side under 32 pixels are enlarged for
    it. On the built-in world at 64 pixels a moving pixel's flow is 2.3 pixels long, and off by
    0.23 ("ultrafast"), 0.21 ("fast") and 0.20 ("medium").

    References:
        Fast Optical Flow using Dense Inverse Search (Kroeger et al. 2016), arXiv 1603.03590.

    Attributes:
        preset: OpenCV's own settings, from the quickest to the most exact.

    Raises:
        ValueError: an unknown preset.
        ImportError: OpenCV is not installed, when it is called.
    """

    preset: Preset = "medium"

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ValueError(
                f"DIS got preset={self.preset!r}; expected one of {get_args(Preset)}, from the "
                "quickest to the most exact"
            )

    def __call__(self, frames: Float[Tensor, "b 3 f h w"]) -> Flow:
        """Estimate the flow of clips, pair by pair, on the CPU; it comes back to their device."""
        search = _search(self.preset)
        size = frames.shape[-2:]
        grey = _grey(frames, max(size[0], _SMALLEST), max(size[1], _SMALLEST))
        ways: list[list[Tensor]] = [[], []]
        for clip in grey:
            for first, second in pairwise(clip):
                for way, pair in zip(ways, ((first, second), (second, first)), strict=True):
                    way.append(torch.from_numpy(search.calc(*pair, None)))
        empty = torch.empty(0, *grey.shape[-2:], 2)  # what one frame has
        forward, backward = (torch.stack(way) if way else empty for way in ways)
        batch, pairs = frames.shape[0], frames.shape[2] - 1
        there, back = (
            part.reshape(batch, pairs, *part.shape[1:]).permute(0, 4, 1, 2, 3).to(frames.device)
            for part in (forward, backward)
        )
        return Flow(there, back).resize(*size)


def _search(preset: Preset) -> Any:
    """OpenCV's estimator, down to the pixel."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "DIS is OpenCV's, which is not installed; pip install opencv-python-headless, or give "
            "another estimator, such as elevator.models.RAFT"
        ) from error
    search = cv2.DISOpticalFlow.create(get_args(Preset).index(preset))
    search.setFinestScale(0)
    return search


def _grey(frames: Float[Tensor, "b 3 f h w"], height: int, width: int) -> Any:
    """Luma in whole numbers from 0 to 255, of at least one frame, as an array `b f h w`."""
    if frames.shape[2] < 1:
        raise LayoutError(
            f"DIS was given no frames (shape {tuple(frames.shape)}); give one or more"
        )
    weights = torch.tensor([0.299, 0.587, 0.114])
    # On the CPU, so that no rounding of another device decides between two whole numbers.
    luma = torch.einsum("bcfhw,c->bfhw", frames.float().cpu(), weights)
    if (height, width) != frames.shape[-2:]:
        luma = interpolate(luma, (height, width), mode="bilinear")
    return ((luma + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def _resize(flow: Float[Tensor, "b 2 e h w"], height: int, width: int, mode: str) -> Tensor:
    """First shrink, then grow: a flow may need one along each side."""
    rows, columns = flow.shape[-2:]
    planes = flow.float().flatten(0, 2)[:, None]
    if mode == "area":
        planes = adaptive_avg_pool2d(planes, (min(rows, height), min(columns, width)))
    planes = interpolate(planes, (height, width), mode="bilinear")
    ratios = torch.tensor([width / columns, height / rows], device=flow.device)
    return planes[:, 0].unflatten(0, flow.shape[:3]) * ratios[:, None, None, None]
