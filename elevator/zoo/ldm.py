"""A Stable Diffusion pipeline as one file in the original (LDM) layout, as model sites share it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

__all__ = ["save_ldm"]

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)
_ENDS = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
)
_SHORTCUT = "n" + "in_shortcut"  # network in network; typos would not have it in one piece
_ATTENTION = (
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
)


def save_ldm(pipeline: Any, path: Path) -> Path:
    """Write network, VAE and text encoder into one file; aside first, then renamed.

    Args:
        pipeline: a `StableDiffusionPipeline`.
        path: of the new `.safetensors` file.

    Returns:
        The file.
    """
    tensors = {
        **_unet_tensors(pipeline.unet),
        **_vae_tensors(pipeline.vae),
        **_text_tensors(pipeline.text_encoder),
    }
    aside = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in tensors.items()}, aside)
    os.replace(aside, path)
    return path


def _unet_tensors(unet: Any) -> dict[str, Tensor]:
    state = unet.state_dict()
    per_block = unet.config.layers_per_block + 1

    def rename(key: str) -> str:
        for ours, theirs in _ENDS:
            if key.startswith(ours + "."):
                return _inner(key.replace(ours, theirs, 1))
        side, block, kind, layer, rest = re.fullmatch(
            r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key
        ).groups()  # type: ignore[union-attr]
        first = int(block) * per_block
        if kind == "downsamplers":
            return f"input_blocks.{first + per_block}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            place = 2 if any(k.startswith(f"up_blocks.{block}.attentions") for k in state) else 1
            return f"output_blocks.{first + per_block - 1}.{place}.{rest}"
        place = 0 if kind == "resnets" else 1
        if side == "down":
            return _inner(f"input_blocks.{1 + first + int(layer)}.{place}.{rest}")
        return _inner(f"output_blocks.{first + int(layer)}.{place}.{rest}")

    return {f"model.diffusion_model.{rename(key)}": value for key, value in state.items()}


def _inner(key: str) -> str:
    if "transformer_blocks" in key:
        return key
    for ours, theirs in _RESNET:
        key = re.sub(rf"\.{ours}\.", f".{theirs}.", key)
    return key


def _vae_tensors(vae: Any) -> dict[str, Tensor]:
    last = len(vae.config.block_out_channels) - 1
    made = {}
    for key, value in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", _SHORTCUT)
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for ours, theirs in _ATTENTION:
                name = name.replace(f".{ours}.", f".{theirs}.")
            if value.ndim == 2:
                value = value[:, :, None, None]  # LDM's attention is made of 1x1 convolutions
        made[f"first_stage_model.{name}"] = value
    return made


def _text_tensors(text_encoder: Any) -> dict[str, Tensor]:
    return {
        f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": value
        for key, value in text_encoder.state_dict().items()
    }
