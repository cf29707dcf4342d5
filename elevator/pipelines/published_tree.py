"""Loading the checkpoint tree that Upscale-A-Video was published as."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from elevator.errors import CheckpointError
from elevator.models import TemporalUNet, VideoVAE

__all__ = ["is_published", "load_published"]

_CONFIG = Path("unet", "unet_video_config.json")


def is_published(folder: str | Path) -> bool:
    """Whether a folder is that tree, and no pipeline that was saved."""
    return (Path(folder).expanduser() / _CONFIG).is_file()


def load_published(folder: str | Path, *, video_vae: bool, dtype: torch.dtype) -> dict[str, Any]:
    """The components of `VideoUpscalePipeline`, by their names; its arguments are explained there.

    Raises:
        CheckpointError: a part is missing or does not fit.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    root, name = Path(folder).expanduser(), "vae_video" if video_vae else "vae_3d"
    parts: dict[str, Any] = {
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
        "low_res_scheduler": DDPMScheduler,
        "scheduler": DDIMScheduler,
    }
    missing = [part for part in (*parts, "unet", "vae") if not (root / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"{root} is no published Upscale-A-Video: it has no {', '.join(missing)}; give the "
            "folder upscale_a_video that was downloaded, or load a saved pipeline with "
            "from_pretrained"
        )
    try:
        loaded = {
            part: kind.from_pretrained(root / part, local_files_only=True)
            for part, kind in parts.items()
        }
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{root} cannot be loaded: {error}") from error
    unet = TemporalUNet.from_published(_weights(root / "unet", "unet_video"), root / _CONFIG)
    vae = VideoVAE.from_published(
        _weights(root / "vae", name), root / "vae" / f"{name}_config.json"
    )
    loaded["text_encoder"] = loaded["text_encoder"].to(dtype)
    # torch's own `to`: diffusers' warns of every dtype.
    return {**loaded, "unet": nn.Module.to(unet, dtype), "vae": vae}


def _weights(folder: Path, name: str) -> Path:
    """The published file of a network, or its safetensors where somebody converted it."""
    safe = folder / f"{name}.safetensors"
    return safe if safe.is_file() else folder / f"{name}.bin"
