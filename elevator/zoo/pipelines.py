"""Networks to pipeline folders and back."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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

    video = isinstance(unet, UNet3DConditionModel)
    modules = {"vae": parts.vae, "text_encoder": parts.text, "unet": unet}
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    with _quiet():
        given: dict[str, object] = {
            name: copy.deepcopy(module).to("cpu", torch.float16) for name, module in modules.items()
        }
        given |= {"tokenizer": parts.tokenizer, "scheduler": networks.scheduler(video=video)}
        if video:
            pipe = TextToVideoSDPipeline(**given)
        else:
            given |= {"safety_checker": None, "feature_extractor": None}
            pipe = StableDiffusionPipeline(**given, requires_safety_checker=False)
        pipe.save_pretrained(aside)
    for file in aside.rglob("*config.json"):
        _forget_origin(file)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _forget_origin(file: Path) -> None:
    """Take out of a configuration where on this machine its part was loaded from."""
    config = json.loads(file.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load a pipeline folder, as `DiffusionPipeline.from_pretrained` does, but quietly."""
    from diffusers import DiffusionPipeline

    with _quiet():
        return DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings, such as that the video pipeline is an old one, and bars of loading."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    libraries = (diffusers, transformers)
    before = [(x.get_verbosity(), x.is_progress_bar_enabled()) for x in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()
