r"""RAFT: optical flow by looking up, again and again, how alike two frames are.

Features of both frames at an eighth of their size are compared all with all,
$C_{ijkl} = \langle g^1_{ij}, g^2_{kl} \rangle / \sqrt{d}$, and averaged over ever larger squares of
the second frame. A recurrent unit starts from no motion; at every step it sees the similarities
around where the flow leads to, and says how the flow should change. The last flow is enlarged eight
times, every pixel a learned convex mixture of nine coarse neighbours.

This is the large network of Teed & Deng 2020 (arXiv 2003.12039), in the layout of the weights the
authors published.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, final

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from elevator.errors import LayoutError
from elevator.filters.flow import Flow, FlowEstimator
from elevator.models.published import Source, fill, read_weights
from elevator.models.raft_layers import (
    HIDDEN,
    LEVELS,
    STRIDE,
    Coarse,
    Encoder,
    Similarities,
    Update,
    enlarge,
)

__all__ = ["RAFT", "torchvision_raft"]

SMALLEST = STRIDE * 2**LEVELS
"""Side in pixels that smaller frames are enlarged to: the coarsest level still has two squares."""

Images = Float[Tensor, "n 3 h w"]
T = TypeVar("T")


class RAFT(ModelMixin, ConfigMixin):
    """Estimates the flow of clips; a `FlowEstimator` when called.

        flow = RAFT.from_published("raft-things.pth")(frames)

    Frames whose sides are no multiples of 8, or under 128, are resized to the next size that is,
    and the vectors scaled back with the flow. Positions and similarities are float32 in any dtype;
    keep the weights in float32 as well, which they were trained in. Features are computed once per
    frame, and a pair's similarities take 5.3 (h/8 w/8)^2 bytes.

    References:
        RAFT: Recurrent All-Pairs Field Transforms for Optical Flow (Teed & Deng 2020),
        arXiv 2003.12039.

    Attributes (of the configuration):
        iterations: steps of the recurrent unit, >= 1; 20 as Upscale-A-Video uses it.
    """

    @register_to_config
    def __init__(self, iterations: int = 20) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"RAFT got iterations={iterations}; give 1 or more (20 is usual)")
        self.fnet = Encoder(256, nn.InstanceNorm2d)
        self.cnet = Encoder(2 * HIDDEN, nn.BatchNorm2d)
        self.update_block = Update()
        self.eval()

    @classmethod
    def from_published(cls, source: Source, iterations: int = 20) -> "RAFT":
        """Load weights as the authors published them, `raft-things.pth` and its like.

        Raises:
            CheckpointError: they cannot be read, or are of another network.
        """
        network = cls(iterations)
        fill(network, _unwrapped(read_weights(source)))
        return network

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "b 3 f h w"]) -> Flow:
        """Estimate the flow between neighbouring frames, both ways.

        Args:
            frames: RGB in [-1, 1], on any device.

        Returns:
            Flows on the frames' device.

        Raises:
            LayoutError: there is no frame.
        """
        with torch.autocast(self.device.type, enabled=False):
            return _both_ways(
                frames,
                self._features,
                lambda one, other: self._refine(one, other, self.config.iterations)[1],
            )

    def estimate(
        self, first: Images, second: Images, iterations: int | None = None
    ) -> tuple[Float[Tensor, "n 2 h8 w8"], Float[Tensor, "n 2 h w"]]:
        """The flow of pairs of images, and the coarse one it was enlarged from; with gradients.

        Args:
            first: RGB in [-1, 1], sides multiples of 8 and at least 64.
            second: what it moves to.
            iterations: the configured number by default.

        Returns:
            Displacements in features (8 pixels) and in pixels.

        Raises:
            LayoutError: a side that does not fit.
        """
        sides = first.shape[-2:]
        if any(side % STRIDE or side < SMALLEST // 2 for side in sides):
            raise LayoutError(
                f"estimate takes images whose sides are multiples of {STRIDE} and at least "
                f"{SMALLEST // 2}, got {tuple(sides)}; call the network on frames instead, which "
                "resizes them"
            )
        pair = self._features(first), self._features(second)
        return self._refine(*pair, iterations or self.config.iterations)

    def _features(self, images: Images) -> tuple[Coarse, Coarse]:
        """What an image is compared by, and what is told of it."""
        images = images.to(self.device, self.dtype)
        return self.fnet(images), self.cnet(images)

    def _refine(
        self, first: tuple[Coarse, Coarse], second: tuple[Coarse, Coarse], iterations: int
    ) -> tuple[Tensor, Tensor]:
        similar = Similarities(first[0], second[0])
        hidden, context = first[1].split(HIDDEN, 1)
        hidden, context = hidden.tanh(), relu(context)
        batch, _, height, width = hidden.shape
        ticks = [torch.arange(side, device=hidden.device) for side in (height, width)]
        rows, columns = torch.meshgrid(*ticks, indexing="ij")
        start = torch.stack([columns, rows]).float().expand(batch, -1, -1, -1)
        flow = torch.zeros_like(start)
        for _ in range(iterations):
            flow = flow.detach()
            looked_up = similar.around(start + flow).to(hidden.dtype)
            hidden, change = self.update_block(hidden, context, looked_up, flow.to(hidden.dtype))
            flow = flow + change.float()
        # A quarter keeps the weights' gradients in balance with the flow's.
        return flow, enlarge(flow, 0.25 * self.update_block.mask(hidden).float())


@final
@dataclass(frozen=True)
class _TorchvisionRAFT:
    network: nn.Module
    iterations: int

    @torch.no_grad()
    def __call__(self, frames: Float[Tensor, "b 3 f h w"]) -> Flow:
        device = next(self.network.parameters()).device
        return _both_ways(
            frames,
            lambda image: image.to(device),
            lambda one, other: self.network(one, other, num_flow_updates=self.iterations)[-1],
        )


def torchvision_raft(
    weights: str | None = "C_T_SKHT_V2", iterations: int = 20, device: torch.device | str = "cpu"
) -> FlowEstimator:
    """The same network as torchvision has it, with the weights trained there.

    Args:
        weights: one of `torchvision.models.optical_flow.Raft_Large_Weights`, which torchvision
            downloads; None for random ones.
        iterations: steps of the recurrent unit.
        device: where it runs; flows come back to the frames' device.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        models: Any = importlib.import_module("torchvision.models.optical_flow")
    except ImportError as error:
        raise ImportError(
            "torchvision_raft needs torchvision, in the build that fits your torch: "
            "pip install 'elevator[torchvision]'; RAFT.from_published(...) and "
            "elevator.filters.DIS() do without"
        ) from error
    network = models.raft_large(weights=weights, progress=False)
    return _TorchvisionRAFT(network.eval().to(device), iterations)


def _both_ways(
    frames: Float[Tensor, "b 3 f h w"],
    encode: Callable[[Images], T],
    refine: Callable[[T, T], Float[Tensor, "n 2 h w"]],
) -> Flow:
    """The flow of clips by a network for pairs of images of sizes that suit it.

    Args:
        frames: RGB of any size.
        encode: called once per frame.
        refine: flow from the first to the second.
    """
    batch, _, count, *size = frames.shape
    if count < 1:
        raise LayoutError(f"there are no frames in {tuple(frames.shape)}; give one or more")
    fitting = [max(SMALLEST, math.ceil(side / STRIDE) * STRIDE) for side in size]
    images = (interpolate(image.float(), fitting, mode="bilinear") for image in frames.unbind(2))
    found = [
        (refine(one, other), refine(other, one)) for one, other in pairwise(map(encode, images))
    ]
    if not found:
        nothing = torch.empty(batch, 2, 0, *size, device=frames.device)
        return Flow(nothing, nothing)
    forward, backward = (torch.stack(way, 2).to(frames.device) for way in zip(*found, strict=True))
    return Flow(forward, backward).resize(size[0], size[1], "bilinear")


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix of a network trained in parallel, and every tensor once.

    `norm3` is the norm behind the strided convolution, which is listed as `downsample.1` as well.
    """
    bare = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in bare.items() if ".norm3." not in name}
