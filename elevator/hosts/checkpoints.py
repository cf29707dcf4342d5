"""Load text-to-image and text-to-video pipelines from what people have.

A source is a pipeline that is already built, a diffusers folder, a single `.safetensors` file, or a
hub id (`org/name`), the only one for which weights are ever downloaded. Pickles are never opened.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from elevator.errors import CheckpointError
from elevator.hosts.addons import Lora, TextualInversion, add_lora, add_textual_inversion
from elevator.hosts.latent_space import same_latent_space
from elevator.hosts.pipeline import quiet_deprecation
from elevator.hosts.single_files import (
    NO_CHECKER,
    T2I,
    T2V,
    image_file,
    motion_file,
    require_plain_input,
)
from elevator.hosts.sources import (
    Source,
    failed,
    fingerprint,
    index_of,
    locate,
    quiet_hub,
    reason,
    require_weights,
)

__all__ = [
    "Lora",
    "TextualInversion",
    "fingerprint",
    "load_t2i",
    "load_t2v",
    "same_latent_space",
]


def load_t2i(
    source: Any,
    *,
    dtype: torch.dtype = torch.float32,
    lora: Sequence[Lora] | Source = (),
    textual_inversion: Sequence[TextualInversion] | Source = (),
    config: Source | None = None,
    **hub: Any,
) -> Any:
    """Load a text-to-image pipeline of the Stable Diffusion family.

    Args:
        source: an already built pipeline, which is given back as it is; a diffusers folder; a
            single `.safetensors` file in the original (LDM) layout; or a hub id.
        dtype: of all networks.
        lora: `.safetensors` files in PEFT or kohya format, each alone or as `(path, scale)`.
        textual_inversion: `.safetensors` files, each alone or as `(path, token)`.
        config: for a single file: a folder (or hub id) with the configurations of the components
            and the tokenizer, such as any diffusers folder of the same family. Without it,
            diffusers asks the hub for them.
        hub: further arguments of `from_pretrained`, such as `revision`, `token`, `cache_dir`,
            `variant`.

    Returns:
        A `StableDiffusionPipeline` without safety checker, or `source` itself.

    Raises:
        CheckpointError: the source is missing, a pickle, damaged or of another kind; or an add-on
            does not fit.
    """
    if not isinstance(source, (str, os.PathLike)):
        _require_image_network(source)
        if lora or textual_inversion:
            raise CheckpointError(
                f"{type(source).__name__} is already built and is used as it is; put LoRAs and "
                "textual inversions on it yourself (load_lora_weights, load_textual_inversion), "
                "or give the folder it came from"
            )
        return source
    found = locate(source, T2I)
    if isinstance(found, Path) and found.is_file():
        pipeline = image_file(found, dtype, config, hub)
    else:
        pipeline = _image_folder(found, dtype, hub)
    add_textual_inversion(pipeline, textual_inversion)
    add_lora(pipeline, lora)
    return pipeline


def _require_image_network(pipeline: Any) -> None:
    network = getattr(pipeline, "unet", None)
    network = getattr(network, "_orig_mod", network)  # a compiled one
    kinds = {cls.__name__ for cls in type(network).__mro__}
    if "UNet2DConditionModel" not in kinds or getattr(pipeline, "text_encoder_2", None) is not None:
        raise CheckpointError(f"{type(pipeline).__name__} is given as T2I; expected {T2I}")


def _image_folder(source: Path | str, dtype: torch.dtype, hub: Mapping[str, Any]) -> Any:
    from diffusers import StableDiffusionPipeline

    index = index_of(source, **hub)
    named = index.get("_class_name", "something else")
    if _part(index, "unet") != "UNet2DConditionModel" or _part(index, "text_encoder_2"):
        remedy = f"; expected {T2I}"
        if _part(index, "unet") in {"UNet3DConditionModel", "UNetMotionModel"}:
            remedy = "; that is a video model: give it as T2V"
        raise CheckpointError(f"{source} holds a {named}{remedy}")
    if isinstance(source, Path):
        require_weights(source, index, hub.get("variant"))
    pipeline = _from_pretrained(StableDiffusionPipeline, source, dtype, hub, **NO_CHECKER)
    latents = int(pipeline.vae.config.latent_channels)
    require_plain_input(source, int(pipeline.unet.config.in_channels), latents)
    return pipeline


def _part(index: Mapping[str, Any], name: str) -> str | None:
    """The class of a component in a `model_index.json`; None where it is absent or null."""
    entry = index.get(name)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def _from_pretrained(
    cls: Any, source: Path | str, dtype: torch.dtype, hub: Mapping[str, Any], **more: Any
) -> Any:
    local = {"local_files_only": True} if isinstance(source, Path) else {}
    try:
        with quiet_deprecation(), quiet_hub():
            return cls.from_pretrained(
                source, dtype=dtype, use_safetensors=True, **{**hub, **local, **more}
            )
    except Exception as error:  # safetensors, json, torch, diffusers, transformers, the hub
        only = "" if isinstance(source, Path) else " with safetensors weights (never pickles)"
        raise failed(source, f"a {cls.__name__}{only}", error) from error


# --- video ----------------------------------------------------------------------------------------


def load_t2v(
    source: Any,
    *,
    dtype: torch.dtype = torch.float32,
    base: Any = None,
    lora: Sequence[Lora] | Source = (),
    config: Source | None = None,
    **hub: Any,
) -> Any:
    """Load a text-to-video pipeline that shares Stable Diffusion's latents.

    Args:
        source: an already built pipeline, which is given back as it is; a folder or hub id of a
            `TextToVideoSDPipeline` or an `AnimateDiffPipeline`; or a motion adapter: a folder or
            hub id of a `MotionAdapter`, or a single `.safetensors` file of one.
        dtype: of all networks; a motion adapter on an already built base takes the base's.
        base: the image model a motion adapter moves, a pipeline or a source for `load_t2i`; whole
            video pipelines do not need it. A pipeline is not changed: its VAE and tokenizer are
            shared, its text encoder too unless there are LoRAs; LoRAs it has are left behind. The
            schedule is AnimateDiff's own: DDIM with linear betas.
        lora: `.safetensors` files, each alone or as `(path, scale)`, such as an LCM LoRA. A
            `UNet3DConditionModel` takes none: diffusers cannot put them there.
        config: for a base in a single file, see `load_t2i`.
        hub: further arguments of `from_pretrained`.

    Raises:
        CheckpointError: as `load_t2i`; a motion adapter without a base that fits it.
    """
    if not isinstance(source, (str, os.PathLike)):
        _require_video_network(source)
        if lora:
            raise CheckpointError(
                f"{type(source).__name__} is already built and is used as it is; put LoRAs on it "
                "yourself (load_lora_weights), or give the folder it came from"
            )
        return source
    found = locate(source, T2V)
    is_file = isinstance(found, Path) and found.is_file()
    index = {"_class_name": "MotionAdapter"} if is_file else index_of(found, **hub)
    if index.get("_class_name") == "MotionAdapter":
        adapter = _motion_adapter(found, dtype, hub)
        pipeline = _animate(source, adapter, _base(source, base, dtype, config, hub), bool(lora))
    else:
        pipeline = _video_folder(found, index, dtype, hub)
    add_lora(pipeline, lora)
    return pipeline


def _require_video_network(pipeline: Any) -> None:
    network = getattr(pipeline, "unet", None)
    network = getattr(network, "_orig_mod", network)
    kinds = {cls.__name__ for cls in type(network).__mro__}
    if not kinds & {"UNet3DConditionModel", "UNetMotionModel"}:
        raise CheckpointError(f"{type(pipeline).__name__} is given as T2V; expected {T2V}")


def _video_folder(
    source: Path | str, index: Mapping[str, Any], dtype: torch.dtype, hub: Mapping[str, Any]
) -> Any:
    import diffusers

    named = str(index.get("_class_name"))
    if named not in {"TextToVideoSDPipeline", "AnimateDiffPipeline"}:
        image = _part(index, "unet") == "UNet2DConditionModel" and named != "AnimateDiffPipeline"
        remedy = "; that is an image model: give it as T2I, or as base=" if image else ""
        raise CheckpointError(f"{source} holds a {named}{remedy}; expected {T2V}")
    if isinstance(source, Path):
        require_weights(source, index, hub.get("variant"))
    return _from_pretrained(getattr(diffusers, named), source, dtype, hub)


def _base(
    source: Source, base: Any, dtype: torch.dtype, config: Source | None, hub: Mapping[str, Any]
) -> Any:
    from diffusers import StableDiffusionPipeline

    if base is None:
        raise CheckpointError(
            f"{source} is a motion adapter, which moves an image model; give base=, a Stable "
            "Diffusion 1.5 model as pipeline, folder, .safetensors file or hub id"
        )
    shared = {"token", "cache_dir", "local_files_only"}  # revision and variant are the source's
    ours = {key: value for key, value in hub.items() if key in shared}
    pipeline = load_t2i(base, dtype=dtype, config=config, **ours)
    unet, text = pipeline.unet, pipeline.text_encoder
    if not (hasattr(unet, "peft_config") or hasattr(text, "peft_config")):
        return pipeline
    plain = StableDiffusionPipeline(
        vae=pipeline.vae,
        text_encoder=copy.deepcopy(text),
        tokenizer=pipeline.tokenizer,
        unet=copy.deepcopy(unet),
        scheduler=pipeline.scheduler,
        **NO_CHECKER,
    )
    plain.unload_lora_weights()
    return plain


def _animate(source: Source, adapter: Any, base: Any, copies_text: bool) -> Any:
    from diffusers import AnimateDiffPipeline, DDIMScheduler, UNetMotionModel

    text = base.text_encoder
    try:
        unet = UNetMotionModel.from_unet2d(base.unet, adapter)
    except Exception as error:  # torch and diffusers each have their own
        raise CheckpointError(
            f"{source} does not fit the base ({reason(error)}); use a base of the family it was "
            "made for, usually Stable Diffusion 1.5"
        ) from error
    return AnimateDiffPipeline(
        vae=base.vae,
        text_encoder=copy.deepcopy(text) if copies_text else text,
        tokenizer=base.tokenizer,
        unet=unet.eval(),
        motion_adapter=adapter,
        scheduler=DDIMScheduler.from_config(
            base.scheduler.config,
            beta_schedule="linear",
            clip_sample=False,
            timestep_spacing="linspace",
            steps_offset=1,
        ),
    )


def _motion_adapter(source: Path | str, dtype: torch.dtype, hub: Mapping[str, Any]) -> Any:
    from diffusers import MotionAdapter

    if isinstance(source, str) or source.is_dir():
        if isinstance(source, Path):
            require_weights(source, {}, hub.get("variant"))
        return _from_pretrained(MotionAdapter, source, dtype, hub)
    return motion_file(source, dtype)
