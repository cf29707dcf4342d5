"""MotionAverage: its equation, what it makes agree, and that it does not slow motion down."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import elevator as el
from elevator import metrics, world
from elevator.errors import CheckError
from elevator.filters import DIS, Flow, MotionAverage
from elevator.hook import parts
from elevator.latent import Latent
from elevator.recipes import PRESETS, videoelevator
from elevator.renoise import rules
from elevator.samplers import DDIMInversion
from elevator.zoo.sampling import elevate, pair
from tests.builders import FakeDenoiser, make_latent, make_run, make_step, tiny_sd, unvetted


@dataclass(frozen=True)
class Same:
    """Latents that are frames already."""

    def decode(self, latents: Latent) -> Tensor:
        return latents

    def encode(self, frames: Tensor) -> Latent:
        return frames


@dataclass(frozen=True)
class Lossy:
    """An autoencoder that forgets the last digits."""

    def decode(self, latents: Latent) -> Tensor:
        return latents

    def encode(self, frames: Tensor) -> Latent:
        return (frames * 4).round() / 4


def constant(dx: float, dy: float) -> Any:
    """An estimator that sees one motion everywhere between neighbours, and none that is left."""

    def estimate(frames: Tensor) -> Flow:
        batch, _, count, height, width = frames.shape
        way = torch.tensor([float(dx), float(dy)])[None, :, None, None, None]
        there = way.expand(batch, 2, count - 1, height, width)
        there = there if count > 2 else torch.zeros_like(there)
        return Flow(there, -there)

    return estimate


def apply(hook: MotionAverage, clip: Tensor) -> Tensor:
    run = make_run(tuple(clip.shape))  # type: ignore[arg-type]
    return hook.update(clip, make_step(run), hook.init(run))[0]


def moving(count: int = 8, seed: int = 3) -> tuple[Tensor, Tensor]:
    """A striped ring that moves to the right, `1 3 f h w` in [-1, 1], and its positions."""
    scene = world.Scene("striped", "red", "ring", "moving right", "teal")
    clip = world.render([scene], frames=count, size=64, seed=seed)
    where = world.layout([scene], frames=count, size=64, seed=seed).centre[0]
    return clip.transpose(1, 2) * 2 - 1, where


def test_still_frames_become_their_mean_over_near_ones() -> None:
    clip = torch.tensor([0.0, 1.0, 0.0, -1.0, 0.0])[None, None, :, None, None]
    clip = clip.expand(1, 3, 5, 16, 16)
    seen = apply(MotionAverage(Same(), constant(0, 0), reach=2, restore=0), clip)[0, 0, :, 8, 8]
    # Ends look one frame far, their neighbours too, the middle two.
    wanted = torch.tensor([1 / 2, 1 / 3, 0, -1 / 3, -1 / 2])
    torch.testing.assert_close(seen, wanted)


def test_motion_is_followed_and_noise_averaged_away() -> None:
    long = make_latent((1, 3, 1, 24, 48))
    clip = torch.cat([long[..., 16 - 2 * i : 40 - 2 * i] for i in range(6)], 2)
    noisy = clip + 0.5 * make_latent(tuple(clip.shape), 1)
    along = apply(MotionAverage(Same(), constant(2, 0), reach=2, restore=0), noisy)
    middle = (slice(None), slice(None), slice(2, 4), slice(6, 18), slice(8, 16))
    before = (noisy - clip)[middle].square().mean()
    assert (along - clip)[middle].square().mean() < 0.25 * before  # a fifth of five frames
    against = apply(MotionAverage(Same(), constant(-2, 0), reach=2, restore=0), noisy)
    assert (against - clip)[middle].square().mean() > before


def test_the_velocity_of_what_moves_is_found() -> None:
    scenes = [
        world.Scene("plain", "red", "square", f"moving {way}", "navy")
        for way in ("left", "right", "up", "down")
    ]
    clips = world.render(scenes, frames=8, size=64, seed=3)
    centres = world.layout(scenes, frames=8, size=64, seed=3).centre
    velocities = MotionAverage(Same()).velocity(clips.transpose(1, 2) * 2 - 1)
    for clip, centre, velocity in zip(clips, centres, velocities, strict=True):
        true, weight = (centre[-1] - centre[0]) / 7, metrics.object_weights(clip)
        seen = (velocity * weight).sum((1, 2, 3)) / weight.sum()
        assert float(true.norm()) > 1
        assert float((seen - true).norm()) < 0.2 * float(true.norm())


def test_what_flickers_comes_to_agree_and_what_moves_goes_on() -> None:
    """Each frame's stripes are another ring's: one that is painted anew in every frame."""
    clip, where = moving()
    shifts = (0, 1, -1, 0, 1, 1, -1, 0)
    rows = [frame.roll(by, 1) for frame, by in zip(clip[0].unbind(1), shifts, strict=True)]
    shaken = torch.stack(rows, 1)[None]
    hook = MotionAverage(Same())
    steady = shaken
    for _ in range(4):
        steady = apply(hook, steady)

    def judged(x: Tensor) -> tuple[float, float, Tensor]:
        frames = x[0].transpose(0, 1) / 2 + 0.5
        path = metrics.centres(frames)
        return metrics.jitter(path), metrics.appearance_change(frames), path[-2] - path[1]

    before, after = judged(shaken), judged(steady)
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.6 * before[1]
    true = where[-2] - where[1]
    assert float((after[2] - true).norm()) < 0.1 * float(true.norm())


def test_frames_that_move_otherwise_are_left_out() -> None:
    clip = torch.cat([torch.zeros(1, 3, 2, 32, 32), torch.ones(1, 3, 2, 32, 32)], 2)

    def parting(frames: Tensor) -> Flow:
        """Frames 0 and 1 stand still, 2 and 3 run."""
        flow = constant(0, 0)(frames)
        if frames.shape[2] == 4:
            speed = torch.tensor([0.0, 0.0, 5.0])[None, None, :, None, None]
            return Flow(flow.forward + speed, flow.backward - speed)
        return flow

    seen = apply(MotionAverage(Same(), parting, reach=1, trust=1.0), clip)
    assert torch.equal(seen[:, :, :1], clip[:, :, :1])
    loose = apply(MotionAverage(Same(), parting, reach=1, trust=100.0), clip)
    assert not torch.allclose(loose[:, :, 1], clip[:, :, 1])


def blurred(x: Tensor, sigma: float) -> Tensor:
    """SciPy's, in space."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(
        x.numpy(),
        (0, 0, 0, sigma, sigma),
        mode="nearest",
        radius=[0, 0, 0, math.ceil(3 * sigma), math.ceil(3 * sigma)],
    )
    return torch.from_numpy(smooth)


def test_detail_is_made_stronger_again_by_one_factor_for_all_frames() -> None:
    clip = make_latent((1, 3, 6, 32, 32))
    clip[..., 16:] *= 0.1  # weak detail stays weak
    clip[..., :8] = clip[..., :1, :, :8]  # what all frames agree on is as strong as it was
    plain = apply(MotionAverage(Same(), constant(0, 0), restore=0), clip)
    detail = [x - blurred(x, 1.0) for x in (clip, plain)]
    power = [blurred(d.square().mean((1, 2), keepdim=True), 4.0) + 1e-5 for d in detail]
    lost = (power[0] / power[1]).sqrt() - 1
    assert lost.min() < 0.1 < 0.5 < lost.max()
    for restore in (0.5, 1.0, 9.0):
        seen = apply(MotionAverage(Same(), constant(0, 0), restore=restore), clip)
        factor = (1 + restore * lost).clamp(1, 2.5)
        wanted = blurred(plain, 1.0) + factor * detail[1]
        torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-4)


def test_what_a_round_trip_loses_is_not_lost() -> None:
    clip = 0.1 * make_latent((1, 3, 4, 32, 32)) + 0.03
    still = clip[:, :, :1].expand(-1, -1, 4, -1, -1)
    seen = apply(MotionAverage(Lossy(), constant(0, 0)), still)
    torch.testing.assert_close(seen, still)


@pytest.mark.parametrize("size", [(1, 9), (5, 5), (20, 33)])
def test_small_frames_and_clips_of_two(size: tuple[int, int]) -> None:
    clip = make_latent((2, 3, 2, *size)).clamp(-1, 1)
    seen = apply(MotionAverage(Same()), clip)
    assert seen.shape == clip.shape
    assert seen.isfinite().all()


def test_a_pipelines_autoencoder_is_all_it_needs() -> None:
    pipe = tiny_sd()
    hook = el.renoise(el.at({1}, MotionAverage(el.codec(pipe))), el.FreshNoise(shared=math.inf))
    planned = el.plan(pipe, hook, steps=4, frames=3).total
    calls = {call.name: count for call, count in planned.items()}
    name = type(pipe).__name__
    assert (calls[f"{name} decoder"], calls[f"{name} encoder"]) == (1, 2)
    assert "dubois1984noise" in el.cite(hook)


def averaged_at(hook: Any, steps: int) -> set[int]:
    """Step indices at which a composition averages."""
    average = hook.inner()[1]
    assert any(isinstance(part, MotionAverage) for part in parts(average))
    return set(average.acts_at(steps))


def test_a_preset_averages_where_the_t2v_does_not_refine() -> None:
    preset = PRESETS["world"]
    recipe = videoelevator(FakeDenoiser(), None, preset=preset, pictures=Same())
    assert averaged_at(recipe.hook, 25) == {25 - left for left in (13, 11, 9, 7, 5, 3, 2, 1)}
    meeting = replace(preset, steady=(18, 7))
    recipe = videoelevator(FakeDenoiser(), None, preset=meeting, pictures=Same())
    assert averaged_at(recipe.hook, 25) == {25 - 7}
    half = videoelevator(FakeDenoiser(), None, preset=preset, steps=50, pictures=Same())
    assert averaged_at(half.hook, 50) == {50 - 2 * left for left in preset.steady}
    # Noise as for refined frames: new, and the same for all.
    assert {type(rule) for rule in rules(recipe.hook)} == {el.FreshNoise}
    kept = replace(preset, fresh_noise=None)
    hook = videoelevator(FakeDenoiser(), FakeDenoiser(), preset=kept, pictures=Same()).hook
    assert {type(rule) for rule in rules(hook)} == {DDIMInversion}
    assert averaged_at(hook, 25) == {25 - left for left in preset.steady}


def test_an_inversion_that_corrects_every_step_goes_with_the_average() -> None:
    pipe = pair()
    short = replace(
        PRESETS["world-inverted"], frames=2, steps=4, refine=(4,), t2v_steps=1, steady=(2, 1)
    )
    made = elevate(pipe, "a red ring", 0, numbers=short)
    assert made.isfinite().all()
    plain = elevate(pipe, "a red ring", 0, numbers=replace(short, steady=()))
    assert (made - plain).abs().max() > 0.01


def test_a_preset_that_averages_asks_for_what_it_needs() -> None:
    with pytest.raises(CheckError, match=r"have to be seen; give pictures=el\.codec\(t2i\)"):
        videoelevator(FakeDenoiser(), None, preset="world")
    far = replace(PRESETS["world"], steady=(30,))
    with pytest.raises(CheckError, match=r"points of the average \[30\] lie outside .* 25 steps"):
        videoelevator(FakeDenoiser(), None, preset=far, pictures=Same())


def test_the_pipeline_gives_its_t2is_autoencoder() -> None:
    planned = pair().plan("a red ring", preset="world").total
    calls = {call.name: count for call, count in planned.items()}
    assert calls["T2I decoder"] == len(PRESETS["world"].steady)
    assert calls["T2I encoder"] == 2 * len(PRESETS["world"].steady)


def test_from_a_clip_averages_stay_at_their_noise_levels() -> None:
    pipe = pair()
    # 25, 15 and 7 steps are run; the T2V refines at 24 18 14, at 14 11 8 and at 7 5 4.
    for strength, left in ((1.0, 8), (0.6, 7), (0.3, 3)):
        planned = pipe.plan("a red ring", preset="world", strength=strength).total
        calls = {call.name: count for call, count in planned.items()}
        assert calls["T2I decoder"] == left


def test_a_run_without_averages_needs_no_autoencoder() -> None:
    for few in ({"refine": ()}, {"steps": 2}):
        hook = videoelevator(FakeDenoiser(), None, preset="world", **few).hook
        assert not any(isinstance(part, MotionAverage) for part in parts(hook))


def test_what_cannot_be_is_refused() -> None:
    wrong: dict[str, Any] = {"blur": -1.0, "smooth": math.inf, "trust": math.nan}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"MotionAverage {name}=.* is no number of pixels"):
            MotionAverage(Same(), **{name: value})
    with pytest.raises(ValueError, match="reach=-1 is no number of frames"):
        MotionAverage(Same(), reach=-1)
    with pytest.raises(ValueError, match=r"MotionAverage restore=-1.0 is no share; give 0 or more"):
        MotionAverage(Same(), restore=-1.0)
    given = {"flow": DIS(), "reach": 3, "blur": 5.0, "smooth": 4.0, "trust": 1.5, "restore": 2.0}
    with pytest.raises(TypeError, match=r"give el\.codec\(pipe\)"):
        unvetted(MotionAverage, **given, pictures=DIS()).__post_init__()
    with pytest.raises(TypeError, match=r"give DIS\(\) or RAFT"):
        unvetted(MotionAverage, **given | {"flow": 3}, pictures=Same()).__post_init__()
