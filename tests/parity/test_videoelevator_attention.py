"""VideoElevator's attention and model forwards against tensors of its reference implementation.

With `--goldens DIR` everything recorded there is compared; without, the few cases committed under
tests/data/goldens (the layer, and the image network plain and inflated). The tolerance is that of
the recordings' README.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from elevator.latent import publish_frames
from elevator.models.inflate import CrossFrameAttention
from tests.parity.cases import folder_of, keys_of, model_of, offer, read_tensors

FRAMES = 4  # of the recordings
TIMESTEP = 501


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = folder_of(metafunc.config, "videoelevator")
    if "layer" in metafunc.fixturenames:
        keys = keys_of(root / "attention")
        offer(metafunc, "layer", [k for k in keys if k.startswith(("classic", "sdpa"))], str)
    if "forward" in metafunc.fixturenames:
        keys = [k for k in keys_of(root / "model_forwards") if k in FORWARDS]
        offer(metafunc, "forward", [k for k in keys if model_of(root, FORWARDS[k][0])], str)


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest) -> Path:
    return folder_of(request.config, "videoelevator")


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
    tensors = read_tensors(root / "attention")
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


def image_network(model: Path, tensors: dict[str, Tensor], frames: int | None) -> Tensor:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(model)
    arguments = tensors["t2i/x"], TIMESTEP, tensors["t2i/ctx"]
    if frames is None:
        return unet(*arguments).sample
    with CrossFrameAttention().apply(unet), publish_frames(frames):
        return unet(*arguments).sample


def video_network(model: Path, tensors: dict[str, Tensor]) -> Tensor:
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel.from_pretrained(model)
    return unet(tensors["t2v/x"], TIMESTEP, tensors["t2v/ctx"]).sample


def motion_network(model: Path, tensors: dict[str, Tensor]) -> Tensor:
    from diffusers import UNetMotionModel

    unet = UNetMotionModel.from_pretrained(model)
    x = tensors["motion/x"]
    # Newer diffusers leaves it to the caller to repeat the prompt for every frame.
    text = tensors["motion/ctx"].repeat_interleave(x.shape[2], dim=0)
    return unet(x, TIMESTEP, text).sample


def decoder(model: Path, tensors: dict[str, Tensor]) -> Tensor:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(model)
    return vae.decode(tensors["vae/z"] / vae.config.scaling_factor).sample


def text_encoder(model: Path, tensors: dict[str, Tensor], ids: str) -> Tensor:
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(model)(tensors[ids]).last_hidden_state


# Of every recorded output: the network's folder, and how it is called.
FORWARDS: dict[str, tuple[str, Callable[[Path, dict[str, Tensor]], Tensor]]] = {
    "t2i/out_plain_attn": ("t2i_unet", partial(image_network, frames=None)),
    "t2i/out_crossframe_bs1": ("t2i_unet", partial(image_network, frames=FRAMES)),
    "t2i/out_crossframe_bs2": ("t2i_unet", partial(image_network, frames=FRAMES // 2)),
    "t2v/out": ("t2v_unet3d", video_network),
    "motion/out": ("t2v_unet_motion", motion_network),
    "vae/decoded": ("vae", decoder),
    "text/embeds": ("text_encoder", partial(text_encoder, ids="text/ids")),
    "text3d/embeds": ("text_encoder3d", partial(text_encoder, ids="text3d/ids")),
}


def test_forward(root: Path, forward: str) -> None:
    tensors = read_tensors(root / "model_forwards")
    name, run = FORWARDS[forward]
    model = model_of(root, name)
    assert model is not None
    with torch.no_grad():
        close(run(model, tensors), tensors[forward])
