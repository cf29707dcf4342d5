"""Ways to make a clip of a caption with the built-in models: VideoElevator, its parts, its rivals.

Every arrangement is a function of the models, a scene and a seed; clips are `f c h w` in [0, 1].
The rivals get as many frame-forwards of U-Nets as VideoElevator.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

import elevator as el
from elevator import world
from elevator.filters import MotionAverage
from elevator.models.inflate import CrossFrameAttention
from elevator.recipes import PRESETS, Preset
from elevator.samplers import DDIMInversion, mixed_noise
from elevator.world.degrade import blur
from elevator.zoo.sampling import NUMBERS, STYLED, as_clip, elevate, film, paint, pair

__all__ = [
    "ABLATIONS",
    "CURVE",
    "INVERSIONS",
    "INVERTED",
    "MAIN",
    "MATCHED",
    "OTHERS",
    "PUBLISHED",
    "RESTYLED",
    "RIVALS",
    "Models",
    "Way",
    "way",
]

Clip: TypeAlias = Float[Tensor, "f c h w"]
INVERTED = PRESETS["world-inverted"]
"""VideoElevator on the built-in models with the published inversion."""
WHOLE = replace(NUMBERS, keep_detail=None)
"""VideoElevator on the built-in models with the T2V's frames taken whole, as published."""


@dataclass(frozen=True)
class Models:
    """The built-in models, loaded when they are first asked for, and the numbers of a run.

    Attributes:
        steps: sampling steps; fewer than the preset's for a run that only shows it works.
        loaded: pairs of models by their names.
    """

    steps: int = NUMBERS.steps
    loaded: dict[tuple[str, str], Any] = field(default_factory=dict)

    def pipe(self, t2i: str = "t2i", t2v: str = "t2v") -> Any:
        """A T2I and a T2V as one pipeline."""
        if (t2i, t2v) not in self.loaded:
            self.loaded[t2i, t2v] = pair(t2i, t2v)
        return self.loaded[t2i, t2v]

    @property
    def numbers(self) -> Preset:
        """The built-in models' preset, cut to `steps`."""
        return self.cut(NUMBERS)

    def cut(self, numbers: Preset) -> Preset:
        """A preset of a full run, cut to `steps`."""
        if self.steps == numbers.steps:
            return numbers
        refine, steady = numbers.refine_at(self.steps), numbers.steady_at(self.steps)
        return replace(numbers, steps=self.steps, refine=refine, steady=steady, t2v_steps=1)

    def calls(self) -> int:
        """Guided U-Net calls that cost as much as VideoElevator's, T2I and T2V together."""
        planned = self.pipe().plan("", preset=replace(self.numbers, steady=()))
        return round(planned.frame_forwards() / self.numbers.frames / 2)


@dataclass(frozen=True)
class Way:
    """One arrangement: a function and what it is given beside models, subject and seed."""

    make: Callable[..., Clip]
    given: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, models: Any, subject: Any, seed: int) -> Clip:
        """The clip of a scene, or of whatever it is made from."""
        return self.make(models, subject, seed, **self.given)

    def __str__(self) -> str:
        """Everything that tells it from other arrangements."""
        given = {k: getattr(v, "__name__", v) for k, v in sorted(self.given.items())}
        return f"{self.make.__name__} {given}"


def way(make: Callable[..., Clip], **given: Any) -> Way:
    """An arrangement, written like a call."""
    return Way(make, MappingProxyType(given))


def elevated(
    models: Models,
    scene: world.Scene,
    seed: int,
    *,
    t2i: str = "t2i",
    t2v: str = "t2v",
    numbers: Preset = NUMBERS,
    **changes: Any,
) -> Clip:
    """VideoElevator, with whatever arguments of the pipeline are given beside."""
    pipe = models.pipe(t2i, t2v)
    return elevate(pipe, scene.caption(), seed, numbers=models.cut(numbers), **changes)


def composed(
    models: Models,
    scene: world.Scene,
    seed: int,
    *,
    rule: str = "fresh",
    inflated: bool = True,
    numbers: Preset = NUMBERS,
) -> Clip:
    """VideoElevator from parts, for what the pipeline has no argument for."""
    pipe, numbers, caption = models.pipe(), models.cut(numbers), scene.caption()
    t2i = pipe.t2i
    invert = el.denoiser(t2i, "", guidance=1)
    recipe = el.recipes.videoelevator(
        el.denoiser(pipe.t2v, caption, guidance=numbers.video_guidance),
        invert,
        preset=replace(numbers, steady=()),
        steps=numbers.steps,
    )
    (refinement,) = recipe.hook.inner()
    rules: dict[str, el.Renoise[Any]] = {
        "fresh": el.FreshNoise(numbers.fresh_noise or 0.0),
        "predicted": el.KeepNoise(),
        "corrected": DDIMInversion(invert, el.denoiser(t2i, caption, guidance=1), reuse=True),
        "uncorrected": DDIMInversion(invert),
    }
    generator = torch.Generator().manual_seed(seed)
    channels, side = t2i.unet.config.in_channels, t2i.unet.config.sample_size
    shape = (1, channels, numbers.frames, side, side)
    noise = mixed_noise(shape, numbers.shared_noise, generator)
    hook = el.renoise(refinement, rules[rule])
    steady = {numbers.steps - left for left in numbers.steady if left not in numbers.refine}
    if steady:
        again = rules[rule] if rule == "fresh" else el.KeepNoise()
        average = el.at(steady, MotionAverage(el.codec(t2i)))
        hook = el.chain(hook, el.renoise(average, again))
    patches = [CrossFrameAttention()] if inflated else []
    with el.attach(t2i, hook, patches, frames=numbers.frames):
        made: Any = t2i(
            [caption] * numbers.frames,
            num_inference_steps=numbers.steps,
            guidance_scale=numbers.guidance,
            latents=rearrange(noise, "1 c f h w -> f c h w"),
            generator=generator,
            output_type="np",
        )
    return as_clip(made.images)


def filmed(models: Models, scene: world.Scene, seed: int, *, t2v: str = "t2v") -> Clip:
    """The T2V alone."""
    return film(models.pipe(t2v=t2v), scene.caption(), seed, numbers=models.numbers)


def sharpened(
    models: Models, scene: world.Scene, seed: int, *, amount: float, radius: float
) -> Clip:
    """The T2V with as many calls, then an unsharp mask; `radius` in pixels."""
    numbers = replace(models.numbers, steps=models.calls())
    clip = film(models.pipe(), scene.caption(), seed, numbers=numbers)
    soft = blur(clip.reshape(-1, 1, *clip.shape[-2:]), radius).reshape(clip.shape)
    return (clip + amount * (clip - soft)).clamp(0, 1)


def repainted(models: Models, scene: world.Scene, seed: int, *, strength: float) -> Clip:
    """The T2V, then image-to-image by the inflated T2I, on noise that all frames share.

    `strength` is how much of the way back to noise that goes, as diffusers counts it.
    """
    from diffusers import StableDiffusionImg2ImgPipeline

    numbers, clip = models.numbers, filmed(models, scene, seed)
    steps = max(2, round((models.calls() - numbers.steps) / strength))
    painter: Any = StableDiffusionImg2ImgPipeline(
        **models.pipe().t2i.components, requires_safety_checker=False
    )
    painter.set_progress_bar_config(disable=True)
    with el.attach(painter, el.identity(), [CrossFrameAttention()], frames=numbers.frames):
        made = painter(
            [scene.caption()] * numbers.frames,
            image=clip,
            strength=strength,
            num_inference_steps=steps,
            guidance_scale=numbers.guidance,
            generator=[torch.Generator().manual_seed(seed) for _ in range(numbers.frames)],
            output_type="np",
        )
    return as_clip(made.images)


def painted(
    models: Models,
    scene: world.Scene,
    seed: int,
    *,
    t2i: str = "t2i",
    numbers: Preset | None = None,
) -> Clip:
    """The T2I frame by frame, by default with as many calls as VideoElevator."""
    numbers = models.cut(numbers) if numbers else replace(models.numbers, steps=models.calls())
    return paint(models.pipe(t2i), scene.caption(), seed, numbers=numbers)


def drawn(models: Models, scene: world.Scene, seed: int, *, look: Any = None) -> Clip:
    """The truth, or what becomes of it in another look."""
    clip = world.render([scene], frames=models.numbers.frames, seed=seed)
    return clip[0] if look is None else look(clip)[0]


def degraded(clips: Tensor) -> Tensor:
    """As `t2v` saw clips."""
    return world.degrade(world.lamp(clips))


def mildly_degraded(clips: Tensor) -> Tensor:
    """As `t2v-mild` saw clips."""
    return world.degrade(world.lamp(clips), world.MILD)


MAIN: Mapping[str, Way] = MappingProxyType(
    {
        "truth": way(drawn),
        "truth, degraded": way(drawn, look=degraded),
        "T2V": way(filmed),
        "VideoElevator": way(elevated),
    }
)
"""The method, and what it starts from."""
MATCHED: Mapping[str, Way] = MappingProxyType(
    {"matched by noise": way(elevated, numbers=replace(NUMBERS, match="snr"))}
)
"""The method with its T2V met at the T2I's ratio of signal to noise."""
INVERSIONS: Mapping[str, Way] = MappingProxyType(
    {
        "VideoElevator, inverted": way(elevated, numbers=INVERTED),
        "VideoElevator, inverted fast": way(elevated, numbers=INVERTED, fast=True),
    }
)
"""The method with the published inversion, and with the cheaper one."""
RIVALS: Mapping[str, Way] = MappingProxyType(
    {
        "T2I frame by frame": way(painted),
        "T2V + unsharp mask": way(sharpened, amount=3.0, radius=1.5),
        "T2V + inflated image-to-image": way(repainted, strength=0.6),
    }
)
"""What else could be done with as many network calls."""
ABLATIONS: Mapping[str, Way] = MappingProxyType(
    {
        "without the filter": way(elevated, lowpass=el.identity()),
        "without the T2V": way(elevated, t2v_steps=0),
        "detail not kept": way(elevated, numbers=WHOLE),
        "not averaged": way(elevated, numbers=replace(NUMBERS, steady=())),
        "without inflation": way(composed, inflated=False),
        "noise of every frame's own": way(elevated, numbers=replace(NUMBERS, fresh_noise=0.0)),
        "the T2I's predicted noise": way(composed, rule="predicted"),
        "inverted at the same points": way(elevated, numbers=replace(NUMBERS, fresh_noise=None)),
    }
)
"""VideoElevator with one part removed or replaced."""
PUBLISHED: Mapping[str, Way] = MappingProxyType(
    {
        "inverted, without the filter": way(elevated, numbers=INVERTED, lowpass=el.identity()),
        "inverted, without the T2V": way(elevated, numbers=INVERTED, t2v_steps=0),
        "inverted, uncorrected": way(composed, rule="uncorrected", numbers=INVERTED),
        "inverted, without inflation": way(
            composed, rule="corrected", inflated=False, numbers=INVERTED
        ),
    }
)
"""The method with the published inversion, with one part removed."""
OTHERS: Mapping[str, Way] = MappingProxyType(
    {
        "truth, mildly degraded": way(drawn, look=mildly_degraded),
        "mild T2V": way(filmed, t2v="t2v-mild"),
        "VideoElevator, mild T2V": way(elevated, t2v="t2v-mild"),
        "truth in ink": way(drawn, look=world.ink),
        "ink T2I frame by frame": way(painted, t2i="t2i-ink", numbers=STYLED),
        "VideoElevator in ink": way(elevated, t2i="t2i-ink", numbers=STYLED),
        "truth in mosaic": way(drawn, look=world.mosaic),
        "mosaic T2I frame by frame": way(painted, t2i="t2i-mosaic", numbers=STYLED),
        "VideoElevator in mosaic": way(elevated, t2i="t2i-mosaic", numbers=STYLED),
    }
)
"""Other models: the T2V that learnt from milder degradation, and the personalised T2Is."""
RESTYLED: Mapping[str, Way] = MappingProxyType(
    {
        "VideoElevator in ink, colours not kept": way(
            elevated, t2i="t2i-ink", numbers=replace(STYLED, keep_colours=False)
        ),
        "VideoElevator in ink, refined five times": way(
            elevated, t2i="t2i-ink", numbers=replace(STYLED, refine=(24, 22, 20, 17, 14))
        ),
        "VideoElevator in mosaic, colours not kept": way(
            elevated, t2i="t2i-mosaic", numbers=replace(STYLED, keep_colours=False)
        ),
        "VideoElevator in mosaic, averaged": way(
            elevated, t2i="t2i-mosaic", numbers=replace(STYLED, steady=NUMBERS.steady)
        ),
    }
)
"""Personalised T2Is with one number changed."""
CURVE: Mapping[str, Way] = MappingProxyType(
    {
        "truth": way(drawn),
        "T2V": way(filmed),
        "VideoElevator": way(elevated),
        **{
            f"refined at {' '.join(map(str, refine))}": way(
                elevated, numbers=replace(NUMBERS, refine=refine)
            )
            for refine in ((24, 20, 16), (24, 18, 14, 10), (24, 18, 12, 8), (16,))
        },
        "4 T2V steps": way(elevated, t2v_steps=4),
        "16 T2V steps": way(elevated, t2v_steps=16),
        "T2I guidance 3": way(elevated, guidance_scale=3.0),
        "T2I guidance 6": way(elevated, guidance_scale=6.0),
        "detail not kept": way(elevated, numbers=WHOLE),
        **{
            f"averaged at {' '.join(map(str, steady)) or 'none'}": way(
                elevated, numbers=replace(NUMBERS, steady=steady)
            )
            for steady in ((), (12, 8, 5, 2), (9, 7, 5, 3, 2, 1))
        },
        "shared noise 1": way(elevated, numbers=replace(NUMBERS, fresh_noise=1.0)),
        **{
            f"image-to-image at {strength}": way(repainted, strength=strength)
            for strength in (0.4, 0.6, 0.8)
        },
        **{
            f"unsharp mask of {amount:g}": way(sharpened, amount=amount, radius=1.5)
            for amount in (1.5, 3.0, 6.0)
        },
    }
)
"""VideoElevator with one number changed: detail against steadiness, quality against cost; and its
rivals with one number changed."""
