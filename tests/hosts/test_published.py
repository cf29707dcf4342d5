"""The layouts of published checkpoints, at their real size and without data (the meta device).

Configurations are those the checkpoints were published with. Totals marked `known` are figures of
the models' own pages and papers; the others are recorded from these configurations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import elevator as el
from elevator.denoise import Call, count_calls
from elevator.hosts.codec import _mode, codec
from elevator.hosts.single_files import _motion_config
from elevator.models import CrossFrameAttention
from elevator.samplers import DDIMInversion, SDEdit
from elevator.zoo.ldm import _unet_tensors
from tests.builders import ddim, make_latent, scheduler_of

_XL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
_SD21: dict[str, Any] = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "sample_size": 96,
}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_WAN: dict[str, Any] = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
}
_XL_MOTION: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "use_motion_mid_block": False,
}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "SD 1.5": ("UNet2DConditionModel", {"cross_attention_dim": 768, "sample_size": 64}),
    "SD 2.1": ("UNet2DConditionModel", _SD21),
    "SDXL": ("UNet2DConditionModel", _XL),
    "SD VAE": ("AutoencoderKL", _VAE),
    "ZeroScope": ("UNet3DConditionModel", {"cross_attention_dim": 1024, "sample_size": 32}),
    "AnimateDiff v1.5": (
        "MotionAdapter",
        {"use_motion_mid_block": False, "motion_max_seq_length": 24},
    ),
    "AnimateDiff v1.5.2": ("MotionAdapter", {}),
    "AnimateDiff v3": ("MotionAdapter", {"use_motion_mid_block": False}),
    "AnimateDiff SDXL": ("MotionAdapter", _XL_MOTION),
    "Wan 2.1 1.3B": ("WanTransformer3DModel", _WAN),
    "Wan VAE": ("AutoencoderKLWan", {}),
    "Qwen-Image": ("QwenImageTransformer2DModel", {}),
    "Qwen-Image VAE": ("AutoencoderKLQwenImage", {}),
}


@cache
def published(name: str) -> Any:
    import diffusers

    cls, config = _CONFIGS[name]
    with torch.device("meta"):
        return getattr(diffusers, cls)(**config)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "total", "known"),
    [
        ("SD 1.5", 859_520_964, 859_520_964),
        ("SD 2.1", 865_910_724, 865_910_000),  # its log: 865.91 M
        ("SDXL", 2_567_463_684, 2_567_463_684),
        ("SD VAE", 83_653_863, 83_653_863),
        ("ZeroScope", 1_411_233_860, None),
        ("AnimateDiff v1.5", 417_137_600, 417_000_000),  # their page: 417 M and 453 M
        ("AnimateDiff v1.5.2", 453_209_280, 453_000_000),
        ("AnimateDiff v3", 417_137_600, None),
        ("AnimateDiff SDXL", 236_779_200, None),
        ("Wan 2.1 1.3B", 1_418_996_800, None),
        ("Wan VAE", 126_892_531, 127_000_000),  # the paper: 127 M
    ],
)
def test_as_many_parameters_as_published(name: str, total: int, known: int | None) -> None:
    assert _count(published(name)) == total
    assert known is None or abs(total - known) < 500_000


_LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "SD 1.5": {
        "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
    },
    "SD 2.1": {
        "down_blocks.0.attentions.0.proj_in.weight": (320, 320),
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_v.weight": (1280, 1024),
    },
    "SDXL": {
        "add_embedding.linear_1.weight": (1280, 2816),
        "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        "mid_block.attentions.0.transformer_blocks.9.attn1.to_q.weight": (1280, 1280),
    },
    "ZeroScope": {
        "transformer_in.proj_in.weight": (512, 320),
        "down_blocks.0.temp_convs.1.conv4.3.weight": (320, 320, 3, 1, 1),
        "up_blocks.1.temp_attentions.2.transformer_blocks.0.attn1.to_q.weight": (1280, 1280),
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": (1280, 1024),
    },
    "AnimateDiff v1.5.2": {
        "mid_block.motion_modules.0.transformer_blocks.0.pos_embed.pe": (1, 32, 1280),
        "up_blocks.3.motion_modules.2.transformer_blocks.0.attn2.to_v.weight": (320, 320),
    },
    "AnimateDiff v3": {
        "down_blocks.3.motion_modules.1.transformer_blocks.0.attn1.to_q.weight": (1280, 1280),
        "down_blocks.0.motion_modules.0.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
    },
    "AnimateDiff SDXL": {
        "down_blocks.2.motion_modules.1.transformer_blocks.0.pos_embed.pe": (1, 32, 1280),
        "up_blocks.2.motion_modules.2.proj_in.weight": (320, 320),
    },
    "Wan 2.1 1.3B": {
        "patch_embedding.weight": (1536, 16, 1, 2, 2),
        "condition_embedder.text_embedder.linear_1.weight": (1536, 4096),
        "blocks.29.attn2.to_k.weight": (1536, 1536),
        "blocks.29.ffn.net.0.proj.weight": (8960, 1536),
        "proj_out.weight": (64, 1536),
    },
}


@pytest.mark.parametrize("name", _LAYERS)
def test_folders_have_the_published_names_and_shapes(name: str) -> None:
    shapes = _shapes(published(name))
    assert {key: shapes.get(key) for key in _LAYERS[name]} == _LAYERS[name]
    blocks = {key.split(".")[1] for key in shapes if key.startswith("mid_block.motion_modules")}
    assert bool(blocks) == (name == "AnimateDiff v1.5.2")


@pytest.mark.parametrize(
    ("name", "text", "projection"),
    [("SD 1.5", 768, (1280, 1280, 1, 1)), ("SD 2.1", 1024, (1280, 1280))],
)
def test_single_files_have_the_published_names(
    name: str, text: int, projection: tuple[int, ...]
) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = published(name)
    tensors = _unet_tensors(unet)
    shapes = {
        key.removeprefix("model.diffusion_model."): tuple(value.shape)
        for key, value in tensors.items()
    }
    assert len(shapes) == 686
    wanted = {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, text),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "middle_block.1.proj_in.weight": projection,
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        "out.2.weight": (4, 320, 3, 3),
    }
    assert {key: shapes.get(key) for key in wanted} == wanted
    back = convert_ldm_unet_checkpoint(dict(tensors), unet.config)
    assert {key: tuple(value.shape) for key, value in back.items()} == _shapes(unet)


@pytest.mark.parametrize(
    "name", ["AnimateDiff v1.5", "AnimateDiff v1.5.2", "AnimateDiff v3", "AnimateDiff SDXL"]
)
def test_the_shapes_of_a_motion_adapter_tell_its_configuration(name: str) -> None:
    """AnimateLCM's has the shapes of v1.5.2."""
    adapter = published(name)
    told = _motion_config(_shapes(adapter))
    assert told == {key: adapter.config[key] for key in told}


def test_a_motion_adapter_moves_stable_diffusion() -> None:
    from diffusers import UNetMotionModel

    base, adapter = published("SD 1.5"), published("AnimateDiff v1.5.2")
    with torch.device("meta"):
        moved = UNetMotionModel.from_unet2d(base, adapter)
    assert _count(moved) == _count(base) + _count(adapter)
    assert _shapes(moved).items() >= _shapes(adapter).items()


@pytest.mark.parametrize(("name", "layers"), [("SD 1.5", 16), ("SD 2.1", 16), ("SDXL", 70)])
def test_every_self_attention_is_inflated(name: str, layers: int) -> None:
    unet = published(name)
    before = dict(unet.attn_processors)
    with CrossFrameAttention().apply(unet):
        kinds = [type(processor).__name__ for processor in unet.attn_processors.values()]
        assert kinds.count("_CrossFrameProcessor") == layers == len(kinds) / 2
    assert unet.attn_processors == before


# --- pipelines ------------------------------------------------------------------------------------


def _image(name: str, **scheduler: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        unet=published(name),
        vae=published("SD VAE"),
        text_encoder=None,
        tokenizer=None,
        scheduler=ddim(**scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl() -> Any:
    from diffusers import StableDiffusionXLPipeline

    none = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    return StableDiffusionXLPipeline(
        unet=published("SDXL"),
        vae=published("SD VAE"),
        scheduler=scheduler_of("EulerDiscreteScheduler"),
        add_watermarker=False,
        **dict.fromkeys(none),
    )


def _zeroscope() -> Any:
    from diffusers import TextToVideoSDPipeline

    return TextToVideoSDPipeline(
        unet=published("ZeroScope"),
        vae=published("SD VAE"),
        text_encoder=None,
        tokenizer=None,
        scheduler=ddim(),
    )


def _animatediff() -> Any:
    from diffusers import AnimateDiffPipeline

    scheduler = ddim(beta_schedule="linear")
    with torch.device("meta"):
        return AnimateDiffPipeline(
            unet=published("SD 1.5"),
            motion_adapter=published("AnimateDiff v3"),
            vae=published("SD VAE"),
            text_encoder=None,
            tokenizer=None,
            scheduler=scheduler,
        )


def _wan() -> Any:
    from diffusers import WanPipeline

    return WanPipeline(
        transformer=published("Wan 2.1 1.3B"),
        vae=published("Wan VAE"),
        text_encoder=None,
        tokenizer=None,
        scheduler=scheduler_of(
            "UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True
        ),
    )


def _qwen() -> Any:
    from diffusers import QwenImagePipeline

    return QwenImagePipeline(
        transformer=published("Qwen-Image"),
        vae=published("Qwen-Image VAE"),
        text_encoder=None,
        tokenizer=None,
        scheduler=scheduler_of("FlowMatchEulerDiscreteScheduler"),
    )


@pytest.mark.parametrize(
    ("build", "frames", "pixels", "latents", "call"),
    [
        (lambda: _image("SD 1.5"), 24, None, (4, 24, 64, 64), ("UNet2DConditionModel", 48, 1)),
        (
            lambda: _image("SD 2.1", prediction_type="v_prediction"),
            16,
            None,
            (4, 16, 96, 96),
            ("UNet2DConditionModel", 32, 1),
        ),
        (_xl, 16, (1024, 1024), (4, 16, 128, 128), ("UNet2DConditionModel", 32, 1)),
        (_zeroscope, 24, (320, 576), (4, 24, 40, 72), ("UNet3DConditionModel", 2, 24)),
        (_animatediff, 16, (512, 512), (4, 16, 64, 64), ("UNetMotionModel", 2, 16)),
        (_wan, 81, (480, 832), (16, 21, 60, 104), ("WanTransformer3DModel", 2, 21)),
        (_qwen, 5, (928, 1664), (16, 5, 116, 208), ("QwenImageTransformer2DModel", 10, 1)),
    ],
    ids=["SD 1.5", "SD 2.1", "SDXL", "ZeroScope", "AnimateDiff", "Wan 2.1", "Qwen-Image"],
)
def test_elevator_sees_latents_and_calls(
    build: Callable[[], Any],
    frames: int,
    pixels: tuple[int, int] | None,
    latents: tuple[int, ...],
    call: tuple[str, int, int],
) -> None:
    pipe, seen = build(), []
    own = type(pipe.scheduler)

    def look(clean: torch.Tensor, step: el.Step) -> torch.Tensor:
        seen.append(tuple(clean.shape))
        return clean

    hook = el.stateless(look)
    assert el.check(pipe, hook, frames=frames, steps=30) == ()
    height, width = pixels or (None, None)
    plan = el.plan(pipe, hook, frames=frames, steps=30, height=height, width=width)
    assert set(seen) == {(1, *latents)}
    assert plan.host == {Call(*call): 30}
    with el.attach(pipe, hook, frames=frames):
        assert type(pipe.scheduler) is not own
    assert type(pipe.scheduler) is own


@pytest.mark.parametrize("t2v", [_zeroscope, _animatediff], ids=["ZeroScope", "AnimateDiff"])
def test_video_elevator_can_be_planned_on_published_models(t2v: Callable[[], Any]) -> None:
    t2i, video = _image("SD 1.5"), t2v()
    width = video.unet.config.cross_attention_dim
    ours, theirs = make_latent((1, 77, 768), device="meta"), make_latent((1, 77, width))
    one = el.denoiser(t2i, prompt_embeds=ours, guidance=1.0, name="T2I")
    other = el.denoiser(
        video,
        prompt_embeds=theirs.to("meta"),
        negative_prompt_embeds=theirs.to("meta"),
        name="T2V",
    )
    hook = el.renoise(el.at({5}, SDEdit(other, steps=8)), DDIMInversion(invert=one))
    plan = el.plan(t2i, hook, frames=16, steps=50, height=512, width=512)
    assert plan.hooks[Call("T2V", 2, 16)] == 8
    assert plan.frame_forwards("T2I") % 16 == 0
    assert plan.frame_forwards("T2I") > 0


def test_a_transformer_is_called_as_a_whole_and_not_inflated() -> None:
    text = torch.empty((1, 512, 4096), device="meta")
    wan = el.denoiser(_wan(), prompt_embeds=text, guidance=1.0, name="T2V")
    with count_calls() as calls:
        wan(torch.empty((1, 16, 21, 60, 104), device="meta"), wan.walk(50)[3])
    assert calls == [Call("T2V", 1, 21)]
    (problem,) = CrossFrameAttention().check(published("Wan 2.1 1.3B"))
    assert "no self-attention" in problem or "mixes frames" in problem


@pytest.mark.parametrize(
    ("build", "frames", "pixels"),
    [
        (_wan, 17, (480, 832)),
        (_qwen, 2, (928, 1664)),
        (_xl, 2, (1024, 1024)),
        (_zeroscope, 2, (320, 576)),
    ],
    ids=["Wan 2.1", "Qwen-Image", "SDXL", "ZeroScope"],
)
def test_autoencoders_make_the_shapes_that_are_foretold(
    build: Callable[[], Any], frames: int, pixels: tuple[int, int]
) -> None:
    """The published autoencoders themselves, run without data."""
    own = codec(build())
    height, width = pixels
    latents = own.latent_shape((1, 3, frames, height, width))
    clip = torch.empty((1, 3, frames, height, width), device="meta")
    with torch.no_grad():
        encoded = own._whole([_mode(own.vae.encode(part)) for part in own._parts(clip)], 1)
        decoded = own._whole([own.vae.decode(part).sample for part in own._parts(encoded)], 1)
    assert tuple(encoded.shape) == latents
    assert decoded.shape == clip.shape == own.frames_shape(latents)


def test_todays_models_elevate_each_other_at_real_shapes() -> None:
    """Wan 2.1 lifted by Qwen-Image, 81 pictures of 480p: what crosses, and what that takes."""
    t2i, t2v = _qwen(), _wan()
    there, here = torch.empty((1, 512, 4096), device="meta"), make_latent((1, 77, 3584))
    way = el.bridge(t2i, t2v)
    assert way.shape_across((1, 16, 81, 60, 104)) == (1, 16, 21, 60, 104)
    recipe = el.recipes.videoelevator(
        el.denoiser(t2v, prompt_embeds=there, negative_prompt_embeds=there, name="T2V"),
        el.denoiser(t2i, prompt_embeds=here.to("meta"), guidance=1.0, name="T2I"),
        bridge=way,
        refine=(45, 25),
        fast=True,
        patches=(),
    )
    assert el.check(t2i, recipe.hook, frames=81, steps=50) == ()
    plan = el.plan(t2i, recipe.hook, steps=50, frames=81, height=480, width=832)
    assert plan.hooks == {
        Call("QwenImagePipeline decoder", 1, 81): 2,
        Call("WanPipeline encoder", 1, 81): 2,
        Call("T2V", 2, 21): 16,
        Call("WanPipeline decoder", 1, 21): 2,
        Call("QwenImagePipeline encoder", 1, 81): 2,
        Call("T2I", 81, 1): 15 + 8,  # every third of the 44 and the 24 levels below
    }
