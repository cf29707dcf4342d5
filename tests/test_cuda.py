"""What only a GPU can show: hooks, whole pipelines and kernels there against the CPU."""

from __future__ import annotations

import functools
import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from elevator.latent import publish_frames
from elevator.models import CrossFrameAttention
from elevator.recipes import PRESETS
from tests.builders import ddim, drive, make_latent, make_run, sample, tiny_sd, tiny_unet
from tests.conformance import CASES, Case

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    # Compilers and kernels of a GPU warn of what no run on a CPU meets: shown, not raised.
    pytest.mark.filterwarnings("default"),
]

DEVICE = "cuda"
CAPTION = "a plain red ring moving left on a teal background"
NAMES = ("world", "world-styled", "world-inverted")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROUNDED = ("MotionAverage",)
"""Cases whose frames go through bytes on their way: the last bit of a latent may decide much."""


@pytest.fixture(autouse=True)
def _full_precision() -> Any:
    """Convolutions of float32 that are not rounded to TF32, which is their default."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture(autouse=True, scope="module")
def _tidy() -> Any:
    """Leave no network of this file on the GPU."""
    yield
    for kept in (_host, _pair, _elevated):
        kept.cache_clear()
    gc.collect()


def _difference(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference of two clips."""
    return float((one.float().cpu() - other.float().cpu()).abs().mean())


# --- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hook_gives_what_it_gives_on_the_cpu(case: Case) -> None:
    made = drive(case.make(), make_run(device=DEVICE))
    for latent, expected in zip(made, drive(case.make(), make_run()), strict=True):
        assert latent.device.type == DEVICE
        assert latent.dtype == torch.float32
        assert latent.shape == expected.shape
        assert latent.isfinite().all()
        if case.name not in ROUNDED:
            torch.testing.assert_close(latent.cpu(), expected, atol=1e-4, rtol=1e-4)


@functools.cache
def _host(device: str, dtype: torch.dtype) -> Any:
    return tiny_sd().to(device, dtype)


def _attached(case: Case, device: str, dtype: torch.dtype) -> Tensor:
    """Latents of a tiny pipeline with a case's hook."""
    from elevator.attach import attach

    pipeline = _host(device, dtype)
    pipeline.scheduler = ddim()
    with attach(pipeline, case.make(), frames=case.frames):
        return sample(pipeline, steps=6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_pipeline_with_a_hook(case: Case, dtype: torch.dtype) -> None:
    made = _attached(case, DEVICE, dtype)
    assert made.device.type == DEVICE
    assert made.dtype == dtype
    assert made.shape == (3, 4, 8, 12)
    assert made.isfinite().all()
    if dtype == torch.float32 and case.name not in ROUNDED:
        expected = _attached(case, "cpu", dtype)
        torch.testing.assert_close(made.cpu(), expected, atol=1e-3, rtol=1e-3)


# --- the built-in models --------------------------------------------------------------------------


@functools.cache
def _pair(device: str, dtype: torch.dtype) -> Any:
    from elevator.zoo.sampling import pair

    return pair().to(device, dtype)


def _painted(pipe: Any, numbers: str = "world") -> Tensor:
    """A clip of the built-in models in a few steps; the frames lie on the CPU."""
    from elevator.zoo.sampling import elevate

    return elevate(pipe, CAPTION, 0, numbers=PRESETS[numbers], num_inference_steps=4)


@functools.cache
def _elevated(numbers: str, device: str, dtype: torch.dtype) -> Tensor:
    return _painted(_pair(device, dtype), numbers)


@pytest.mark.parametrize("numbers", NAMES)
def test_videoelevator_makes_the_clip_that_it_makes_on_the_cpu(numbers: str) -> None:
    made = _elevated(numbers, DEVICE, torch.float32)
    assert _pair(DEVICE, torch.float32).device.type == DEVICE
    assert made.std() > 0.05
    assert _difference(made, _elevated(numbers, "cpu", torch.float32)) < 0.02


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("numbers", NAMES)
def test_videoelevator_in_half_precision(numbers: str, dtype: torch.dtype) -> None:
    made = _elevated(numbers, DEVICE, dtype)
    assert _pair(DEVICE, dtype).unet.dtype == dtype
    assert made.isfinite().all()
    assert _difference(made, _elevated(numbers, DEVICE, torch.float32)) < 0.05


def _allocated() -> int:
    gc.collect()
    return torch.cuda.memory_allocated()


def test_offloading_gives_the_same_clip_and_the_memory_back() -> None:
    from elevator.zoo.sampling import pair

    pipe = pair().to(DEVICE)
    resident = _painted(pipe)
    held = _allocated()
    pipe.enable_model_cpu_offload()
    offloaded = _painted(pipe)
    weights = sum(part.numel() * part.element_size() for part in pipe.unet.parameters())
    assert held - _allocated() > weights
    assert pipe.unet.device.type == "cpu"
    assert _difference(offloaded, resident) < 1e-3


def test_the_video_upscaler_in_half_precision() -> None:
    from elevator import zoo
    from elevator.pipelines.upscalers import load_upscaler

    clip = make_latent((4, 3, 16, 16)).sigmoid()
    settings = {"num_inference_steps": 2}
    made, expected = (
        load_upscaler(zoo.path("upscaler"), device=device, dtype=dtype, settings=settings)(clip, 0)
        for device, dtype in ((DEVICE, torch.float16), ("cpu", torch.float32))
    )
    assert made.shape == (4, 3, 64, 64)
    assert made.isfinite().all()
    assert _difference(made, expected) < 0.02


# --- kernels and compilers ------------------------------------------------------------------------


def _inflated(network: Any, patch: CrossFrameAttention, frames: int = 3) -> Tensor:
    """What an inflated network, compiled or not, says of six rows."""
    config = network.config
    noisy = make_latent((6, config.in_channels, config.sample_size, config.sample_size), 1)
    text = make_latent((6, 5, config.cross_attention_dim), 2)
    noisy, text = (tensor.to(network.device, network.dtype) for tensor in (noisy, text))
    with torch.no_grad(), patch.apply(network), publish_frames(frames):
        made: Tensor = network(noisy, 401, text, return_dict=False)[0]
    return made


@pytest.mark.parametrize("keys", ["first", "first+previous", "first+own"])
def test_xformers_gives_what_pytorch_gives(keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xformers.ops")
    from elevator import zoo

    refused: dict[Any, str] = {}
    monkeypatch.setattr("elevator.models.inflate._unusable", refused)
    unet: Any = zoo.load("t2i", torch.float16).unet.to(DEVICE)
    expected = _inflated(unet, CrossFrameAttention(keys, "native"))
    try:
        unet.enable_xformers_memory_efficient_attention()
    except NotImplementedError:
        pytest.skip("this build of xformers has no kernels for this PyTorch")
    assert {type(one).__name__ for one in unet.attn_processors.values()} == {
        "XFormersAttnProcessor"
    }
    made = _inflated(unet, CrossFrameAttention(keys))
    assert not refused, "the kernel gave way to PyTorch's own"
    assert made.isfinite().all()
    torch.testing.assert_close(made, expected, atol=2e-2, rtol=2e-2)


def test_a_compiled_network_that_is_inflated_gives_what_it_gives_uncompiled() -> None:
    unet = tiny_unet(
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
    ).to(DEVICE)
    expected = _inflated(unet, CrossFrameAttention())
    assert (expected - _inflated(unet, CrossFrameAttention(), frames=1)).abs().max() > 1e-2
    made = _inflated(torch.compile(unet, dynamic=False), CrossFrameAttention())
    torch.testing.assert_close(made, expected, atol=1e-3, rtol=1e-3)
