"""Pipelines as ways to make the frames of a stretch larger; see `elevator.upscale.Upscaler`.

`ClipUpscaler` is `VideoUpscalePipeline`. `PipelineUpscaler` needs no training: it takes an image
upscaler or an image-to-image pipeline of diffusers frame by frame and holds the frames together,
by cross-frame attention, noise that all frames share, and propagation of their clean estimates.
"""

import hashlib
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from elevator.attach import attach, check
from elevator.errors import CheckError, CheckpointError
from elevator.filters import DIS, Flow, FlowEstimator
from elevator.hosts.sources import failed, index_of, locate, require_weights
from elevator.models import CrossFrameAttention
from elevator.patch import Patch
from elevator.pipelines.video_upscale import VideoUpscalePipeline
from elevator.recipes import UPSCALE_PRESETS, upscale_a_video, upscale_preset_for
from elevator.video.windows import blend, spans

__all__ = ["ClipUpscaler", "PipelineUpscaler", "load_upscaler"]

Source = str | PathLike[str]

_UPSCALERS = {
    "StableDiffusionUpscalePipeline": None,
    "StableDiffusionLatentUpscalePipeline": 2,
}
"""Image upscalers, and how many times larger they make a picture; None: their autoencoder's factor.

A list, since other pipelines that take an image, such as those that edit one, look the same."""
_NEEDS_MORE = ("mask_image", "control_image", "image_2")
"""Pictures beside the first one that some pipelines with a `strength` cannot do without."""


@final
@dataclass(frozen=True)
class ClipUpscaler:
    """Stretches of a clip by `VideoUpscalePipeline`, noise by absolute frame.

    Text is encoded once, for the first stretch. Flow is estimated once a stretch, before its first
    step, on which all of them would wait: beside them it is a fraction of one.

    Attributes:
        pipeline: where its networks lie is where they compute.
        weights: SHA-256 of its weights; taken when asked for its identity where it is empty.
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
    _text: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

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
            **{**self.settings, **self._encoded()},
        )
        return made[0][0].to(frames)

    def _encoded(self) -> Mapping[str, Tensor]:
        """The prompts as embeddings, where they were not given as such."""
        told = self.settings
        if told.get("prompt_embeds") is not None or told.get("negative_prompt_embeds") is not None:
            return {}
        if not self._text:
            names = {"negative_prompt", "guidance_scale", "preset"} & told.keys()
            rows, against = self.pipeline.encode_prompts(
                self.prompt, **{name: told[name] for name in names}
            )
            self._text["prompt_embeds"] = rows
            if against is not None:
                self._text["negative_prompt_embeds"] = against
        return self._text

    def identity(self) -> Mapping[str, object]:
        preset = upscale_preset_for(self.settings.get("preset") or self.pipeline.config.preset)
        return {
            "method": "diffusion",
            "scale": self.scale,
            "weights": self.weights or _fingerprint(self.pipeline),
            "parts": _parts(self.pipeline),
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

    An upscaler, `StableDiffusionUpscalePipeline` or `StableDiffusionLatentUpscalePipeline`, takes
    the frames as they are. An image-to-image pipeline, told by its `strength`, takes them enlarged
    `enlarge` times by bicubic interpolation.

    Attributes:
        pipeline: the frames are its batch.
        weights: SHA-256 of its weights; taken when asked for its identity where it is empty.
        prompt: what the clip shows.
        negative: what to avoid.
        steps: num_inference_steps.
        guidance: guidance_scale.
        noise_level: of an upscaler's low-resolution image; None for the pipeline's own.
        strength: of image-to-image, in (0, 1]: how much is made up.
        enlarge: how many times larger image-to-image makes frames.
        propagate: loop indices of propagation, 0 (noisiest) to `steps` - 1; None for late ones, ()
            for none. Image-to-image runs only the last `strength` of its steps.
        flow: estimator for propagation.
        inflate: let frames attend to the first of their chunk.
        shared: all frames get the same noise; False: each its own, by absolute frame.
        chunk: frames sampled at once.
        overlap: frames that two chunks share and are cross-faded over, less than `chunk`.
        seed: of all noise.

    Raises:
        CheckError: a pipeline that is neither kind, a number out of range, image-to-image without
            a step to run, or a hook that its scheduler or network cannot have.
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
        elif getattr(self.pipeline, "vae", None) is None:
            problems.append(
                f"{type(self.pipeline).__name__} has no autoencoder, whose latents are sampled; "
                "give a latent image upscaler or image-to-image pipeline"
            )
        elif not self.refines and _kind(self.pipeline) is None:
            problems.append(
                f"{type(self.pipeline).__name__} takes an image, but neither enlarges it nor goes "
                f"over it alone with a strength; give {' or '.join(_UPSCALERS)}, or an "
                "image-to-image pipeline"
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
        trained = self.pipeline.scheduler.config.get("num_train_timesteps", self.steps)
        if not 1 <= self.steps <= trained:
            problems.append(f"steps is {self.steps}, but must be from 1 to {trained}")
        if not problems and self.refines:
            problems += self._unreached()
        if not problems:
            hook = upscale_a_video(_still(self.chunk), self._indices).hook
            problems += check(self.pipeline, hook, self._patches, self.chunk, steps=self.steps)
        if problems:
            raise CheckError(problems)

    def _unreached(self) -> Iterator[str]:
        """What of an image-to-image run would be left out, as sentences."""
        first = self._first
        if first == self.steps:
            least = math.ceil(1 / self.strength)
            yield (
                f"image-to-image runs steps x strength of its steps, and {self.steps} x "
                f"{self.strength} is less than one; give {least} steps or more, or a strength of "
                f"at least {math.ceil(100 / self.steps) / 100}"
            )
            return
        early = sorted(index for index in self.propagate or () if 0 <= index < first)
        if early:
            yield (
                f"propagate names steps {early}, but at strength {self.strength} a run of "
                f"{self.steps} has {first} (noisiest) to {self.steps - 1} only; give later ones, "
                "or more strength"
            )

    @property
    def _first(self) -> int:
        """The first step that is run."""
        if not self.refines:
            return 0
        run = min(self.steps * self.strength, self.steps)
        # Pipelines of U-Nets round what is run down; those of transformers what is left out.
        return self.steps - int(run) if hasattr(self.pipeline, "unet") else int(self.steps - run)

    @property
    def _takes(self) -> Mapping[str, Any]:
        return inspect.signature(type(self.pipeline).__call__).parameters

    @property
    def _indices(self) -> tuple[int, ...]:
        if self.propagate is None:
            late = UPSCALE_PRESETS["aigc"].propagate_at(self.steps)
            return tuple(index for index in late if index >= self._first)
        return self.propagate

    @property
    def _patches(self) -> tuple[Patch, ...]:
        return (CrossFrameAttention(),) if self.inflate else ()

    @property
    def refines(self) -> bool:
        """Whether the pipeline goes over frames that are enlarged already."""
        return "strength" in self._takes and not self._takes.keys() & {*_NEEDS_MORE}

    @property
    def scale(self) -> int:
        if self.refines:
            return self.enlarge
        kind = _kind(self.pipeline)
        own = None if kind is None else _UPSCALERS[kind]
        return _factor(self.pipeline) if own is None else own

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
        below, right = (-side % _multiple(self.pipeline) for side in given.shape[2:])
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
            "weights": self.weights or _fingerprint(self.pipeline),
            "parts": _parts(self.pipeline),
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
    hub, tree = dict(hub or {}), Path(source).expanduser()
    if (tree / "unet" / "unet_video_config.json").is_file():
        published = VideoUpscalePipeline.from_published(
            tree, video_vae=bool(video_vae), dtype=dtype
        )
        weights = _fingerprint(published)
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
        weights = _fingerprint(saved)
        return ClipUpscaler(saved.to(device), weights, **settings)
    pipeline = _image_pipeline(found, index, dtype, hub)
    weights = _fingerprint(pipeline)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    made = {"inflate": not list(CrossFrameAttention().check(_network(pipeline))), **settings}
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
    levels = pipeline.vae.config.get("block_out_channels")
    return 2 ** (len(levels) - 1) if levels else int(pipeline.vae_scale_factor)


def _kind(pipeline: Any) -> str | None:
    """Which image upscaler it is, if any, by its class or those it is derived from."""
    names = [one.__name__ for one in type(pipeline).__mro__]
    return next((name for name in names if name in _UPSCALERS), None)


def _multiple(pipeline: Any) -> int:
    """What pipelines cut or stretch the sides of a picture to multiples of."""
    if _kind(pipeline) == "StableDiffusionLatentUpscalePipeline":
        return 64  # its network halves the enlarged latents three times
    processor = getattr(pipeline, "image_processor", None)
    own = processor.config.get("vae_scale_factor") if processor is not None else None
    return math.lcm(own or 1, _factor(pipeline))


def _fingerprint(pipeline: Any) -> str:
    """One SHA-256 over the weights of all networks as they were loaded, wherever from.

    A hub id tells nothing of what it holds, nor a folder of which of its files were read.
    """
    total = hashlib.sha256()
    for part, network in sorted(pipeline.components.items()):
        if not isinstance(network, nn.Module):
            continue
        for name, value in sorted(network.state_dict().items()):
            total.update(f"{part}.{name} {value.dtype} {tuple(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().flatten()
            total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


def _parts(pipeline: Any) -> dict[str, object]:
    """Classes and configurations of the networks and schedulers of diffusers, as JSON holds them.

    They change results with the same weights: how latents are scaled, how many heads there are.
    """
    return {
        part: {"class": type(one).__name__, **_plain(one.config)}
        for part, one in sorted(pipeline.components.items())
        if isinstance(getattr(one, "config", None), Mapping)
    }


def _plain(config: Mapping[str, Any]) -> dict[str, object]:
    """A configuration, as JSON holds it, without notes on where and how it was loaded.

    Those begin with an underscore; one of them lists names in another order in every process.
    """
    return {name: repr(value) for name, value in sorted(config.items()) if name[0] != "_"}


def _name(flow: FlowEstimator) -> str:
    """An estimator of flow by its settings where those are its name, else by its class."""
    text = repr(flow)
    return text if "\n" not in text and " at 0x" not in text else type(flow).__name__


def _computed(pipeline: Any) -> list[str]:
    """Where and in what: results of two devices differ in the last digits."""
    return [torch.device(pipeline.device).type, str(_network(pipeline).dtype)]
