"""Planned calls against real ones, counted at the network itself."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import elevator as el
from elevator.denoise import Call
from elevator.errors import CheckError
from elevator.filters import LowPass
from elevator.hook import Step
from elevator.latent import Latent
from elevator.plan import Plan
from elevator.recipes import videoelevator
from elevator.samplers import DDIMInversion, SDEdit
from tests.builders import (
    ddim,
    make_latent,
    sample,
    scheduler_of,
    tiny_animatediff,
    tiny_sd,
    tiny_text_to_video,
)
from tests.tiny_pipelines import tiny

Shapes = Counter[tuple[str, int, int]]


@contextmanager
def real_calls(**pipelines: Any) -> Iterator[Shapes]:
    """Calls of each pipeline's network: name, rows, frames per row; seen at `unet.forward`."""
    calls: Shapes = Counter()
    originals = []
    for pipe in pipelines.values():
        unet, forward = pipe.unet, pipe.unet.forward

        def count(*args: Any, _forward: Any = forward, _unet: Any = unet, **kwargs: Any) -> Any:
            given = args[0] if args else kwargs["sample"]
            frames = given.shape[2] if given.ndim == 5 else 1
            calls[type(_unet).__name__, given.shape[0], frames] += 1
            return _forward(*args, **kwargs)

        unet.forward = count
        originals.append(unet)
    try:
        yield calls
    finally:
        for unet in originals:
            del unet.forward


def _shapes(plan: Plan, names: dict[str, str]) -> Shapes:
    """What was planned, under the classes of the networks."""
    shapes: Shapes = Counter()
    for call, count in plan.total.items():
        shapes[names.get(call.name, call.name), call.batch, call.frames] += count
    return shapes


NAMES = {
    "t2v": "UNet3DConditionModel",
    "motion": "UNetMotionModel",
    "invert": "UNet2DConditionModel",
    "correct": "UNet2DConditionModel",
}


def _denoiser(pipe: Any, name: str, guidance: float = 1.0) -> Any:
    embeds = make_latent((2, 5, 16), 7)
    return el.denoiser(
        pipe,
        prompt_embeds=embeds[:1],
        negative_prompt_embeds=embeds[1:],
        guidance=guidance,
        name=name,
    )


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("build", [tiny_sd, tiny_text_to_video, tiny_animatediff])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "HeunDiscreteScheduler"])
def test_plain_pipelines(build: Any, guidance: float, scheduler: str) -> None:
    pipe = build(scheduler_of(scheduler))
    planned = el.plan(pipe, el.identity(), steps=3, frames=4, guided=guidance > 1)
    with real_calls(host=pipe) as calls:
        sample(pipe, steps=3, frames=4, guidance=guidance)
    assert _shapes(planned, NAMES) == calls
    assert not planned.hooks
    assert sum(calls.values()) == (5 if scheduler.startswith("Heun") else 3)


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("corrected", [True, False])
def test_videoelevator_from_parts(clips: int, guidance: float, corrected: bool) -> None:
    t2i, t2v, frames, steps = tiny_sd(), tiny_text_to_video(), 3, 6
    refine = el.chain(
        el.at({1, 3}, LowPass("gaussian", temporal=0.4)),
        el.at({1, 3, 4}, SDEdit(_denoiser(t2v, "t2v", 3.0), steps=2)),
    )
    correct = _denoiser(t2i, "correct") if corrected else None
    hook = el.renoise(
        refine, DDIMInversion(_denoiser(t2i, "invert"), correct, reuse=corrected and guidance > 1)
    )
    planned = el.plan(t2i, hook, steps=steps, frames=frames, clips=clips, guided=guidance > 1)
    rows = make_latent((clips * frames, 5, 16), 7)
    with real_calls(t2i=t2i, t2v=t2v) as calls, el.attach(t2i, hook, frames=frames):
        sample(t2i, steps=steps, guidance=guidance, prompt_embeds=rows, negative_prompt_embeds=rows)
    assert _shapes(planned, NAMES) == calls
    forwards = sum(rows * each * count for (_, rows, each), count in calls.items())
    assert planned.frame_forwards() == forwards


def test_the_recipe() -> None:
    t2i, t2v = tiny_sd(), tiny_animatediff()
    recipe = videoelevator(
        _denoiser(t2v, "motion", 2.0),
        _denoiser(t2i, "invert"),
        _denoiser(t2i, "correct"),
        steps=6,
        refine=(5, 3, 2),
        t2v_steps=2,
    )
    planned = el.plan(t2i, recipe.hook, steps=6, frames=3)
    with (
        real_calls(t2i=t2i, t2v=t2v) as calls,
        el.attach(t2i, recipe.hook, recipe.patches, frames=3),
    ):
        sample(t2i, steps=6)
    assert _shapes(planned, NAMES) == calls
    assert planned.frame_forwards("motion") == 3 * 2 * 2 * 3  # points, steps, guidance, frames


def test_a_video_host_and_a_second_order_one() -> None:
    for pipe in (tiny_text_to_video(), tiny_sd(scheduler_of("HeunDiscreteScheduler"))):
        other = tiny_text_to_video()
        hook = el.at({0, 2}, SDEdit(_denoiser(other, "t2v"), steps=2))
        planned = el.plan(pipe, hook, steps=4, frames=3)
        with real_calls(a=pipe, b=other) as calls, el.attach(pipe, hook, frames=3):
            sample(pipe, steps=4)
        assert _shapes(planned, NAMES) == calls


def test_a_compiled_network_is_counted_as_what_it_is() -> None:
    pipe = tiny_sd()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    planned = el.plan(pipe, el.identity(), steps=2, frames=3)
    assert planned.host == {Call("UNet2DConditionModel", 6, 1): 2}


def _peek(clean: Latent, step: Step) -> Latent:
    return clean * 2 if clean.mean() > 0 else clean


def _numpy(clean: Latent, step: Step) -> Latent:
    return torch.from_numpy(clean.numpy())


@pytest.mark.parametrize("function", [_peek, _numpy])
def test_a_hook_that_looks_at_values_cannot_be_planned(function: Any) -> None:
    with pytest.raises(CheckError, match=rf"stateless\({function.__name__}\) looks at the values"):
        el.plan(tiny_sd(), el.stateless(function), steps=2, frames=1)


def test_what_cannot_run_cannot_be_planned() -> None:
    pipe, nudge = tiny_sd(), el.stateless(lambda clean, step: clean + 1)
    with pytest.raises(CheckError, match="switch the solver"):
        el.plan(tiny_sd(scheduler_of("PNDMScheduler")), el.identity())
    with pytest.raises(CheckError, match=r"names steps \[7\], but the run has 5"):
        el.plan(pipe, el.at({7}, nudge), steps=5)
    twice = el.chain(el.renoise(nudge, el.KeepNoise()), el.renoise(nudge, el.FreshNoise()))
    with pytest.raises(CheckError, match="both re-noise at steps"):
        el.plan(pipe, twice, steps=3)
    with pytest.raises(CheckError, match="no run of 5000 steps"):
        el.plan(pipe, el.identity(), steps=5000)


def test_planning_leaves_the_pipeline_alone() -> None:
    pipe = tiny_sd(ddim())
    before = {name: id(value) for name, value in vars(pipe.scheduler).items()}
    el.plan(pipe, el.stateless(lambda clean, step: clean + 1), steps=4, frames=2)
    assert {name: id(value) for name, value in vars(pipe.scheduler).items()} == before


def test_it_reads_as_a_table() -> None:
    t2i, t2v = tiny_sd(), tiny_text_to_video()
    hook = el.at({1}, SDEdit(_denoiser(t2v, "my T2V", 2.0), steps=3))
    lines = str(el.plan(t2i, hook, steps=4, frames=5)).splitlines()
    assert lines[0].split() == ["network", "calls", "batch", "frames", "frame-forwards"]
    assert lines[1].split() == ["UNet2DConditionModel", "4", "10", "1", "40"]
    assert lines[2].split() == ["my", "T2V", "3", "2", "5", "30"]
    assert lines[3] == "70 frame-forwards, 1.75 times the plain pipeline"


def test_frames_of_a_plan_are_pictures() -> None:
    """Of which Wan's latents hold four a frame; Qwen-Image's network packs patches in channels."""
    seen: list[tuple[int, ...]] = []

    def looking(clean: Latent, step: Step) -> Latent:
        seen.append((step.run.pictures, *clean.shape))
        return clean

    hook = el.stateless(looking)
    el.plan(tiny("wan"), hook, steps=1, frames=9, height=16, width=16)
    el.plan(tiny("qwen"), hook, steps=1, frames=5, height=32, width=48)
    assert seen == [(4, 1, 16, 3, 2, 2), (1, 1, 16, 5, 8, 12)]
