"""Ways to make a small clip larger, held-out clips to try them on, and what they are judged by.

Clips are `f c h w` in [0, 1]. Half of the held-out ones show the world, with combinations of words
and seeds that no training had, three eighths dead leaves and one eighth 1/f noise.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from skimage.measure import blur_effect
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks._arrangements import Way, way
from benchmarks._rows import Rows
from elevator import metrics, world, zoo
from elevator.filters import DIS, Flow, adain, consistent, wavelet
from elevator.models.temporal_attention import TemporalAttention
from elevator.models.temporal_blocks import TemporalModule, TemporalResnet
from elevator.noise import KeyedNoise
from elevator.recipes import UpscalePreset, upscale_a_video
from elevator.upscale import Bicubic, Lanczos, Regression
from elevator.zoo.recogniser import Recogniser, perceptual_distance

__all__ = [
    "CHAIN",
    "CHANGED",
    "NUMBERS",
    "RIVALS",
    "Judge",
    "Sample",
    "Trial",
    "Upscalers",
    "conversed",
    "without",
]

SCALE = 4
APART = 2**41
"""Seeds from here on: trainings draw theirs below 2^40."""
NUMBERS = UpscalePreset(noise_level=20, guidance=1.0, steps=10, propagate=(8, 9))
"""Those of the preset `world`, which small networks need: the published guidance is too strong for
them. Propagation is at the steps of the preset `aigc`."""
ALL = tuple(range(NUMBERS.steps))
CONVOLUTIONS, ATTENTION = (TemporalModule, TemporalResnet), (TemporalAttention,)
"""What the temporal U-Net has that an image network does not."""


@dataclass(frozen=True)
class Sample:
    """A held-out clip.

    Attributes:
        truth: as it was.
        small: a quarter of it along each side, worn, in steps of 1/255 as files have them.
        caption: what it shows; empty for leaves and noise.
        wrong: a caption of something else.
        flow: motion in the truth: exact in the world, as DIS sees it in leaves and noise.
        seen: where that motion leads to what can be seen: exact in the world, else where the flow's
            two ways are consistent.
    """

    truth: Float[Tensor, "f 3 h w"]
    small: Float[Tensor, "f 3 hs ws"]
    caption: str
    wrong: str
    flow: Flow
    seen: Bool[Tensor, "e h w"]


@dataclass(frozen=True)
class Trial:
    """Held-out clips by number.

    Attributes:
        seed: of what they show and how they are worn.
        frames: frames of each.
        size: height and width of the truth.
    """

    seed: int = 0
    frames: int = 8
    size: int = 128

    def sample(self, number: int) -> Sample:
        """A clip, always the same."""
        return _sample(self, number)

    def fingerprint(self, count: int) -> str:
        """SHA-256 of the first small clips, in bytes."""
        told = sha256()
        for number in range(count):
            told.update((self.sample(number).small * 255).round().byte().numpy().tobytes())
        return told.hexdigest()


@lru_cache(maxsize=64)
def _sample(trial: Trial, number: int) -> Sample:
    """See `Trial.sample`."""
    seed = APART + 10**6 * trial.seed + number
    drawn: dict[str, Any] = {"frames": trial.frames, "size": trial.size, "seed": seed}
    scene, other = (world.draw(1, seed=s, split="held-out")[0] for s in (seed, seed + 10**5))
    if number % 2:
        clip = (world.noise if number % 8 == 7 else world.leaves)(1, **drawn)
        flow, caption = DIS()(clip * 2 - 1), ""
        there, back = (part[0].transpose(0, 1) for part in flow)
        seen = consistent(there, back)[:, 0]
    else:
        clip = world.render([scene], **drawn).transpose(1, 2)
        ways = (world.flow([scene], **drawn, backward=back) for back in (False, True))
        flow = Flow(*(way.transpose(1, 2) for way in ways))
        seen, caption = ~world.occlusion([scene], **drawn)[0], scene.caption()
    small = (world.shrink(clip, SCALE, seed=seed) * 255).round() / 255
    truth, low = (x[0].transpose(0, 1).contiguous() for x in (clip, small))
    return Sample(truth, low, caption, other.caption(), flow, seen)


@dataclass(frozen=True)
class Upscalers:
    """The built-in models that enlarge clips, loaded when they are first asked for.

    Attributes:
        numbers: of sampling.
        half: compute in bfloat16 where that is safe: in half the time on processors that have it.
        device: where the diffusion upscaler computes.
        made: clips that are made once and needed more often.
    """

    numbers: UpscalePreset = NUMBERS
    half: bool = False
    device: str = "cpu"
    made: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def pipe(self) -> Any:
        """The diffusion upscaler."""
        pipe: Any = zoo.load_upscaler("upscaler")
        pipe.to(self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def regression(self) -> Regression:
        """The regression upscaler."""
        return Regression.load(zoo.path(f"upscale-x{SCALE}"))


@contextmanager
def without(network: nn.Module, kinds: Sequence[type[nn.Module]]) -> Iterator[None]:
    """A network as if its temporal layers of some kinds were not there."""

    def skip(layer: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor:
        """What the layer would say if it were as neutral as when it was made."""
        return torch.zeros_like(made) if isinstance(layer, TemporalAttention) else given[0]

    layers = [layer for layer in network.modules() if isinstance(layer, tuple(kinds))]
    handles = [layer.register_forward_hook(skip) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def interpolated(models: Upscalers, sample: Sample, seed: int, *, kernel: str) -> Tensor:
    """Without a network."""
    upscale = Bicubic(SCALE) if kernel == "bicubic" else Lanczos(SCALE)
    return upscale(sample.small, 0).clamp(0, 1)


def regressed(models: Upscalers, sample: Sample, seed: int) -> Tensor:
    """By the network that gives the mean of what a frame may have been."""
    return models.regression(sample.small, 0).clamp(0, 1)


def conversed(
    models: Upscalers,
    sample: Sample,
    seed: int,
    *,
    lacks: Sequence[type[nn.Module]] = (),
    masked: bool = True,
    prompt: str = "own",
    **changes: Any,
) -> Tensor:
    """By the diffusion upscaler; all ways draw the same noise.

    Args:
        models: the models.
        sample: the clip.
        seed: of the noise.
        lacks: temporal layers that are skipped.
        masked: propagate only where the flow is trusted.
        prompt: `own`, `none` or `wrong`.
        **changes: arguments of the pipeline.
    """
    numbers = models.numbers
    words = {"own": sample.caption, "none": "", "wrong": sample.wrong}[prompt]
    low = (sample.small * 2 - 1).transpose(0, 1)[None]
    steps = changes.get("num_inference_steps", numbers.steps)
    wanted = changes.pop("propagate", numbers.propagate_at(steps))
    propagate, hook = tuple(index for index in wanted if index < steps), None
    if not masked:
        hook, propagate = upscale_a_video(DIS()(low), propagate, alpha2=math.inf).hook, ()
    half = torch.autocast(torch.device(models.device).type, torch.bfloat16, enabled=models.half)
    with half, without(models.pipe.unet, lacks):
        made = models.pipe(
            low,
            words,
            preset=numbers,
            propagate=propagate,
            hook=hook,
            noise=KeyedNoise((seed,)),
            output_type="pt",
            **changes,
        )
    return made.frames[0].cpu()


def upscaled(models: Upscalers, sample: Sample, seed: int, *, colour: str = "none") -> Tensor:
    """By the method as it is, with its clip's colours corrected or not; it samples once for all."""
    key = f"{seed} {sha256(sample.small.numpy().tobytes()).hexdigest()}"
    if key not in models.made:
        models.made[key] = conversed(models, sample, seed)
    plain = models.made[key]
    if colour == "none":
        return plain
    size = plain.shape[2:]
    reference = interpolate(sample.small * 2 - 1, size, mode="bicubic")
    correct = adain if colour == "adain" else wavelet
    return (correct(plain * 2 - 1, reference) / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Judge:
    """Compares clips with their truths.

    Attributes:
        reader: whose activations tell how different frames look.
    """

    reader: Recogniser = field(default_factory=zoo.load_recogniser)

    def rows(self, clips: Sequence[Tensor] | Tensor, samples: Sequence[Sample]) -> Rows:
        """Measures of every clip.

        Returns:
            `PSNR` in dB; `SSIM`; `distance`, `perceptual_distance`; `warping`, 1000 times the
            warping error along the true motion; `sharpness` as a part of the truth's; `flicker`,
            1000 times the mean absolute error of the difference of neighbouring frames: what
            changes beside what does change; `blur`, which looks at no truth, from 0 (sharp) to 1
            (Crete et al. 2007, "The blur effect"), for information; `captioned`, 1 or 0.
        """
        measured = [self._measure(c, s) for c, s in zip(clips, samples, strict=True)]
        return {name: np.array([one[name] for one in measured]) for name in measured[0]}

    def _measure(self, clip: Tensor, sample: Sample) -> dict[str, float]:
        truth = sample.truth
        sharp, true = (float(metrics.sharpness(x).mean()) for x in (clip, truth))
        grey = clip.mean(1).double().numpy()
        return {
            "PSNR": metrics.psnr(clip, truth),
            "SSIM": metrics.ssim(clip, truth),
            "distance": perceptual_distance(self.reader, clip, truth),
            "warping": 1e3 * metrics.warping_error(clip, sample.flow, sample.seen),
            "sharpness": sharp / true,
            "flicker": 1e3 * float((clip.diff(dim=0) - truth.diff(dim=0)).abs().mean()),
            "blur": float(np.mean([blur_effect(frame) for frame in grey])),
            "captioned": float(bool(sample.caption)),
        }


RIVALS: Mapping[str, Way] = MappingProxyType(
    {
        "bicubic": way(interpolated, kernel="bicubic"),
        "Lanczos, sharpened": way(interpolated, kernel="lanczos"),
        "regression": way(regressed),
    }
)
"""What else enlarges a clip, in no time."""
CHAIN: Mapping[str, Way] = MappingProxyType(
    {
        "frames alone": way(
            conversed, lacks=CONVOLUTIONS + ATTENTION, decode_chunk_size=1, propagate=()
        ),
        "+ 3-D convolutions": way(conversed, lacks=ATTENTION, propagate=()),
        "+ temporal attention": way(conversed, propagate=()),
        "+ propagation": way(upscaled),
    }
)
"""The method, from an image upscaler on frames up to all of it."""
CHANGED: Mapping[str, Way] = MappingProxyType(
    {
        "windows of one frame": way(conversed, window=1, overlap=0, decode_chunk_size=1),
        "without the mask": way(conversed, masked=False),
        "propagation at all steps": way(conversed, propagate=ALL),
        "at all steps, without the mask": way(conversed, propagate=ALL, masked=False),
        "plain autoencoder": way(conversed, strength=0.0),
        "AdaIN colours": way(upscaled, colour="adain"),
        "wavelet colours": way(upscaled, colour="wavelet"),
        **{f"noise level {n}": way(conversed, noise_level=n) for n in (60, 120, 200)},
        "without prompt": way(conversed, prompt="none"),
        "wrong prompt": way(conversed, prompt="wrong"),
        "guidance 6": way(conversed, guidance_scale=6.0),
        "guidance 6, without prompt": way(conversed, guidance_scale=6.0, prompt="none"),
    }
)
"""The method with one part changed; its noise level is 20, and it is not guided."""
