"""Checkpoints in one `.safetensors` file: what their tensors tell, and loading them."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from elevator.errors import CheckpointError
from elevator.hosts.sources import (
    Header,
    Source,
    failed,
    is_offline,
    locate,
    read_header,
    require_safetensors,
)

__all__ = [
    "NO_CHECKER",
    "T2I",
    "T2V",
    "image_file",
    "is_lora",
    "motion_file",
    "require_plain_input",
]

T2I = (
    "a text-to-image model of the Stable Diffusion family (a UNet2DConditionModel with one text "
    "encoder): a diffusers folder, a single .safetensors file or a hub id"
)
T2V = (
    "a TextToVideoSDPipeline or AnimateDiffPipeline (a diffusers folder or a hub id), or a motion "
    "adapter (a folder, a .safetensors file or a hub id) together with base="
)
NO_CHECKER: Mapping[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}
_LDM_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_LDM_LATENT = "first_stage_model.post_quant_conv.weight"
_LATENT = 4
"""Latent channels of Stable Diffusion's VAE, for files that come without one."""


def is_lora(header: Header) -> bool:
    """Whether a file holds LoRA factors."""
    return any(re.search(r"lora[._](up|down|linear_layer|A|B)\b", key) for key in header)


def _is_motion(header: Header) -> bool:
    first = re.compile(r"down_blocks\.0\.motion_modules\.0\..*proj_in\.weight")
    return any(first.fullmatch(key) for key in header)


# --- images ---------------------------------------------------------------------------------------


def image_file(
    path: Path, dtype: torch.dtype, config: Source | None, hub: Mapping[str, Any]
) -> Any:
    """Load a `StableDiffusionPipeline` from one file in the original (LDM) layout.

    Args:
        path: the file.
        dtype: of all networks.
        config: a folder or hub id with the component configurations and the tokenizer.
        hub: further arguments of `from_single_file`.

    Raises:
        CheckpointError: the file is damaged, incomplete or something else, or needs a `config`.
    """
    from diffusers import StableDiffusionPipeline

    require_safetensors(path, T2I)
    header = read_header(path)
    if problem := _not_ldm(header):
        raise CheckpointError(f"{path} {problem}")
    latents = header[_LDM_LATENT][1] if _LDM_LATENT in header else _LATENT
    require_plain_input(path, header[_LDM_INPUT][1], latents)
    told: dict[str, Any] = {key: value for key, value in hub.items() if key != "variant"}
    told["local_files_only"] = is_offline(hub)
    if config is not None:
        where = locate(config, "a folder with component configurations")
        told["config"] = str(where)
        if isinstance(where, Path):
            told["local_files_only"] = True
            if not (where / "model_index.json").is_file():
                raise CheckpointError(
                    f"config={os.fspath(config)} has no model_index.json; give a diffusers folder "
                    "of the same family (its weights are not needed)"
                )
    try:
        return StableDiffusionPipeline.from_single_file(
            str(path), dtype=dtype, **NO_CHECKER, **told
        )
    except Exception as error:  # safetensors, json, torch, diffusers, transformers, the hub
        if config is None and is_offline(hub) and isinstance(error, OSError):
            raise CheckpointError(
                f"{path} holds weights only; diffusers would ask the hub for the configurations of "
                "its parts, and the hub may not be asked (HF_HUB_OFFLINE=1 or "
                "local_files_only=True). Give config=, a folder with model_index.json, the "
                "component configurations and the tokenizer: any diffusers folder of the same "
                "family"
            ) from error
        raise _gave_up(path, "a single-file StableDiffusionPipeline", error) from error


def require_plain_input(source: object, channels: int, latents: int) -> None:
    """Check that a network takes a latent and nothing beside it.

    Args:
        source: what was given, for the message.
        channels: input channels of the network.
        latents: channels of its VAE's latents.

    Raises:
        CheckpointError: it takes more.
    """
    if channels != latents:
        raise CheckpointError(
            f"{source} takes {channels} channels where its latents have {latents}: an inpainting, "
            f"upscaling or editing model; expected {T2I}"
        )


def _not_ldm(header: Header) -> str | None:
    """What a single file is, if it is not a Stable Diffusion checkpoint."""
    if is_lora(header):
        return "is a LoRA, not a model; give it in lora= beside the model it was made for"
    if any(key.startswith("conditioner.embedders.") for key in header):
        return f"is a Stable Diffusion XL checkpoint; expected {T2I}"
    if _LDM_INPUT in header:
        return None
    if _is_motion(header):
        return "is a motion adapter; give it as T2V, with base="
    if any(key.startswith("down_blocks.") for key in header):
        return (
            "holds one network of a diffusers pipeline; give the folder of the whole pipeline, the "
            "one with model_index.json"
        )
    if len(header) == 1:
        return "is one tensor (a textual inversion?), not a model; give it in textual_inversion="
    return f"has no weights under {_LDM_INPUT.removesuffix('.0.0.weight')}; expected {T2I}"


def _gave_up(path: Path, kind: str, error: Exception) -> CheckpointError:
    if isinstance(error, NotImplementedError):  # "Cannot copy out of meta tensor; no data!"
        return CheckpointError(
            f"{path} lacks weights that its configuration asks for; give a complete file, or the "
            "configuration of the same family"
        )
    return failed(path, kind, error)


# --- motion ---------------------------------------------------------------------------------------


def motion_file(path: Path, dtype: torch.dtype) -> Any:
    """Load a `MotionAdapter` from one file, with AnimateDiff's names or diffusers'.

    Nothing else is needed: the configuration is read from the tensors' shapes.

    Args:
        path: the file.
        dtype: of the weights.

    Raises:
        CheckpointError: the file is damaged, incomplete or something else.
    """
    from diffusers import MotionAdapter

    require_safetensors(path, T2V)
    header = read_header(path)
    if not _is_motion(header):
        remedy = "; give it in lora=" if is_lora(header) else ""
        raise CheckpointError(f"{path} is not a motion adapter{remedy}; expected {T2V}")
    try:
        with tempfile.TemporaryDirectory() as folder:  # from_single_file reads it from there
            MotionAdapter(**_motion_config(header)).save_config(folder)
            return MotionAdapter.from_single_file(
                str(path), config=folder, dtype=dtype, local_files_only=True
            )
    except Exception as error:  # torch and diffusers each have their own
        raise _gave_up(path, "a motion adapter", error) from error


def _motion_config(header: Header) -> dict[str, Any]:
    """What the shapes of a motion adapter tell; the number of heads is AnimateDiff's 8."""
    place = re.compile(r"down_blocks\.(\d+)\.motion_modules\.(\d+)\.(.*)")
    found = [(match, header[match[0]]) for key in header if (match := place.fullmatch(key))]
    widths = {int(at[1]): shape[0] for at, shape in found if at[3].endswith("proj_in.weight")}
    layers = {at[2] for at, _ in found if at[1] == "0"}
    inner = {
        block[1] for at, _ in found if (block := re.search(r"transformer_blocks\.(\d+)\.", at[3]))
    }
    lengths = {shape[1] for at, shape in found if at[3].endswith(".pe")}
    return {
        "block_out_channels": tuple(widths[block] for block in sorted(widths)),
        "motion_layers_per_block": len(layers),
        "motion_transformer_layers_per_block": len(inner),
        "motion_max_seq_length": max(lengths, default=32),
        "use_motion_mid_block": any(key.startswith("mid_block.") for key in header),
        "motion_num_attention_heads": 8,
    }
