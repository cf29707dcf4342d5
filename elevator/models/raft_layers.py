"""The parts of RAFT: similarities and how they are looked up, encoders, the recurrent unit."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, relu, unfold

__all__ = ["HIDDEN", "LEVELS", "STRIDE", "Coarse", "Encoder", "Similarities", "Update", "enlarge"]

LEVELS, RADIUS = 4, 4
"""Sizes of square that similarities are averaged over, and how far around they are looked up."""
STRIDE = 8
"""Pixels of a frame per feature, along each side."""
HIDDEN = 128
"""Channels of the recurrent state, and of what it is told of the first frame."""

Coarse = Float[Tensor, "n c h8 w8"]
Norm = Callable[[int], nn.Module]


class Similarities:
    """How alike every place of one image is to every place of another, at several scales."""

    def __init__(self, first: Coarse, second: Coarse) -> None:
        batch, channels, height, width = first.shape
        one, other = (part.float().flatten(2) for part in (first, second))
        volume = one.transpose(1, 2) @ other / math.sqrt(channels)
        level = volume.reshape(batch * height * width, 1, height, width)
        self.levels = [level]
        for _ in range(LEVELS - 1):
            level = avg_pool2d(level, 2)
            self.levels.append(level)

    def around(self, places: Float[Tensor, "n 2 h8 w8"]) -> Float[Tensor, "n c h8 w8"]:
        """Similarities on a square around a place of the second image, for each of the first."""
        batch, _, height, width = places.shape
        ticks = torch.arange(-RADIUS, RADIUS + 1.0, device=places.device)
        # The published weights take the square column by column: x changes slowest.
        square = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1)
        centres = places.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        found = [
            _fetch(level, centres / 2**number + square) for number, level in enumerate(self.levels)
        ]
        return torch.cat(found, -1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def _fetch(
    planes: Float[Tensor, "n 1 h w"], places: Float[Tensor, "n k l 2"]
) -> Float[Tensor, "n q"]:
    """Bilinear values at places (x, y) in pixels, zero outside."""
    sides = torch.tensor(planes.shape[:1:-1], device=planes.device)
    # With corners aligned, a side of one pixel has no length to measure positions in.
    aligned = int(sides.min()) > 1
    places = 2 * places / (sides - 1) - 1 if aligned else (2 * places + 1) / sides - 1
    return grid_sample(planes, places, align_corners=aligned).flatten(1)


def enlarge(flow: Float[Tensor, "n 2 h8 w8"], weights: Float[Tensor, "n c h8 w8"]) -> Tensor:
    """Every pixel's flow as a mixture of the nine coarse ones around it."""
    batch, _, height, width = flow.shape
    shares = weights.view(batch, 1, 9, STRIDE, STRIDE, height, width).softmax(2)
    around = unfold(STRIDE * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    mixed = (shares * around).sum(2)  # n 2 down right h8 w8
    return mixed.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, STRIDE * height, STRIDE * width)


# --- networks, under the names they were published with -------------------------------------------


class Encoder(nn.Module):
    """An image at an eighth of its size."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, stride=2, padding=3), norm(64)
        self.layer1 = nn.Sequential(_Residual(64, 64, norm), _Residual(64, 64, norm))
        self.layer2 = nn.Sequential(_Residual(64, 96, norm, 2), _Residual(96, 96, norm))
        self.layer3 = nn.Sequential(_Residual(96, 128, norm, 2), _Residual(128, 128, norm))
        self.conv2 = nn.Conv2d(128, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = relu(self.norm1(self.conv1(images)))
        return self.conv2(self.layer3(self.layer2(self.layer1(hidden))))


class _Residual(nn.Module):
    """Two convolutions beside a way around them."""

    def __init__(self, before: int, width: int, norm: Norm, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample.extend([nn.Conv2d(before, width, 1, stride=stride), norm(width)])

    def forward(self, hidden: Tensor) -> Tensor:
        changed = relu(self.norm1(self.conv1(hidden)))
        changed = relu(self.norm2(self.conv2(changed)))
        return relu(self.downsample(hidden) + changed)


class _Motion(nn.Module):
    """The flow and what was looked up where it leads to, as features."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(192 + 64, HIDDEN - 2, 3, padding=1)

    def forward(self, looked_up: Tensor, flow: Tensor) -> Tensor:
        similar = relu(self.convc2(relu(self.convc1(looked_up))))
        moved = relu(self.convf2(relu(self.convf1(flow))))
        return torch.cat([relu(self.conv(torch.cat([similar, moved], 1))), flow], 1)


class _Recurrent(nn.Module):
    """A gated recurrent unit of two convolutions: along rows, then along columns."""

    def __init__(self) -> None:
        super().__init__()
        rows = partial(nn.Conv2d, 3 * HIDDEN, HIDDEN, (1, 5), padding=(0, 2))
        columns = partial(nn.Conv2d, 3 * HIDDEN, HIDDEN, (5, 1), padding=(2, 0))
        self.convz1, self.convr1, self.convq1 = rows(), rows(), rows()
        self.convz2, self.convr2, self.convq2 = columns(), columns(), columns()

    def forward(self, hidden: Tensor, given: Tensor) -> Tensor:
        for update, reset, propose in (
            (self.convz1, self.convr1, self.convq1),
            (self.convz2, self.convr2, self.convq2),
        ):
            both = torch.cat([hidden, given], 1)
            share, kept = update(both).sigmoid(), reset(both).sigmoid()
            proposed = propose(torch.cat([kept * hidden, given], 1)).tanh()
            hidden = (1 - share) * hidden + share * proposed
        return hidden


class _FlowHead(nn.Module):
    """How the flow should change."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(relu(self.conv1(hidden)))


class Update(nn.Module):
    """One step: the next state, and the change of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = _Motion(), _Recurrent(), _FlowHead()
        self.mask = nn.Sequential(
            nn.Conv2d(HIDDEN, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 9 * STRIDE**2, 1),
        )

    def forward(
        self, hidden: Tensor, context: Tensor, looked_up: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        motion = self.encoder(looked_up, flow)
        hidden = self.gru(hidden, torch.cat([context, motion], 1))
        return hidden, self.flow_head(hidden)
