"""Pipelines as ways to make the frames of a stretch larger; see `elevator.upscale.Upscaler`.

`ClipUpscaler` is `VideoUpscalePipeline`. `PipelineUpscaler` needs no training: it takes an image
upscaler or an image-to-image pipeline of diffusers frame by frame and holds the frames together,
by cross-frame attention, noise that all frames share, and propagation of their clean estimates.
"""

import inspect
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from elevator.attach import check
from elevator.errors import CheckError, CheckpointError
from elevator.hosts.sources import failed, index_of, locate, require_weights
from elevator.models import CrossFrameAttention
from elevator.pipelines.clip_upscaler import ClipUpscaler
from elevator.pipelines.identity import denoising_network, weights_fingerprint
from elevator.pipelines.pipeline_upscaler import PipelineUpscaler, still
from elevator.pipelines.published_tree import is_published
from elevator.pipelines.video_upscale import VideoUpscalePipeline
from elevator.recipes import upscale_a_video

__all__ = ["ClipUpscaler", "PipelineUpscaler", "load_upscaler"]

Source = str | PathLike[str]


def load_upscaler(
    source: Source,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    hub: Mapping[str, Any] | None = None,
    video_vae: bool | None = None,
    **settings: Any,
) -> ClipUpscaler | PipelineUpscaler:
    """What a folder or hub id holds, as an upscaler.

    A saved `VideoUpscalePipeline` or the published tree of Upscale-A-Video becomes a
    `ClipUpscaler`; an image upscaler, an image-to-image pipeline or a text-to-image pipeline, as
    image-to-image, a `PipelineUpscaler`. Where the pipeline's solver cannot follow a replaced
    latent, DDIM takes its place; networks that cannot be inflated are not.

    Args:
        source: a diffusers folder, the published tree, or a hub id.
        device: where to compute.
        dtype: of the weights; a `ClipUpscaler`'s autoencoder stays float32.
        hub: further arguments of `from_pretrained`, such as `revision` or `cache_dir`.
        video_vae: of the published tree, whether to take the autoencoder that is conditioned on the
            low-resolution frames, which the preset `animation` is meant with; None is the plain
            one. All else has the autoencoder that it was saved with.
        settings: attributes of the upscaler.

    Raises:
        CheckpointError: it cannot be loaded, or is no upscaler.
        CheckError: the settings do not fit it.
    """
    hub, tree = dict(hub or {}), Path(source)
    if is_published(tree):
        published = VideoUpscalePipeline.from_published(
            tree, video_vae=bool(video_vae), dtype=dtype
        )
        weights = weights_fingerprint(published)
        return ClipUpscaler(published.to(device), weights, **settings)
    if video_vae is not None:
        raise CheckError(
            [
                f"video_vae={video_vae} chooses between the autoencoders of the published tree, "
                f"which {source} is not; leave it out"
            ]
        )
    found = locate(source, "a diffusers pipeline, as a folder or hub id")
    index = index_of(found, **hub)
    if index.get("_class_name") == VideoUpscalePipeline.__name__:
        saved = VideoUpscalePipeline.from_pretrained(found, dtype=dtype, **hub)
        weights = weights_fingerprint(saved)
        return ClipUpscaler(saved.to(device), weights, **settings)
    pipeline = _image_pipeline(found, index, dtype, hub)
    weights = weights_fingerprint(pipeline)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    made = {
        "inflate": not list(CrossFrameAttention().check(denoising_network(pipeline))),
        **settings,
    }
    _make_renoisable(pipeline)
    return PipelineUpscaler(pipeline, weights, **made)


def _image_pipeline(
    found: Path | str, index: Mapping[str, Any], dtype: torch.dtype, hub: dict[str, Any]
) -> Any:
    """A pipeline that takes images."""
    from diffusers import AutoPipelineForImage2Image, DiffusionPipeline

    if isinstance(found, Path):
        require_weights(found, index, hub.get("variant"))
        hub = {**hub, "local_files_only": True}
    if "safety_checker" in index:
        hub |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            found, dtype=dtype, use_safetensors=True, **hub
        )
    except Exception as error:  # safetensors, json, torch, diffusers, transformers, the hub
        raise failed(found, "a diffusers pipeline", error) from error
    if "image" in inspect.signature(type(pipeline).__call__).parameters:
        return pipeline
    try:
        return AutoPipelineForImage2Image.from_pipe(pipeline)
    except ValueError as error:
        raise CheckpointError(
            f"{found} holds a {type(pipeline).__name__}, which can take no image; give an image "
            "upscaler, an image-to-image or a text-to-image pipeline"
        ) from error


def _make_renoisable(pipeline: Any) -> None:
    """Put DDIM in where propagation could not replace a latent."""
    from diffusers import DDIMScheduler

    hook = upscale_a_video(still(2), (0,)).hook
    if check(pipeline, hook, frames=2) and "beta_schedule" in pipeline.scheduler.config:
        pipeline.scheduler = DDIMScheduler.from_config(
            pipeline.scheduler.config, clip_sample=False, set_alpha_to_one=False
        )
