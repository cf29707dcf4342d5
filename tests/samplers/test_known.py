"""Known frames and regions: the mixture, RePaint's loop, where it ends, what is refused."""

from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import elevator as el
from elevator.hook import Hook, Host
from elevator.latent import Latent
from elevator.samplers import FreshKnown, Known
from tests.builders import (
    SHAPE,
    ddim,
    make_latent,
    make_run,
    make_step,
    sample,
    tiny_animatediff,
    tiny_sd,
)
from tests.hosts.loops import FRAMES, Loop, looking, scheduler_for, shrink

RUN = (2, 4, FRAMES, 4, 6)
"""(b, c, f, h, w) of the latents of a `Loop`."""
HOST = Host("DDIMScheduler", 1, "epsilon", frames=5)
ALL = torch.ones(())


def apply(hook: Hook[Any], latent: Tensor) -> Tensor:
    run = make_run(tuple(latent.shape))  # type: ignore[arg-type]
    return hook.update(latent, make_step(run), hook.init(run))[0]


def half() -> Tensor:
    """A mask whose left half is known."""
    mask = torch.zeros(4, 6)
    mask[:, :3] = 1
    return mask


def watched(hook: Hook[Any], scheduler: Any, **options: Any) -> list[Latent]:
    """The latents of a hooked loop, as hooks see them."""
    loop = Loop(scheduler)
    with el.attach(loop, hook, frames=FRAMES, noise=el.KeyedNoise()):
        latents = loop(**options)
    return [rearrange(latent, "(b f) c h w -> b c f h w", f=FRAMES) for latent in latents]


# --- the mixture ----------------------------------------------------------------------------------


@given(st.data())
def test_it_is_its_equation_for_every_mask_that_broadcasts(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 3)] * 5))
    axes = data.draw(st.integers(0, 5))
    small = [data.draw(st.sampled_from([1, size])) for size in shape[5 - axes :]]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    mask = torch.rand(small, generator=generator)
    mask = data.draw(st.sampled_from([mask, mask.round(), mask > 0.5, torch.ones(small)]))
    known, latent = make_latent(shape, 1), make_latent(shape, 2)
    got, weight = apply(Known(known, mask), latent), mask.float().expand(shape)
    torch.testing.assert_close(got, weight * known + (1 - weight) * latent)
    assert torch.equal(got[weight == 1], known[weight == 1])
    assert torch.equal(got[weight == 0], latent[weight == 0])


def test_known_frames_are_put_at_their_places() -> None:
    known, latent = make_latent((1, 4, 2, 8, 6), 1), make_latent()
    got = apply(Known(known, frames=(0, -1)), latent)
    assert torch.equal(got[:, :, 0], known[:, :, 0])
    assert torch.equal(got[:, :, -1], known[:, :, 1])
    assert torch.equal(got[:, :, 1:-1], latent[:, :, 1:-1])
    still = known[:, :, :1]
    same = apply(Known(still, frames=(1, 2, 4)), latent)
    for frame in (1, 2, 4):
        assert torch.equal(same[:, :, frame], still[:, :, 0])
    as_mask = torch.tensor([0, 1, 1, 0, 1])[:, None, None]
    assert torch.equal(same, apply(Known(still, as_mask), latent))


def test_one_latent_is_known_of_every_clip_or_each_clip_has_its_own() -> None:
    latent = make_latent((2, *SHAPE[1:]))
    shared, own = make_latent((1, 4, 1, 8, 6), 1), make_latent((2, 4, 1, 8, 6), 2)
    assert torch.equal(
        apply(Known(shared, frames=(0,)), latent)[:, :, 0], shared[:, :, 0].repeat(2, 1, 1, 1)
    )
    assert torch.equal(apply(Known(own, frames=(0,)), latent)[:, :, 0], own[:, :, 0])


def test_what_is_not_known_may_be_anything() -> None:
    mask = torch.zeros(8, 6)
    mask[:4] = 1
    known = torch.where(mask > 0, make_latent(seed=1), torch.nan)
    assert apply(Known(known, mask), make_latent()).isfinite().all()


def test_nothing_known_is_the_same_object() -> None:
    latent = make_latent()
    assert apply(Known(latent, torch.zeros(())), latent) is latent
    assert apply(Known(make_latent((1, 4, 3, 8, 6)), frames=()), latent) is latent
    assert not Known(latent, frames=()).acts_at(4)


def test_half_precision_and_integer_masks_will_do() -> None:
    known = make_latent(seed=1)
    got = apply(Known(known.half(), torch.ones(8, 6, dtype=torch.uint8)), make_latent())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, known, rtol=1e-3, atol=1e-3)


def test_tensors_are_compared_by_identity() -> None:
    known, mask = make_latent(), torch.ones(8, 6)
    assert Known(known, mask) == Known(known, mask)
    assert hash(Known(known, mask)) == hash(Known(known, mask))
    assert Known(known, mask) != Known(known, mask.clone())
    assert Known(known, mask) != Known(known.clone(), mask)
    still = known[:, :, :1]
    assert Known(still, frames=(0,)) == Known(still, frames=(0,))
    assert Known(still, frames=(0,)) != Known(still, frames=(1,))
    assert FreshKnown(Known(known, mask)) == FreshKnown(Known(known, mask))
    assert Known(known, mask) != el.identity()


def test_repr_shows_sizes() -> None:
    assert repr(Known(make_latent(), torch.ones(8, 6))) == "Known(<1x4x5x8x6>, mask=<8x6>)"
    assert repr(Known(make_latent(), frames=(0, 1, 2, 3, 4))) == (
        "Known(<1x4x5x8x6>, frames=(0, 1, 2, 3, 4))"
    )


# --- what becomes of it ---------------------------------------------------------------------------


def test_with_fresh_known_it_is_the_loop_of_the_paper() -> None:
    """Eq. 8 written down: the sampler's own step, its known part replaced by a noised one."""
    known, mask = make_latent(RUN, 5), half()
    hook = Known(known, mask)
    got = watched(el.renoise(hook, FreshKnown(hook)), scheduler_for("DDPMScheduler"))

    scheduler, generator = scheduler_for("DDPMScheduler"), torch.Generator().manual_seed(0)
    scheduler.set_timesteps(5)
    latent = torch.randn((RUN[0] * FRAMES, 4, 4, 6), generator=generator)
    clean = rearrange(known, "b c f h w -> (b f) c h w")
    after = [*scheduler.timesteps[1:].tolist(), None]
    for index, (timestep, lower) in enumerate(zip(scheduler.timesteps, after, strict=True)):
        product = 1.0 if lower is None else float(scheduler.alphas_cumprod[lower])
        key = el.noise.Key(index, (), "known")
        drawn = el.KeyedNoise()(key, RUN, torch.device("cpu"))
        noise = rearrange(drawn, "b c f h w -> (b f) c h w")
        noised = product**0.5 * clean + (1 - product) ** 0.5 * noise
        model = shrink(latent, timestep)
        sampled = scheduler.step(model, timestep, latent, generator=generator).prev_sample
        latent = mask * noised + (1 - mask) * sampled
        shown = rearrange(latent, "(b f) c h w -> b c f h w", f=FRAMES)
        torch.testing.assert_close(got[index + 1], shown, rtol=1e-4, atol=1e-4)


def test_alone_a_deterministic_solver_keeps_the_noise_of_the_start() -> None:
    known = make_latent(RUN, 5)
    noises: list[Tensor] = []

    def look(clean: Latent, step: el.Step) -> None:
        noises.append(((step.noisy - step.level.alpha * known) / step.level.sigma)[..., :3])

    *_, last = watched(el.chain(looking(look), Known(known, half())), ddim(set_alpha_to_one=True))
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(last[..., :3], known[..., :3])


def test_alone_an_ancestral_solver_draws_from_the_marginals_of_the_paper() -> None:
    known, seen = make_latent(RUN, 5), []

    def look(clean: Latent, step: el.Step) -> None:
        seen.append(((step.noisy - step.level.alpha * known) / step.level.sigma)[..., :3])

    hook = el.chain(looking(look), Known(known, half()))
    for seed in range(10):
        *_, last = watched(hook, scheduler_for("DDPMScheduler"), steps=8, seed=seed)
        torch.testing.assert_close(last[..., :3], known[..., :3], rtol=1e-4, atol=1e-4)
    noises = torch.stack(seen).unflatten(0, (10, 8)).transpose(0, 1).flatten(1)
    assert noises.mean(1).abs().max() < 0.06
    assert (noises.std(1) - 1).abs().max() < 0.05
    assert torch.corrcoef(noises)[0, -1] < 0.5, "noise is drawn, not kept"


def test_with_fresh_noise_everything_is_noised_anew() -> None:
    hook = Known(make_latent(seed=1), half().repeat(2, 1))
    run = make_run()
    step = make_step(run, 2)
    for rule, everywhere in ((el.FreshNoise(), True), (FreshKnown(hook), False)):
        bound = el.renoise(hook, rule)
        clean, state = bound.update(step.predicted.clean, step, bound.init(run))
        proposed = make_latent(seed=9)
        latent, _ = bound.finish(clean, proposed, step, state)
        assert not torch.isclose(latent[..., :3], proposed[..., :3]).any()
        assert torch.equal(latent[..., 3:], proposed[..., 3:]) is not everywhere


def test_what_is_known_in_part_is_left_to_the_solver() -> None:
    mask = torch.tensor([0.0, 0.5, 1.0, 1.0, 0.99])[:, None, None]
    rule, run = FreshKnown(Known(make_latent(), mask)), make_run()
    proposed, step = make_latent(seed=9), make_step(run, 2)
    latent, _ = rule.update(make_latent(seed=8), proposed, step, rule.init(run))
    free = [0, 1, 4]
    assert torch.equal(latent[:, :, free], proposed[:, :, free])
    assert not torch.isclose(latent[:, :, 2:4], proposed[:, :, 2:4]).any()


def test_steps_at_which_nothing_was_put_in_are_left_alone() -> None:
    known = Known(make_latent(), ALL)
    rule, run = FreshKnown(known), make_run()
    proposed = make_latent(seed=9)
    assert rule.update(None, proposed, make_step(run), rule.init(run))[0] is proposed


@pytest.mark.parametrize("pipeline", [tiny_sd, tiny_animatediff])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_pipeline_ends_at_what_is_known_and_changes_the_rest_to_suit(
    pipeline: Any, fresh: bool
) -> None:
    pipe = pipeline(ddim(set_alpha_to_one=True))
    known = make_latent((1, 4, 1, 8, 12), 3)
    hook: Hook[Any] = Known(known, frames=(0,))
    if fresh:
        hook = el.renoise(hook, FreshKnown(Known(known, frames=(0,))))
    frames = 3 if pipeline is tiny_sd else None
    plain = _frames_of(sample(pipe))
    with el.attach(pipe, hook, frames=frames):
        latents = _frames_of(sample(pipe))
    torch.testing.assert_close(latents[:, :, 0], known[:, :, 0], rtol=1e-4, atol=1e-4)
    same = torch.allclose(latents[:, :, 1:], plain[:, :, 1:], rtol=1e-3, atol=1e-3)
    assert same is (pipeline is tiny_sd), "an image network cannot look at the known frame"


def _frames_of(latents: Tensor) -> Tensor:
    return latents if latents.ndim == 5 else rearrange(latents, "f c h w -> 1 c f h w")


def test_schedules_that_end_above_zero_keep_their_last_noise() -> None:
    known = make_latent((1, 4, 1, 8, 12), 3)
    pipe = tiny_sd(ddim())
    with el.attach(pipe, Known(known, frames=(0,)), frames=3):
        latents = _frames_of(sample(pipe))
    error = (latents[:, :, 0] - known[:, :, 0]).square().mean().sqrt()
    assert float(error) == pytest.approx(0.03, abs=0.01)


# --- errors ---------------------------------------------------------------------------------------


def test_a_mask_or_frames() -> None:
    with pytest.raises(ValueError, match=r"given neither; write Known\(clean, mask\) or"):
        Known(make_latent())
    with pytest.raises(ValueError, match="given both"):
        Known(make_latent(), ALL, (0,))


def test_as_many_latents_as_frames() -> None:
    message = (
        r"given 2 latent frames for frames=\(0, 1, 2\); give one for each, such as "
        r"clean\[:, :, \[0, 1, 2\]\] of a whole clip, or one for all"
    )
    with pytest.raises(ValueError, match=message):
        Known(make_latent((1, 4, 2, 8, 6)), frames=(0, 1, 2))


@pytest.mark.parametrize("values", [[0.0, 255.0], [-1.0, 1.0], [0.0, torch.nan]])
def test_masks_out_of_range(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"from 0 \(free\) to 1 \(known\), and was given values"):
        Known(make_latent(), torch.tensor(values)[:, None, None, None])


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (Known(make_latent((1, 4, 5, 8, 7)), ALL), r"latents of shape \(1, 4, 5, 8, 7\), but the"),
        (Known(make_latent((1, 4, 4, 8, 6)), ALL), r"latents of shape \(1, 4, 4, 8, 6\), but the"),
        (Known(make_latent((3, 4, 1, 8, 6)), frames=(0,)), r"latents of shape \(3, 4, 5, 8, 6\)"),
        (Known(make_latent(), torch.ones(6, 8)), r"a mask of shape \(6, 8\), but the run's"),
        (Known(make_latent(), torch.ones([1] * 6)), r"a mask of shape \(1, 1, 1, 1, 1, 1\)"),
        (
            Known(make_latent((1, 4, 1, 8, 6)), frames=(0, 5, -6)),
            r"frames \[5, -6\], but the run's latents have 5 \(0 to 4, or -5 to -1 from the end\)",
        ),
    ],
)
def test_what_does_not_fit_the_run(hook: Known, message: str) -> None:
    with pytest.raises(el.CheckError, match=message):
        hook.init(make_run())
    with pytest.raises(el.CheckError, match=message):
        FreshKnown(hook).init(make_run())


def test_too_many_frames_are_told_before_the_run() -> None:
    one, six = make_latent((1, 4, 1, 8, 6)), make_latent((1, 4, 6, 8, 6))
    fitting = [Known(one, frames=(0, 4, -5)), Known(one, ALL), Known(one, frames=())]
    assert not [problem for hook in fitting for problem in hook.check(HOST)]
    for hook in (Known(one, frames=(0, 5)), Known(one, frames=(-6,)), Known(six, ALL)):
        (problem,) = hook.check(HOST)
        assert "knows of 6 frames, but the clip has 5; give latents and indices" in problem
    with pytest.raises(el.CheckError, match="knows of 9 frames, but the clip has 3"):
        el.attach(tiny_sd(), Known(one, frames=(8,)), frames=3).__enter__()


def test_a_host_that_clips_would_lose_large_latents() -> None:
    pipe = Loop(ddim(clip_sample=True))  # diffusers' own Stable Diffusion switches it off
    (problem,) = el.check(pipe, Known(2 * torch.ones(1, 4, 1, 8, 6), frames=(0,)), frames=3)
    assert "known latents beyond that would not be kept" in problem
    assert "DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False" in problem
    assert not el.check(pipe, Known(0.9 * torch.ones(1, 4, 1, 8, 6), frames=(0,)), frames=3)


def test_cited() -> None:
    hook = Known(make_latent(), ALL)
    assert el.cite(el.renoise(hook, FreshKnown(hook))).count("RePaint") == 1
