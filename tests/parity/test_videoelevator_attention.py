"""VideoElevator's attention and model forwards against tensors of its reference implementation.

With `--goldens DIR` everything recorded there is compared; without, the few cases committed under
tests/data/goldens (the layer, and the image network plain and inflated). The tolerance is that of
the recordings' README.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from elevator.latent import publish_frames
from elevator.models.inflate import CrossFrameAttention

COMMITTED = Path(__file__).parents[1] / "data" / "goldens"
FRAMES = 4  # of the recordings
TIMESTEP = 501


def folder(config: pytest.Config) -> Path:
    given: Path | None = config.getoption("--goldens")
    return (given or COMMITTED) / "videoelevator"


def recorded(file: Path) -> list[str]:
    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = folder(metafunc.config)
    if "layer" in metafunc.fixturenames:
        keys = recorded(root / "attention.safetensors")
        metafunc.parametrize("layer", [k for k in keys if k.startswith(("classic", "sdpa"))])
    if "forward" in metafunc.fixturenames:
        keys = recorded(root / "model_forwards.safetensors")
        metafunc.parametrize("forward", [k for k in keys if k in FORWARDS])


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest) -> Path:
    return folder(request.config)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# --- one layer ------------------------------------------------------------------------------------


class Layer(nn.Module):
    """The recorded self- or cross-attention layer as a network of its own."""

    def __init__(self, tensors: dict[str, Tensor], kind: str) -> None:
        from diffusers.models.attention_processor import Attention

        super().__init__()
        prefix = f"weights/{kind}/"
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        width = weights["to_k.weight"].shape[1] if kind == "cross" else None
        self.attn = Attention(query_dim=16, cross_attention_dim=width, heads=2, dim_head=8)
        self.attn.load_state_dict(weights)
        self.eval().requires_grad_(False)
        self.attn_processors = {"attn.processor": self.attn.processor}


def test_layer(root: Path, layer: str) -> None:
    tensors = load_file(root / "attention.safetensors")
    _, groups, call = layer.split("/")
    kind, length = call.split("_")
    rows = 2 * FRAMES if length == "2F" else FRAMES
    net, x = Layer(tensors, kind), tensors["x"][:rows]
    if kind == "cross":
        close(net.attn(x, tensors["ctx"][:rows]), tensors[layer])
        with pytest.raises(ValueError, match="no self-attention"):
            CrossFrameAttention().apply(net).__enter__()
        return
    with CrossFrameAttention().apply(net), publish_frames(rows // int(groups.removeprefix("bs"))):
        close(net.attn(x), tensors[layer])


# --- whole networks -------------------------------------------------------------------------------


def image_network(root: Path, tensors: dict[str, Tensor], frames: int | None) -> Tensor:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(root / "models" / "t2i_unet")
    arguments = tensors["t2i/x"], TIMESTEP, tensors["t2i/ctx"]
    if frames is None:
        return unet(*arguments).sample
    with CrossFrameAttention().apply(unet), publish_frames(frames):
        return unet(*arguments).sample


def video_network(root: Path, tensors: dict[str, Tensor]) -> Tensor:
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel.from_pretrained(root / "models" / "t2v_unet3d")
    return unet(tensors["t2v/x"], TIMESTEP, tensors["t2v/ctx"]).sample


def motion_network(root: Path, tensors: dict[str, Tensor]) -> Tensor:
    from diffusers import UNetMotionModel

    unet = UNetMotionModel.from_pretrained(root / "models" / "t2v_unet_motion")
    x = tensors["motion/x"]
    # Newer diffusers leaves it to the caller to repeat the prompt for every frame.
    text = tensors["motion/ctx"].repeat_interleave(x.shape[2], dim=0)
    return unet(x, TIMESTEP, text).sample


def decoder(root: Path, tensors: dict[str, Tensor]) -> Tensor:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(root / "models" / "vae")
    return vae.decode(tensors["vae/z"] / vae.config.scaling_factor).sample


def text_encoder(root: Path, tensors: dict[str, Tensor], suffix: str) -> Tensor:
    from transformers import CLIPTextModel

    model = CLIPTextModel.from_pretrained(root / "models" / f"text_encoder{suffix}")
    return model(tensors[f"text{suffix}/ids"]).last_hidden_state


FORWARDS: dict[str, Any] = {
    "t2i/out_plain_attn": lambda root, tensors: image_network(root, tensors, None),
    "t2i/out_crossframe_bs1": lambda root, tensors: image_network(root, tensors, FRAMES),
    "t2i/out_crossframe_bs2": lambda root, tensors: image_network(root, tensors, FRAMES // 2),
    "t2v/out": video_network,
    "motion/out": motion_network,
    "vae/decoded": decoder,
    "text/embeds": lambda root, tensors: text_encoder(root, tensors, ""),
    "text3d/embeds": lambda root, tensors: text_encoder(root, tensors, "3d"),
}


def test_forward(root: Path, forward: str) -> None:
    tensors = load_file(root / "model_forwards.safetensors")
    with torch.no_grad():
        close(FORWARDS[forward](root, tensors), tensors[forward])
