"""Named compositions: each paper's defaults live here, in numbers, and nowhere else."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from elevator.combine import at, chain, identity
from elevator.denoise import Denoiser
from elevator.errors import CheckError
from elevator.filters import (
    Flow,
    KeepColours,
    KeepDetail,
    LowPass,
    MotionAverage,
    Pictures,
    Propagate,
)
from elevator.hook import Hook
from elevator.hosts.coefficients import training_schedule
from elevator.latent import Latent
from elevator.models.inflate import CrossFrameAttention
from elevator.patch import Patch
from elevator.renoise import FreshNoise, KeepNoise, Renoise, renoise
from elevator.samplers import DDIM, DDIMInversion, SDEdit, Solver, reinitialise
from elevator.through import Bridge, through

__all__ = [
    "PRESETS",
    "UPSCALE_PRESETS",
    "Preset",
    "Recipe",
    "UpscalePreset",
    "freeinit",
    "preset_for",
    "upscale_a_video",
    "upscale_preset_for",
    "videoelevator",
]


class Recipe(NamedTuple):
    """A composition to attach: `el.attach(pipe, recipe.hook, recipe.patches, frames=...)`."""

    hook: Hook[Any]
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Preset:
    """The numbers of one VideoElevator arrangement.

    Attributes:
        frames: frames of a clip.
        steps: sampling steps S of the T2I, and of the grid the T2V walks.
        refine: where motion is refined, as steps remaining (S = first step, 1 = last).
        t2v_steps: T2V network calls per refinement, N.
        temporal: stop frequency of the low-pass filter over time (Nyquist = 1).
        spatial: its stop frequency over space; None filters over time only.
        shared_noise: weight of the noise all frames share at the start.
        guidance: guidance scale of the T2I.
        video_guidance: guidance scale of the T2V.
        fresh_noise: None leads refined frames back to noise by inversion, as published; a number
            noises them anew, and is the weight of the part that frames share (`FreshNoise`).
        match: how the T2V's noise level is found where both models' timesteps mean noise of one
            kind (`SDEdit`): "timestep", as published, or "snr". At one timestep a T2V whose betas
            grow linearly is noisier than Stable Diffusion, and forgets more of the T2I's frames.
        keep_colours: give refined frames the T2I's colours back (`KeepColours`): for a style that
            changes whole areas, and that the T2V does not know.
        keep_detail: stop frequency in space, in units of Nyquist, above which refined frames keep
            the T2I's detail (`KeepDetail`), as the filter over time has left it: for a T2V that is
            much softer than the T2I. 0 or more; None takes the T2V's frames whole, as published.
        steady: where frames are averaged along their motion (`MotionAverage`), as steps remaining:
            once motion is settled, while detail is painted. Not where the T2V refines, and in no
            run that is never refined.
    """

    frames: int
    steps: int
    refine: tuple[int, ...]
    t2v_steps: int
    temporal: float | None
    spatial: float | None
    shared_noise: float
    guidance: float
    video_guidance: float
    fresh_noise: float | None = None
    match: Literal["timestep", "snr"] = "timestep"
    keep_colours: bool = False
    keep_detail: float | None = None
    steady: tuple[int, ...] = ()

    def refine_at(self, steps: int) -> tuple[int, ...]:
        """The refinement points (steps remaining) of a run of another length."""
        return self._at(self.refine, steps)

    def steady_at(self, steps: int) -> tuple[int, ...]:
        """Where a run of another length averages along the motion, in steps remaining."""
        return self._at(self.steady, steps)

    def _at(self, points: tuple[int, ...], steps: int) -> tuple[int, ...]:
        scaled = {max(1, round(remaining * steps / self.steps)) for remaining in points}
        return tuple(sorted(scaled, reverse=True))


_WORLD = Preset(
    8,
    25,
    (24, 18, 14),
    8,
    0.4,
    None,
    1.0,
    1.5,
    4.0,
    fresh_noise=math.inf,
    keep_detail=0.625,
    steady=(13, 11, 9, 7, 5, 3, 2, 1),
)
PRESETS: dict[str, Preset] = {
    "zeroscope": Preset(24, 50, (45, 35, 25, 15), 8, 0.4, 1.0, 1.5, 7.5, 7.5),
    "lavie": Preset(16, 50, (45, 35, 30, 25, 20, 15), 8, 0.5, 1.0, 1.0, 7.5, 7.5),
    "animatelcm": Preset(16, 30, (26, 21, 15, 9), 6, 0.6, 1.0, 0.5, 7.5, 2.0),
    "world": _WORLD,
    "world-styled": replace(_WORLD, guidance=4.0, keep_colours=True, steady=()),
    "world-inverted": replace(_WORLD, refine=(22, 17, 12), fresh_noise=None, steady=()),
}
"""VideoElevator's published settings, by the T2V they were made for (its example scripts), and
three for the built-in models. `world` paints on from noise that all frames share, takes of the T2V
what is coarse, and averages frames along their motion; `world-styled` keeps the colours of a
personalised T2I, minds the prompt more, and does not average; `world-inverted` inverts as
published.
`benchmarks/quality_videoelevator.py` compares them."""


def preset_for(name: str | Preset) -> Preset:
    """A preset by name; numbers of one's own pass through."""
    if isinstance(name, Preset):
        return name
    if name not in PRESETS:
        raise CheckError([f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}"])
    return PRESETS[name]


FAST_STRIDE = 3
"""Levels an inversion climbs per network call where `fast` is set: the least that keeps every
published preset under half of the reference's T2I work. `benchmarks/speed_videoelevator.py`
measures what it costs."""


def videoelevator(
    t2v: Denoiser,
    invert: Denoiser | None,
    correct: Denoiser | None = None,
    *,
    preset: str | Preset = "zeroscope",
    steps: int | None = None,
    refine: Sequence[int] | None = None,
    t2v_steps: int | None = None,
    lowpass: Hook[Any] | None = None,
    solver: Solver | None = None,
    fast: bool = False,
    bridge: Bridge | None = None,
    pictures: Pictures | None = None,
    patches: Sequence[Patch] = (CrossFrameAttention(),),
) -> Recipe:
    r"""VideoElevator (Zhang et al. 2024, arXiv 2403.05438, section 3), to attach to a T2I.

    At each refinement step the clean estimate is low-passed over time, noised and denoised by the
    T2V for a few steps, then brought back by DDIM inversion with the T2I; between refinements each
    step is corrected by the inversion's own error. The T2I's self-attention is inflated: every
    frame attends to the first. Presets may have refined frames keep the T2I's detail (`KeepDetail`)
    and colours (`KeepColours`), and average frames along their motion where the T2V does not refine
    (`MotionAverage`). Models of other kinds, such as flow-matching transformers, go
    together in the same way; for them leave out the inflation, which is for 2-D U-Nets.

    Args:
        t2v: the text-to-video model with the prompt, guidance inside.
        invert: the T2I as used for inversion: negative prompt, guidance 1. None: every refined
            frame is noised anew, for T2Is that follow no differential equation back: consistency
            models, and those distilled to a few steps; so it is with presets of `fresh_noise`.
        correct: the T2I as used for the correction: prompt, guidance 1. None: no correction.
        preset: the numbers to start from; arguments given beside it override them.
        steps: num_inference_steps of the run this will be attached to.
        refine: refinement points as *steps remaining*, from `steps` (first) to 1 (last); by default
            the preset's, scaled to `steps`.
        t2v_steps: T2V network calls per refinement, >= 0.
        lowpass: the filter, applied at every refinement but the last, as published; `identity()`
            for none.
        solver: makes the T2V's steps; DDIM by default, `LCM()` for consistency models.
        fast: inversions tell the network each latent's own level, which needs no correction, and
            climb three levels per network call. Without an inversion there is nothing to climb.
        bridge: the way to the T2V's latents where they are not the T2I's: `el.bridge(t2i, t2v)`.
        pictures: the T2I's autoencoder, `el.codec(t2i)`, for presets that average frames along
            their motion (`Preset.steady`).
        patches: changes inside the T2I; `()` leaves frames independent.

    Raises:
        CheckError: the preset is unknown, a number lies out of its range, or frames are to be
            averaged along their motion without `pictures`.
    """
    numbers = preset_for(preset)
    steps = numbers.steps if steps is None else steps
    calls = numbers.t2v_steps if t2v_steps is None else t2v_steps
    points = sorted(set(numbers.refine_at(steps) if refine is None else refine), reverse=True)
    problems = []
    steady = numbers.steady_at(steps) if points else ()
    for name, given in {"refinement points": points, "points of the average": steady}.items():
        outside = [point for point in given if not 1 <= point <= steps]
        if outside:
            problems.append(
                f"{name} {outside} lie outside a run of {steps} steps; they count the "
                f"steps remaining, from {steps} (first step) to 1 (last)"
            )
    if numbers.keep_detail is not None and not 0 <= numbers.keep_detail < math.inf:
        problems.append(
            f"keep_detail is {numbers.keep_detail!r}, which is no stop frequency; give a number "
            "from 0 up (Nyquist = 1), or None to take the T2V's frames whole"
        )
    if calls < 0:
        problems.append(f"t2v_steps is {calls}, but must be 0 or more")
    if invert is None and correct is not None:
        problems.append(
            "correct=... mends the error of an inversion, and there is none without invert=...; "
            "give both or neither"
        )
    if fast and numbers.fresh_noise is not None:
        problems.append(
            "fast shortens inversions, and this preset makes none: refined frames are noised anew; "
            "leave fast out, or choose a preset that inverts (world-inverted for the built-in "
            "models)"
        )
    averaged = [steps - point for point in steady if point not in points]
    if averaged and pictures is None:
        problems.append(
            "this preset averages frames along their motion, for which they have to be "
            "seen; give pictures=el.codec(t2i), or a preset without steady"
        )
    if problems:
        raise CheckError(problems)
    if not points:
        return Recipe(identity(), tuple(patches))
    indices = [steps - point for point in points]
    if lowpass is None:
        lowpass = LowPass("gaussian", temporal=numbers.temporal, spatial=numbers.spatial)
    # Timesteps mean the same noise only within one kind of schedule; and flow models of one kind
    # walk grids shifted by model and size, so that a step of the T2V's could lead up from the T2I's
    # level.
    space = t2v.schedule.space
    alike = invert is not None and space == invert.schedule.space and space != "flow"
    edit: Hook[Any] = SDEdit(t2v, calls, solver or DDIM(), numbers.match if alike else "snr")
    if bridge is not None:
        edit = through(bridge, edit)
    if numbers.keep_detail is not None:
        coarse = LowPass("butterworth", temporal=None, spatial=numbers.keep_detail)
        edit = KeepDetail(edit, coarse)
    if numbers.keep_colours:
        edit = KeepColours(edit)
    refinement = chain(
        at(indices[:-1], lowpass) if len(indices) > 1 else identity(),
        at(indices, edit),
    )
    rule: Renoise[Any]
    if invert is None or numbers.fresh_noise is not None:
        rule = FreshNoise(numbers.fresh_noise or 0.0)
    elif fast:
        rule = DDIMInversion(invert, stride=FAST_STRIDE, told="own")
    else:
        # The host's own call holds the correction's prediction right after a refinement.
        rule = DDIMInversion(invert, correct, reuse=correct is not None)
    hook = renoise(refinement, rule)
    if averaged and pictures is not None:
        average: Hook[Any] = at(averaged, MotionAverage(pictures))
        if isinstance(rule, FreshNoise):
            average = renoise(average, rule)
        # Beside an inversion, which may correct every step, the noise stays what the latent holds.
        hook = chain(hook, average)
    return Recipe(hook, tuple(patches))


@dataclass(frozen=True)
class UpscalePreset:
    """The numbers and words of one Upscale-A-Video arrangement.

    Attributes:
        noise_level: step of the low-resolution noise, 0 (none to speak of) to 350; the more, the
            more is made up.
        guidance: guidance scale; 1 or less runs without.
        steps: sampling steps.
        propagate: loop indices where clean estimates are propagated, 0 (noisiest) to `steps` - 1.
        quality: what is said of every clip, behind its own prompt.
        negative: what is to be avoided.
    """

    noise_level: int = 120
    guidance: float = 6.0
    steps: int = 30
    propagate: tuple[int, ...] = ()
    quality: str = "best quality, extremely detailed"
    negative: str = "blur, worst quality"

    def propagate_at(self, steps: int) -> tuple[int, ...]:
        """The propagation indices of a run of another length."""
        scaled = (min(steps - 1, round(index * steps / self.steps)) for index in self.propagate)
        return tuple(sorted(set(scaled)))


UPSCALE_PRESETS: dict[str, UpscalePreset] = {
    "default": UpscalePreset(),
    "aigc": UpscalePreset(noise_level=150, propagate=(24, 26, 28)),
    "old-video": UpscalePreset(noise_level=150, guidance=9.0),
    "old-movie": UpscalePreset(noise_level=100, guidance=5.0, steps=20, propagate=(17, 18, 19)),
    "animation": UpscalePreset(steps=20),
    "world": UpscalePreset(noise_level=20, guidance=1.0, steps=10),
}
"""Upscale-A-Video's published settings, by the footage they were made for; `animation` is meant
with the conditioned autoencoder, which the published tree holds beside the plain one: ask for it
with `VideoUpscalePipeline.from_published(tree, video_vae=True)`, with
`elevator.pipelines.upscalers.load_upscaler(tree, video_vae=True)`, or with
`elevator upscale --pipe tree --video-vae`. `world` is for the built-in upscaler."""


def upscale_preset_for(name: str | UpscalePreset) -> UpscalePreset:
    """A preset by name; numbers of one's own pass through."""
    if isinstance(name, UpscalePreset):
        return name
    if name not in UPSCALE_PRESETS:
        known = ", ".join(UPSCALE_PRESETS)
        raise CheckError([f"preset {name!r} is unknown; choose one of {known}"])
    return UPSCALE_PRESETS[name]


def upscale_a_video(
    flow: Flow | Future[Flow],
    propagate: Sequence[int] = (24, 26, 28),
    *,
    fuse: float = 0.5,
    alpha1: float = 0.001,
    alpha2: float = 0.05,
    mode: Literal["nearest", "bilinear"] = "nearest",
) -> Recipe:
    """Upscale-A-Video (Zhou et al. 2024, arXiv 2312.06640, section 3.3), to attach to an upscaler.

    At a few late steps the clean estimates of neighbouring frames are carried into each other along
    their motion, wherever the flow can be trusted; the predicted noise is kept. That is all the
    method does to the sampling, so any pipeline of a clip can have it: an image upscaler on frames,
    an image-to-image pipeline, a video pipeline.

    Args:
        flow: between the frames of the clip, or a future of it; see `Propagate`.
        propagate: loop indices, 0 (noisiest) to the number of steps less one; () for none.
        fuse: share of the neighbour.
        alpha1: as for `Propagate`.
        alpha2: as for `Propagate`.
        mode: how latents are warped.
    """
    if not propagate:
        return Recipe(identity(), ())
    hook = Propagate(flow, fuse, alpha1, alpha2, mode)
    return Recipe(renoise(at(propagate, hook), KeepNoise()), ())


def freeinit(
    run: Callable[[Latent], Latent],
    noise: Latent,
    scheduler: Any,
    *,
    iterations: int = 5,
    lowpass: Hook[Any] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    pictures: int = 1,
) -> Iterator[Latent]:
    """FreeInit (Wu et al. 2023, arXiv 2312.07537): sample again from noise that a result refined.

    Any pipeline that takes `latents=`, attached hooks included:

        *_, clean = freeinit(
            lambda latents: pipe(prompt, latents=latents, output_type="latent").frames,
            noise,
            pipe.scheduler,
        )

    Args:
        run: a whole sampling run, from initial noise to clean latents, both `b c f h w`; rearrange
            those of pipelines that lay or pack them otherwise.
        noise: standard normal noise the first run starts from.
        scheduler: the pipeline's, for the noisiest level its network was trained at.
        iterations: runs in all, >= 1, each at full cost; 5 in the paper, 1 is the plain run.
        lowpass: what is kept of a result; by default the paper's Butterworth filter of order 4
            with stop frequencies 0.25 in time and space (Nyquist = 1).
        generator: of the fresh noise, for the second run on.
        pictures: pictures a latent frame after the first stands for, for a filter in cycles per
            second.

    Yields:
        The clean latents of every run; the last ones are the result.

    Raises:
        ValueError: fewer than one iteration.
        CheckError: the scheduler is unknown.
    """
    if iterations < 1:
        raise ValueError(f"freeinit takes iterations >= 1 (1 is the plain run), got {iterations}")
    schedule = training_schedule(scheduler)
    kept = LowPass("butterworth", temporal=0.25, spatial=0.25) if lowpass is None else lowpass

    def runs() -> Iterator[Latent]:
        latents = noise
        for left in range(iterations - 1, -1, -1):
            clean = run(latents)
            yield clean
            if left:
                latents = reinitialise(clean, noise, schedule, kept, generator, pictures=pictures)

    return runs()
