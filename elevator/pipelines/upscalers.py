"""Pipelines as ways to make the frames of a stretch larger; see `elevator.upscale.Upscaler`.

`ClipUpscaler` is `VideoUpscalePipeline`. `PipelineUpscaler` needs no training: it takes an image
upscaler or an image-to-image pipeline of diffusers frame by frame and holds the frames together,
by cross-frame attention, noise that all frames share, and propagation of their clean estimates.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, pad

from elevator.attach import attach, check
from elevator.errors import CheckError, CheckpointError
from elevator.filters import DIS, Flow, FlowEstimator
from elevator.hosts.sources import failed, fingerprint, index_of, locate, require_weights
from elevator.models import CrossFrameAttention
from elevator.patch import Patch
from elevator.pipelines.video_upscale import VideoUpscalePipeline
from elevator.recipes import UPSCALE_PRESETS, upscale_a_video, upscale_preset_for
from elevator.video.windows import blend, spans

__all__ = ["ClipUpscaler", "PipelineUpscaler", "load_upscaler"]

Source = str | PathLike[str]


@final
@dataclass(frozen=True)
class ClipUpscaler:
    """Stretches of a clip by `VideoUpscalePipeline`, noise by absolute frame.

    Attributes:
        pipeline: where its networks lie is where they compute.
        weights: SHA-256 of its weights.
        prompt: what the clip shows.
        settings: further arguments of the pipeline's call, such as `noise_level`, `propagate`,
            `colour` or `tile`.
        flow: estimator for propagation.
        seed: of all noise.
        fade: frames over which one stretch is cross-faded into the next.
    """

    pipeline: VideoUpscalePipeline
    weights: str = ""
    prompt: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    flow: FlowEstimator = field(default_factory=DIS)
    seed: int = 0
    fade: int = 4

    @property
    def scale(self) -> int:
        return self.pipeline.scale

    @property
    def reach(self) -> int:
        return 0

    def __call__(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int
    ) -> Float[Tensor, "f 3 H W"]:
        made: Any = self.pipeline(
            (2 * frames - 1).transpose(0, 1)[None],
            self.prompt,
            flow=self.flow,
            first_frame=first_frame,
            generator=torch.Generator().manual_seed(self.seed),
            output_type="pt",
            return_dict=False,
            **self.settings,
        )
        return made[0][0].to(frames)

    def identity(self) -> Mapping[str, object]:
        preset = upscale_preset_for(self.settings.get("preset") or self.pipeline.config.preset)
        return {
            "method": "diffusion",
            "scale": self.scale,
            "weights": self.weights,
            "scheduler": _plain(self.pipeline.scheduler.config),
            "preset": repr(preset),
            "prompt": self.prompt,
            "settings": {name: repr(value) for name, value in sorted(self.settings.items())},
            "flow": _name(self.flow),
            "seed": self.seed,
            "fade": self.fade,
            "computed": _computed(self.pipeline),
        }


@final
@dataclass(frozen=True)
class PipelineUpscaler:
    """Frames by any image upscaler or image-to-image pipeline of diffusers, held together.

    An upscaler, such as `StableDiffusionUpscalePipeline`, takes the frames as they are. An
    image-to-image pipeline takes them enlarged `enlarge` times by bicubic interpolation.

    Attributes:
        pipeline: the frames are its batch.
        weights: SHA-256 of its weights.
        prompt: what the clip shows.
        negative: what to avoid.
        steps: num_inference_steps.
        guidance: guidance_scale.
        noise_level: of an upscaler's low-resolution image; None for the pipeline's own.
        strength: of image-to-image, in (0, 1]: how much is made up.
        enlarge: how many times larger image-to-image makes frames.
        propagate: loop indices of propagation, 0 (noisiest) to `steps` - 1; None for late ones, ()
            for none.
        flow: estimator for propagation.
        inflate: let frames attend to the first of their chunk.
        shared: all frames get the same noise; False: each its own, by absolute frame.
        chunk: frames sampled at once.
        overlap: frames that two chunks share and are cross-faded over, less than `chunk`.
        seed: of all noise.

    Raises:
        CheckError: a pipeline that takes no image, a number out of range, or a hook that its
            scheduler or network cannot have.
    """

    pipeline: Any
    weights: str = ""
    prompt: str = ""
    negative: str = ""
    steps: int = 30
    guidance: float = 6.0
    noise_level: int | None = None
    strength: float = 0.3
    enlarge: int = 4
    propagate: tuple[int, ...] | None = None
    flow: FlowEstimator = field(default_factory=DIS)
    inflate: bool = True
    shared: bool = True
    chunk: int = 8
    overlap: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the pipeline and the numbers."""
        problems = []
        if "image" not in self._takes:
            problems.append(
                f"{type(self.pipeline).__name__} takes no image; give an image upscaler or an "
                "image-to-image pipeline (AutoPipelineForImage2Image.from_pipe makes one)"
            )
        if not 0 <= self.overlap < self.chunk:
            problems.append(
                f"chunks of {self.chunk} frames cannot share {self.overlap}; give overlap from 0 "
                f"to {self.chunk - 1}"
            )
        if self.enlarge < 1:
            problems.append(f"enlarge is {self.enlarge}, but must be at least 1")
        if not 0 < self.strength <= 1:
            problems.append(f"strength is {self.strength}, but must be above 0 and at most 1")
        if not problems:
            hook = upscale_a_video(_still(self.chunk), self._indices).hook
            problems += check(self.pipeline, hook, self._patches, self.chunk, steps=self.steps)
        if problems:
            raise CheckError(problems)

    @property
    def _takes(self) -> Mapping[str, Any]:
        return inspect.signature(type(self.pipeline).__call__).parameters

    @property
    def _indices(self) -> tuple[int, ...]:
        if self.propagate is None:
            return UPSCALE_PRESETS["aigc"].propagate_at(self.steps)
        return self.propagate

    @property
    def _patches(self) -> tuple[Patch, ...]:
        return (CrossFrameAttention(),) if self.inflate else ()

    @property
    def refines(self) -> bool:
        """Whether the pipeline goes over frames that are enlarged already."""
        return "strength" in self._takes

    @property
    def scale(self) -> int:
        return self.enlarge if self.refines else _factor(self.pipeline)

    @property
    def reach(self) -> int:
        return 0

    @property
    def fade(self) -> int:
        return self.overlap

    def __call__(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int
    ) -> Float[Tensor, "f 3 H W"]:
        plan = spans(len(frames), self.chunk, self.overlap)

        def parts() -> Iterator[Tensor]:
            for span in plan:
                yield self._chunk(frames[span.start : span.stop], first_frame + span.start)

        return torch.cat([*blend(parts(), plan, 0)]).to(frames)

    def _chunk(self, frames: Float[Tensor, "f 3 h w"], first: int) -> Float[Tensor, "f 3 H W"]:
        count, size = len(frames), [self.scale * side for side in frames.shape[2:]]
        given = frames.float()
        if self.refines:
            given = interpolate(given, size, mode="bicubic", antialias=True).clamp(0, 1)
        # Pipelines cut sides to multiples of their autoencoder's factor.
        below, right = (-side % _factor(self.pipeline) for side in given.shape[2:])
        given = pad(given, (0, right, 0, below), mode="replicate")
        indices = self._indices if count > 1 else ()
        moves = _still(count)
        if indices:
            moves = self.flow(2 * frames.float().transpose(0, 1)[None] - 1)
        seeds = [self.seed + (0 if self.shared else first + place) for place in range(count)]
        optional: dict[str, Any] = {
            "strength": self.strength,
            "noise_level": self.noise_level,
            "negative_prompt": [self.negative] * count,
        }
        more = {
            name: value
            for name, value in optional.items()
            if name in self._takes and value is not None
        }
        hook = upscale_a_video(moves, indices).hook
        with attach(self.pipeline, hook, self._patches, frames=count):
            made = self.pipeline(
                prompt=[self.prompt] * count,
                image=given,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
                **more,
            ).images
        return made[:, :, : size[0], : size[1]].float().to(frames.device)

    def identity(self) -> Mapping[str, object]:
        names = (
            *("prompt", "negative", "steps", "guidance", "noise_level", "strength"),
            *("inflate", "shared", "chunk", "overlap", "seed"),
        )
        return {
            "method": "pipe",
            "pipeline": type(self.pipeline).__name__,
            "scale": self.scale,
            "weights": self.weights,
            "scheduler": _plain(self.pipeline.scheduler.config),
            "propagate": list(self._indices),
            "flow": _name(self.flow),
            "computed": _computed(self.pipeline),
            **{name: getattr(self, name) for name in names},
        }


def load_upscaler(
    source: Source,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    hub: Mapping[str, Any] | None = None,
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
        dtype: of the weights.
        hub: further arguments of `from_pretrained`, such as `revision` or `cache_dir`.
        settings: attributes of the upscaler.

    Raises:
        CheckpointError: it cannot be loaded, or is no upscaler.
        CheckError: the settings do not fit it.
    """
    hub, tree = dict(hub or {}), Path(source).expanduser()
    if (tree / "unet" / "unet_video_config.json").is_file():
        published = VideoUpscalePipeline.from_published(tree, dtype=dtype).to(device)
        return ClipUpscaler(published, _hash(tree), **settings)
    found = locate(source, "a diffusers pipeline, as a folder or hub id")
    index = index_of(found, **hub)
    if index.get("_class_name") == VideoUpscalePipeline.__name__:
        saved = VideoUpscalePipeline.from_pretrained(found, dtype=dtype, **hub).to(device)
        return ClipUpscaler(saved, fingerprint(source) or "", **settings)
    pipeline = _image_pipeline(found, index, dtype, hub).to(device)
    pipeline.set_progress_bar_config(disable=True)
    made = {"inflate": not list(CrossFrameAttention().check(_network(pipeline))), **settings}
    _make_renoisable(pipeline)
    return PipelineUpscaler(pipeline, fingerprint(source) or "", **made)


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

    hook = upscale_a_video(_still(2), (0,)).hook
    if check(pipeline, hook, frames=2) and "beta_schedule" in pipeline.scheduler.config:
        pipeline.scheduler = DDIMScheduler.from_config(
            pipeline.scheduler.config, clip_sample=False, set_alpha_to_one=False
        )


def _still(frames: int) -> Flow:
    """The flow of a clip that stands still, to ask whether propagation can run at all."""
    return Flow(*(torch.zeros(1, 2, frames - 1, 1, 1) for _ in range(2)))


def _network(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def _factor(pipeline: Any) -> int:
    """Pixels along a side of a latent pixel."""
    return 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


def _hash(root: Path) -> str:
    """One SHA-256 over the files of the published tree, by name and content."""
    import hashlib

    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            one = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(root).as_posix()} {one}\n".encode())
    return total.hexdigest()


def _plain(config: Mapping[str, Any]) -> dict[str, object]:
    """A scheduler's configuration, as JSON holds it."""
    return {name: repr(value) for name, value in sorted(config.items()) if name != "_name_or_path"}


def _name(flow: FlowEstimator) -> str:
    """An estimator of flow by its settings where those are its name, else by its class."""
    text = repr(flow)
    return text if "\n" not in text and " at 0x" not in text else type(flow).__name__


def _computed(pipeline: Any) -> list[str]:
    """Where and in what: results of two devices differ in the last digits."""
    return [torch.device(pipeline.device).type, str(_network(pipeline).dtype)]
