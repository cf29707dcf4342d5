"""The convolution over frames and pixels, in whatever order it is computed."""

import pytest
import torch
from torch import nn

from elevator.models.temporal_blocks import VolumeConv


@pytest.mark.parametrize("shape", [(1, 3, 4, 7, 9), (2, 3, 4, 7, 9), (1, 3, 5, 1400, 2)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 1, 1)])
def test_small_clips_give_what_large_ones_do(
    shape: tuple[int, ...], kernel: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    plain, ours = (kind(3, 4, kernel, padding=padding) for kind in (nn.Conv3d, VolumeConv))
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(shape)
    results = []
    for layer in (plain, ours):
        given = x.clone().requires_grad_()
        made = layer(given)
        made.square().sum().backward()
        assert made.is_contiguous()
        results.append([made.detach(), given.grad, *(p.grad for p in layer.parameters())])
    for wanted, found in zip(*results, strict=True):
        assert wanted is not None
        assert found is not None
        scale = float(wanted.abs().max())
        assert torch.allclose(wanted, found, atol=1e-5 * scale, rtol=0)
