"""Networks to pipeline folders and back."""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from elevator.zoo import networks

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from elevator.zoo.diffusion import Parts

__all__ = ["read", "write"]


def write(folder: Path, parts: Parts, unet: nn.Module) -> None:
    """Save a pipeline in float16: Stable Diffusion's, or its video kin's for a video U-Net.

    The folder is written aside and renamed, so that a reader never sees half of it.
    """
    from diffusers import StableDiffusionPipeline, TextToVideoSDPipeline, UNet3DConditionModel

    kind, extra = StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}
    extra["requires_safety_checker"] = False
    if isinstance(unet, UNet3DConditionModel):
        kind, extra = TextToVideoSDPipeline, {}
    vae, text, unet = (
        copy.deepcopy(m).to("cpu", torch.float16) for m in (parts.vae, parts.text, unet)
    )
    with warnings.catch_warnings(action="ignore"):
        pipe = kind(
            vae=vae,
            text_encoder=text,
            tokenizer=parts.tokenizer,
            unet=unet,
            scheduler=networks.scheduler(),
            **extra,
        )
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    pipe.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def read(folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load a pipeline folder, as `DiffusionPipeline.from_pretrained` does, but quietly."""
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):
            return DiffusionPipeline.from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True
            )
    finally:
        logging.set_verbosity(level)
