"""The networks of the zoo, in the shapes of Stable Diffusion and its video kin, only smaller."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        UNet2DConditionModel,
        UNet3DConditionModel,
    )
    from torch import nn
    from transformers import CLIPTextModel

    from elevator.models import VideoVAE

__all__ = [
    "add_lora",
    "noise_scheduler",
    "scheduler",
    "text_encoder",
    "unet2d",
    "unet3d",
    "upscaler_scheduler",
    "upscaler_unet2d",
    "upscaler_vae",
    "vae",
]

SIZE = 64
"""Side of a frame in pixels."""
LATENT = 8
"""Channels of a latent."""
FACTOR = 4
"""Pixels along a side of a latent pixel."""
WIDTHS = (48, 64)
"""Channels of the U-Nets' two levels, 16x16 and 8x8."""
HEAD = 16
"""Channels of an attention head, at every level and in both U-Nets."""
TEXT = 64
"""Channels of the text encoder."""
UPSCALER_WIDTHS = (64, 64)
"""Channels of the diffusion upscaler's two levels, at the low resolution and half of it."""
CONDITION = 32
"""Channels of what its autoencoder's decoder makes of the low-resolution frames."""
LORA_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out"),
)
"""What a LoRA of the zoo changes: attention, feed-forward layers and convolutions."""
TEMPORAL = r".*(temp_convs|temp_attentions|transformer_in)\..*"
"""Layers of a video U-Net that a LoRA leaves alone, as a pattern: those that know of time."""


def vae() -> AutoencoderKL:
    """64x64 pixels to 16x16 latents of eight channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
    )


def text_encoder(vocabulary: int, start: int, end: int, length: int) -> CLIPTextModel:
    """A CLIP text model of two layers; `start` and `end` are the ids of the marks around a text."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT,
            intermediate_size=4 * TEXT,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=length,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
            projection_dim=TEXT,
        )
    )


def unet2d(*, video: bool = False) -> UNet2DConditionModel:
    """The image U-Net, with self- and cross-attention at every level.

    `attention_head_dim` is diffusers' historical name for the *number* of heads here.

    Args:
        video: leave out attention at the upper level, as `unet3d` does.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // FACTOR,
        in_channels=LATENT,
        out_channels=LATENT,
        down_block_types=(
            "DownBlock2D" if video else "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
        ),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D" if video else "CrossAttnUpBlock2D"),
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=TEXT,
        attention_head_dim=tuple(width // HEAD for width in WIDTHS),
        use_linear_projection=True,
        norm_num_groups=8,
    )


def add_lora(unet: nn.Module, rank: int) -> None:
    """Freeze a U-Net and put low-rank factors beside its spatial attention and convolutions.

    Attention alone cannot change how a network of this size paints: it does so with convolutions.
    """
    from peft import LoraConfig, inject_adapter_in_model

    unet.requires_grad_(False)
    video = any(re.match(TEMPORAL, name) for name, _ in unet.named_modules())
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(LORA_LAYERS),
        exclude_modules=TEMPORAL if video else None,  # peft warns of what excludes nothing
    )
    inject_adapter_in_model(config, unet)


def unet3d() -> UNet3DConditionModel:
    """The video U-Net: the image U-Net's layers by the same names, and temporal ones between.

    It attends at the lower level only, which takes a third of the time. Here `attention_head_dim`
    is the channels of a head, so both have the same heads.
    """
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel(
        sample_size=SIZE // FACTOR,
        in_channels=LATENT,
        out_channels=LATENT,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "UpBlock3D"),
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=TEXT,
        attention_head_dim=HEAD,
        norm_num_groups=8,
    )


def scheduler(*, video: bool = False) -> DDIMScheduler:
    """Stable Diffusion's schedule for images or LaVie's for video, with v-prediction.

    A network that predicts v learns colours also at the noisiest levels, where a noise prediction
    says next to nothing about the clean latent.

    Args:
        video: take LaVie's (and DDPM's) linear betas. They end at a hundredth of the signal that
            Stable Diffusion's leave: over eight frames those still show which way things move, so
            a T2V trained on them would read the motion off the noise and not ask the caption.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear" if video else "scaled_linear",
        beta_start=0.0001 if video else 0.00085,
        beta_end=0.02 if video else 0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="v_prediction",
    )


def upscaler_vae(image: AutoencoderKL) -> VideoVAE:
    """The image autoencoder, with a decoder that can look at low-resolution frames and neighbours.

    What is new changes nothing yet.
    """
    from elevator.models import VideoVAE

    return VideoVAE.from_vae2d(image, volume=True, condition_channels=CONDITION)


def upscaler_unet2d() -> UNet2DConditionModel:
    """The diffusion upscaler's U-Net for single frames, with attention at the lower level only.

    It sees latents and low-resolution frames of the same size, and is told how noisy the frames
    are. `attention_head_dim` is diffusers' historical name for the *number* of heads here.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=2 * SIZE // FACTOR,
        in_channels=LATENT + 3,
        out_channels=LATENT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=UPSCALER_WIDTHS,
        layers_per_block=1,
        cross_attention_dim=TEXT,
        attention_head_dim=tuple(width // HEAD for width in UPSCALER_WIDTHS),
        use_linear_projection=True,
        norm_num_groups=8,
        num_class_embeds=1000,
    )


def upscaler_scheduler() -> DDIMScheduler:
    """The schedule of Stable Diffusion's x4 upscaler, which Upscale-A-Video samples with."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.0001,
        beta_end=0.02,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="v_prediction",
    )


def noise_scheduler() -> DDPMScheduler:
    """How noise is put on the low-resolution frames."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.0001,
        beta_end=0.02,
        variance_type="fixed_small",
    )
