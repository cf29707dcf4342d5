"""Networks to pipeline folders and files, and back."""

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

from elevator.errors import CheckpointError
from elevator.zoo import networks
from elevator.zoo.ldm import save_ldm

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from elevator.models import TemporalUNet
    from elevator.pipelines.video_upscale import VideoUpscalePipeline
    from elevator.zoo.diffusion import Parts
    from elevator.zoo.video_upscaling import Upscaling

__all__ = [
    "read",
    "read_file",
    "read_lora",
    "read_upscaler",
    "read_video_lora",
    "write",
    "write_file",
    "write_lora",
    "write_upscaler",
]


def write(folder: Path, parts: Parts, unet: nn.Module) -> None:
    """Save a pipeline in float16: Stable Diffusion's, or its video kin's for a video U-Net.

    The folder is written aside and renamed, so that a reader never sees half of it.
    """
    with _quiet():
        _write(folder, _half(parts, unet))


def _write(folder: Path, pipe: DiffusionPipeline) -> None:
    """Save a pipeline aside, without where its parts came from, and rename the folder."""
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    pipe.save_pretrained(aside)
    for file in aside.rglob("*config.json"):
        _forget_origin(file)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def write_file(file: Path, parts: Parts, unet: nn.Module) -> None:
    """Save an image pipeline in float16 as one file in the original (LDM) layout."""
    with _quiet():
        pipe = _half(parts, unet)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_ldm(pipe, file)


def write_lora(file: Path, unet: nn.Module) -> None:
    """Save the PEFT adapter of a U-Net in float16, with diffusers' names."""
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    layers = {key: value.half() for key, value in get_peft_model_state_dict(unet).items()}
    StableDiffusionPipeline.save_lora_weights(
        file.parent, unet_lora_layers=layers, weight_name=file.name
    )


def write_upscaler(
    folder: Path, parts: Upscaling, unet: TemporalUNet, preset: str = "world"
) -> None:
    """Save the diffusion upscaler in float16, as `write` does.

    Args:
        folder: where to.
        parts: all of it that stands still.
        unet: its temporal U-Net.
        preset: the numbers that a call of it starts from, by name.
    """
    from elevator.pipelines.video_upscale import VideoUpscalePipeline

    modules = {"vae": parts.vae, "text_encoder": parts.text, "unet": unet}
    given = {
        name: copy.deepcopy(module).to("cpu", torch.float16) for name, module in modules.items()
    }
    with _quiet():
        pipe = VideoUpscalePipeline(
            **given,
            tokenizer=parts.tokenizer,
            scheduler=parts.scheduler,
            low_res_scheduler=parts.noise,
            preset=preset,
        )
        _write(folder, pipe)


def _half(parts: Parts, unet: nn.Module) -> DiffusionPipeline:
    """A pipeline in float16: Stable Diffusion's, or its video kin's for a video U-Net."""
    from diffusers import StableDiffusionPipeline, TextToVideoSDPipeline, UNet3DConditionModel

    video = isinstance(unet, UNet3DConditionModel)
    modules = {"vae": parts.vae, "text_encoder": parts.text, "unet": unet}
    given: dict[str, object] = {
        name: copy.deepcopy(module).to("cpu", torch.float16) for name, module in modules.items()
    }
    given |= {"tokenizer": parts.tokenizer, "scheduler": networks.scheduler(video=video)}
    if video:
        return TextToVideoSDPipeline(**given)
    given |= {"safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(**given, requires_safety_checker=False)


def _forget_origin(file: Path) -> None:
    """Take out of a configuration where on this machine its part was loaded from."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for key in ("_name_or_path", "local_files_only"):
        config.pop(key, None)
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load a pipeline folder, as `DiffusionPipeline.from_pretrained` does, but quietly."""
    from diffusers import DiffusionPipeline

    with _quiet():
        return DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)


def read_upscaler(folder: Path, dtype: torch.dtype = torch.float32) -> VideoUpscalePipeline:
    """Load the folder of a diffusion upscaler, quietly."""
    from elevator.pipelines.video_upscale import VideoUpscalePipeline

    with _quiet():
        return VideoUpscalePipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)


def read_lora(folder: Path, file: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load a pipeline folder with a LoRA file on it."""
    from elevator.hosts.checkpoints import load_t2i

    with _quiet():
        return load_t2i(folder, dtype=dtype, lora=file)


def read_video_lora(
    folder: Path, file: Path, dtype: torch.dtype = torch.float32
) -> DiffusionPipeline:
    """Load a pipeline folder with a LoRA file added to the weights of its video U-Net.

    diffusers puts LoRAs on image U-Nets only.
    """
    from safetensors.torch import load_file

    pipe = read(folder, torch.float32)
    factors = load_file(file)
    for name, layer in pipe.unet.named_modules():
        keys = [f"unet.{name}.lora_{which}.weight" for which in "AB"]
        if all(key in factors for key in keys):
            down, up = (factors.pop(key).float().flatten(1) for key in keys)
            layer.weight.data += (up @ down).view_as(layer.weight)
    if factors:
        names = ", ".join(factors)
        raise CheckpointError(f"{file} has factors without layer or pair in {folder}: {names}")
    return pipe.to(dtype)


def read_file(file: Path, config: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load a single-file checkpoint; `config` is a folder of the same family."""
    from elevator.hosts.checkpoints import load_t2i

    with _quiet():
        return load_t2i(file, dtype=dtype, config=config)


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
