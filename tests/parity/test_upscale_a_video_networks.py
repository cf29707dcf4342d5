"""Upscale-A-Video's networks against tensors of its reference implementation.

With `--goldens DIR` everything recorded there is compared; without, the few cases committed under
tests/data/goldens: the names and shapes of the published checkpoints, and the layers along time.
Tolerances are those of the recordings' README.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elevator.models import TemporalUNet, VideoVAE
from elevator.models.temporal_attention import (
    RelativeBias,
    Rotary,
    TemporalAttention,
    TemporalTransformer,
    TransformerBlock,
)
from elevator.models.temporal_blocks import (
    Downsample,
    FrameConv,
    FrameResnet,
    TemporalModule,
    TemporalResnet,
    Upsample,
)
from elevator.models.video_vae import ConditionFuse
from tests.parity.cases import folder_of, keys_of, offer, read_json, read_tensors

Tensors = dict[str, Tensor]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = folder_of(metafunc.config, "upscale_a_video")
    names = metafunc.fixturenames
    if "layout" in names:
        offer(metafunc, "layout", [n for n in LAYOUTS if (root / f"keys_{n}.json").exists()], str)
    if "layer" in names:
        offer(metafunc, "layer", _present(root / "05_attention", LAYERS), str)
    if "block" in names:
        offer(metafunc, "block", _present(root / "06_conv_blocks", BLOCKS), str)
    if "forward" in names:
        there = (root / "unet_tiny_weights.safetensors").exists()
        forwards = [k[0] for k in keys_of(root / "07_unet_tiny") if k.endswith(".sample") and there]
        offer(metafunc, "forward", sorted(forwards), str)
    if "autoencoder" in names:
        cases = [f"{kind}/{key}" for kind in ("3d", "video") for key in _autoencoder(root, kind)]
        offer(metafunc, "autoencoder", cases, str)


def _present(path: Path, runs: dict[str, Any]) -> list[str]:
    """The cases that can be run, of a file that may hold some: by the name of their output."""
    keys = set(keys_of(path))
    return [name for name in runs if name in keys]


def _autoencoder(root: Path, kind: str) -> list[str]:
    if not (root / f"vae_{kind}_tiny_weights.safetensors").exists():
        return []
    return [key for key in keys_of(root / f"08_vae_{kind}_tiny") if key in DECODINGS]


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest) -> Path:
    return folder_of(request.config, "upscale_a_video")


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def loaded(module: nn.Module, tensors: Tensors, case: str) -> Any:
    prefix = f"w.{case}."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    module.load_state_dict({name: value.float() for name, value in weights.items()})
    return module.eval().requires_grad_(False)


# --- names and shapes of the published checkpoints ------------------------------------------------

LAYOUTS: dict[str, Callable[[], nn.Module]] = {
    "unet_video": TemporalUNet,
    "vae_3d": VideoVAE,
    "vae_video": partial(VideoVAE, volume=True, condition_channels=128),
}


TOTALS = {
    # Less the rotary frequencies, which are no parameter here and one of 16 numbers there.
    "unet_video": 691_036_436 - 16,
    "vae_3d": 55_325_927,
    "vae_video": 113_776_365,
}


def test_the_layout_is_the_published_one(root: Path, layout: str) -> None:
    with torch.device("meta"):
        network = LAYOUTS[layout]()
    found = read_json(root / f"keys_{layout}")
    expected = {key: tuple(shape) for key, shape in found.get("keys", found).items()}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == TOTALS[layout]


# --- attention ------------------------------------------------------------------------------------


def timesteps(tensors: Tensors, width: int) -> Tensor:
    from diffusers.models.embeddings import Timesteps

    return Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)(tensors["temb.t"])


def rotary(tensors: Tensors) -> Tensor:
    turn = Rotary(32)
    close(turn.freqs, tensors["rope.freqs"], 1e-6)
    return turn(tensors["rope.q"])


def temporal_attention(tensors: Tensors) -> Tensor:
    case = "temporal_attention"
    layer = loaded(TemporalAttention(96, 2, 32, relative_bias=True), tensors, case)
    close(layer.time_rel_pos_bias(8), tensors[f"{case}.bias_hij"], 1e-6)
    return layer(tensors[f"{case}.x"])


def cross_attention(tensors: Tensors) -> Tensor:
    from diffusers.models.attention_processor import Attention

    case = "cross_attention"
    layer = loaded(Attention(64, 40, heads=2, dim_head=32), tensors, case)
    return layer(tensors[f"{case}.x"], tensors[f"{case}.context"])


def block(tensors: Tensors, case: str) -> Tensor:
    module = TransformerBlock(64, 1, 40, only_cross=case == "block_only_cross")
    x = tensors[f"{case}.x"].unflatten(0, (2, 4))
    return loaded(module, tensors, case)(x, tensors[f"{case}.context"]).flatten(0, 1)


def transformer(tensors: Tensors, *, whole: bool) -> Tensor:
    case = "transformer3d"
    module = loaded(TemporalTransformer(64, 2, 40, only_cross=True), tensors, case)
    x = tensors[f"{case}.x"]
    return module(x, tensors[f"{case}.context"]) if whole else module.resblock_temporal(x)


def feed_forward(tensors: Tensors) -> Tensor:
    from diffusers.models.attention import FeedForward

    return loaded(FeedForward(64, activation_fn="geglu"), tensors, "ff")(tensors["ff.x"])


LAYERS: dict[str, Callable[[Tensors], Tensor]] = {
    "temb.out32": partial(timesteps, width=32),
    "temb.out256": partial(timesteps, width=256),
    "rope.out": rotary,
    "relpos.bucket8": lambda _: RelativeBias.buckets(8),
    "relpos.bucket40": lambda _: RelativeBias.buckets(40),
    "temporal_attention.out": temporal_attention,
    "cross_attention.out": cross_attention,
    "block_only_cross.out": partial(block, case="block_only_cross"),
    "block_self.out": partial(block, case="block_self"),
    "transformer3d.after_resblock_temporal": partial(transformer, whole=False),
    "transformer3d.out": partial(transformer, whole=True),
    "ff.out": feed_forward,
}


def test_layer(root: Path, layer: str) -> None:
    tensors = read_tensors(root / "05_attention")
    # A float32 angle near 1000 is known to 6e-5.
    close(LAYERS[layer](tensors), tensors[layer], 5e-5 if layer.startswith("temb") else 2e-5)


# --- convolutional blocks -------------------------------------------------------------------------

_VAE: dict[str, Any] = {"eps": 1e-6}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "inflated_conv": lambda: FrameConv(64, 32, 3, padding=1),
    "resnet3d_temb": lambda: FrameResnet(64, 32, embedding=48),
    "resnet3d_notemb": lambda: FrameResnet(64, 64, **_VAE),
    "resnet3dcnn_k3": lambda: TemporalResnet(64),
    "resnet3dcnn_k5_temb": lambda: TemporalResnet(64, embedding=48, kernel=5),
    "temporal_module": lambda: TemporalModule(64, 48),
    "resnet3d_plus": lambda: FrameResnet(64, 32, volume=True, **_VAE),
    "resnet3d_plus_rgb": lambda: FrameResnet(3, 32, volume=True, **_VAE),
    "fuse_sft": lambda: ConditionFuse(32, 64, {"groups": 32, "over_frames": True}),
    "upsample": lambda: Upsample(64),
    "upsample_to_size": lambda: Upsample(64),
    "downsample_pad1": lambda: Downsample(64, 1),
    "downsample_pad0": lambda: Downsample(64, 0),
}
MORE: dict[str, tuple[Any, ...]] = {"fuse_sft": (0.7,), "upsample_to_size": ((11, 9),)}


def run_block(tensors: Tensors, case: str, output: str) -> Tensor:
    module = loaded(MODULES[case](), tensors, case)
    names = [f"{case}.{name}" for name in ("in0", "in1", "temb")]
    given = [tensors[name] for name in names if name in tensors]
    if output == "eps_out":
        given[0] = tensors[f"{case}.eps_in"]
        given[1:] = [one[:1] for one in given[1:]]
    return module(*given, *MORE.get(case, ()))


BLOCKS: dict[str, tuple[str, str]] = {
    f"{case}.{output}": (case, output) for case in MODULES for output in ("out", "eps_out")
}


def test_block(root: Path, block: str) -> None:
    tensors = read_tensors(root / "06_conv_blocks")
    close(run_block(tensors, *BLOCKS[block]), tensors[block], 3e-5)


# --- whole networks -------------------------------------------------------------------------------


def weights(root: Path, name: str) -> Tensors:
    return {k: v.float() for k, v in read_tensors(root / f"{name}_tiny_weights").items()}


def test_forward(root: Path, forward: str) -> None:
    """The output, and what the blocks make on the way to it."""
    unet = TemporalUNet.from_published(weights(root, "unet"), read_json(root / "unet_tiny_config"))
    tensors = read_tensors(root / "07_unet_tiny")
    given = {k[2:]: v for k, v in tensors.items() if k.startswith(f"{forward}.")}
    seen: Tensors = {}
    names = [k.removeprefix("act.") for k in given if k.startswith("act.")]
    for name in names:
        module = unet.get_submodule(name.removesuffix("_frame0"))
        module.register_forward_hook(partial(_keep, seen, name))
    with torch.no_grad():
        out = unet(
            torch.cat([given["sample"], given["low_res"]], dim=1),
            given["timestep"],
            given["encoder_hidden_states"],
            given["class_labels"],
        ).sample
    close(out, given["out"], 1e-4)
    for name in names:
        close(seen[name], given[f"act.{name}"], 1e-4)


def _keep(seen: Tensors, name: str, module: nn.Module, given: Any, output: Any) -> None:
    output = output[0] if isinstance(output, tuple) else output
    seen[name] = output[:, :, 0] if name.endswith("_frame0") else output


def encoding(vae: VideoVAE, tensors: Tensors, moment: str) -> Tensor:
    return getattr(vae.encode(tensors["encode.x"]).latent_dist, moment)


def decoding(
    vae: VideoVAE, tensors: Tensors, strength: float = 1.0, frames: int = 3, image: bool = True
) -> Tensor:
    z, low = (tensors[key][:, :, :frames] for key in ("decode.z", "decode.img"))
    return vae.decode(z, low if image else None, strength).sample


def pipeline_decoding(vae: VideoVAE, tensors: Tensors) -> Tensor:
    z = tensors["pipeline_decode.latents"] / vae.config.scaling_factor
    return vae.decode(z, tensors["decode.img"]).sample.clamp(-1, 1)


DECODINGS: dict[str, Callable[[VideoVAE, Tensors], Tensor]] = {
    **{f"encode.{m}": partial(encoding, moment=m) for m in ("mean", "logvar", "std")},
    "decode.out": decoding,
    "decode.out_noimg": partial(decoding, image=False),
    "decode.out_w05": partial(decoding, strength=0.5),
    "decode.out_w0": partial(decoding, strength=0.0),
    "decode.out_2frames": partial(decoding, frames=2),
    "decode.cond": lambda vae, tensors: vae.decoder.condition_in(tensors["decode.img"]),
    "pipeline_decode.out": pipeline_decoding,
}


def test_autoencoder(root: Path, autoencoder: str) -> None:
    kind, key = autoencoder.split("/")
    vae = VideoVAE.from_published(
        weights(root, f"vae_{kind}"), read_json(root / f"vae_{kind}_tiny_config")
    )
    tensors = read_tensors(root / f"08_vae_{kind}_tiny")
    with torch.no_grad():
        close(DECODINGS[key](vae, tensors), tensors[key], 1e-4)
