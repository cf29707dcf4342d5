"""Image upscalers and image-to-image pipelines of diffusers, on the frames of a stretch."""

import inspect
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, pad

from elevator.attach import attach, check
from elevator.errors import CheckError
from elevator.filters import DIS, Flow, FlowEstimator
from elevator.models import CrossFrameAttention
from elevator.patch import Patch
from elevator.pipelines.identity import computed_on, name_of, parts_of, weights_fingerprint
from elevator.pipelines.motion import flow_beside
from elevator.recipes import UPSCALE_PRESETS, upscale_a_video
from elevator.video.windows import blend, spans

__all__ = ["PipelineUpscaler", "still"]

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
        flow: estimator for propagation; on the CPU it works beside the steps before.
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
        if "image" not in self._takes or "frames" in self._takes:
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
            hook = upscale_a_video(still(self.chunk), self._indices).hook
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
        motion: AbstractContextManager[Flow | Future[Flow]] = nullcontext(still(count))
        if indices:
            motion = flow_beside(2 * frames.float().transpose(0, 1)[None] - 1, self.flow)
        with (
            motion as flow,
            attach(
                self.pipeline,
                upscale_a_video(flow, indices).hook,
                self._patches,
                frames=count,
            ),
        ):
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
            "weights": self.weights or weights_fingerprint(self.pipeline),
            "parts": parts_of(self.pipeline),
            "propagate": list(self._indices),
            "flow": name_of(self.flow),
            "computed": computed_on(self.pipeline),
            **{name: getattr(self, name) for name in names},
        }


def still(frames: int) -> Flow:
    """The flow of a clip that stands still, to ask whether propagation can run at all."""
    return Flow(*(torch.zeros(1, 2, frames - 1, 1, 1) for _ in range(2)))


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
