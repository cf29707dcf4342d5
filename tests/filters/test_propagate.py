"""Propagate: its equation, what it leaves alone, what it is for, and the hosts it runs on."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, final

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import elevator as el
from elevator.filters import Flow, Propagate
from elevator.hook import Hook, Host, Step
from elevator.latent import Latent
from tests.builders import make_latent, make_run, make_step
from tests.reference.propagation import propagate
from tests.tiny_pipelines import call, latents_of, tiny


def apply(hook: Propagate, latent: Tensor) -> Tensor:
    run = make_run(tuple(latent.shape))  # type: ignore[arg-type]
    return hook.update(latent, make_step(run), hook.init(run))[0]


def still(batch: int, pairs: int, height: int, width: int) -> Flow:
    return Flow(*(torch.zeros(batch, 2, pairs, height, width) for _ in range(2)))


def smooth_flow(batch: int, pairs: int, height: int, width: int, seed: int) -> Flow:
    """Motion there and nearly the same back, so that some of it is trusted."""
    there = make_latent((batch, 2, pairs, 1, 1), seed).expand(-1, -1, -1, height, width)
    jitter = 0.15 * make_latent((batch, 2, pairs, height, width), seed + 1)
    return Flow(there.contiguous(), -there + jitter)


# --- the equation ---------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    st.floats(0.1, 1.0),
    st.integers(0, 99),
)
def test_it_is_its_equation(shape: tuple[int, int, int, int], fuse: float, seed: int) -> None:
    batch, frames, height, width = shape
    latent = make_latent((batch, 2, frames, height, width), seed)
    flow = smooth_flow(batch, frames - 1, height, width, seed + 7)
    got = apply(Propagate(flow, fuse, mode="bilinear"), latent)
    for row in range(batch):
        clip, forward, backward = (part[row].transpose(0, 1) for part in (latent, *flow))
        wanted = propagate(clip, forward, backward, fuse)
        torch.testing.assert_close(got[row].transpose(0, 1), wanted, rtol=1e-4, atol=1e-5)


def test_still_frames_are_mixed_by_hand() -> None:
    latent = torch.tensor([0.0, 4.0, 8.0])[None, None, :, None, None].expand(1, 1, 3, 2, 2)
    got = apply(Propagate(still(1, 2, 2, 2), 0.25), latent)
    # Backwards: 8, 0.75 * 4 + 0.25 * 8 = 5, 0.25 * 5 = 1.25.
    # Forwards: 1.25, 0.75 * 5 + 0.25 * 1.25 = 4.0625, 0.75 * 8 + 0.25 * 4.0625 = 7.015625.
    assert got[0, 0, :, 0, 0].tolist() == [1.25, 4.0625, 7.015625]


def test_the_whole_of_the_neighbour_makes_one_frame_of_all() -> None:
    latent = make_latent((1, 4, 5, 4, 6))
    got = apply(Propagate(still(1, 4, 4, 6), fuse=1), latent)
    torch.testing.assert_close(got, latent[:, :, -1:].expand_as(got))


def test_motion_is_followed() -> None:
    """A texture that runs to the right by two pixels a frame, under noise."""
    long = make_latent((1, 4, 1, 8, 24))
    clip = torch.cat([long[..., 8 - 2 * i : 24 - 2 * i] for i in range(4)], 2)
    right = torch.tensor([2.0, 0.0])[None, :, None, None, None].expand(1, 2, 3, 8, 16)
    noisy = clip + 0.5 * make_latent(tuple(clip.shape), 1)
    along = apply(Propagate(Flow(right, -right)), noisy)
    middle = (..., slice(6, 10))
    before = (noisy - clip)[middle].square().mean()
    assert (along - clip)[middle].square().mean() < 0.55 * before
    against = apply(Propagate(Flow(-right, right)), noisy)
    assert (against - clip)[middle].square().mean() > before


def test_what_is_not_trusted_stays() -> None:
    latent = make_latent((1, 4, 3, 4, 6))
    contradicting = Flow(still(1, 2, 4, 6).forward + 3, still(1, 2, 4, 6).backward + 3)
    assert torch.equal(apply(Propagate(contradicting), latent), latent)
    unknown = Flow(*(part * float("nan") for part in contradicting))
    assert torch.equal(apply(Propagate(unknown), latent), latent)


def test_flow_of_pictures_fits_latents() -> None:
    """Half as wide and a third as high: dx halves, dy is a third."""
    latent = make_latent((1, 4, 3, 8, 8))
    vector = torch.tensor([4.0, -3.0])[None, :, None, None, None]
    pictures = vector.expand(1, 2, 2, 24, 16)
    small = (vector / torch.tensor([2.0, 3.0])[:, None, None, None]).expand(1, 2, 2, 8, 8)
    got = apply(Propagate(Flow(pictures, -pictures)), latent)
    torch.testing.assert_close(got, apply(Propagate(Flow(small, -small)), latent))
    assert not torch.equal(got, latent)


def test_one_flow_may_stand_for_every_clip() -> None:
    latent = make_latent((2, 4, 3, 5, 6))
    one = smooth_flow(1, 2, 5, 6, 3)
    twice = Flow(*(part.repeat(2, 1, 1, 1, 1) for part in one))
    assert torch.equal(apply(Propagate(one), latent), apply(Propagate(twice), latent))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_flow_in_half_precision_is_computed_with_in_single(dtype: torch.dtype) -> None:
    latent, flow = make_latent((1, 4, 3, 5, 6)), smooth_flow(1, 2, 5, 6, 3)
    rounded = Flow(*(part.to(dtype) for part in flow))
    again = Flow(*(part.float() for part in rounded))
    assert torch.equal(apply(Propagate(rounded), latent), apply(Propagate(again), latent))


# --- neutral --------------------------------------------------------------------------------------


def test_nothing_to_do_is_the_same_object() -> None:
    latent, one = make_latent((1, 4, 3, 5, 6)), make_latent((1, 4, 1, 5, 6))
    off = Propagate(still(1, 2, 5, 6), fuse=0)
    assert apply(off, latent) is latent
    assert off.acts_at(4) == frozenset()
    alone = Propagate(still(1, 0, 5, 6))
    assert apply(alone, one) is one
    assert alone.acts_at(4) == frozenset()
    assert Propagate(still(1, 2, 5, 6)).acts_at(4) == frozenset(range(4))


def test_equal_where_the_flow_is_the_same_object() -> None:
    flow = still(1, 2, 5, 6)
    assert Propagate(flow) == Propagate(flow)
    assert hash(Propagate(flow)) == hash(Propagate(flow))
    assert Propagate(flow) != Propagate(flow, 0.3)
    assert Propagate(flow) != Propagate(still(1, 2, 5, 6))
    assert "fuse=0.3" in repr(Propagate(flow, 0.3))
    assert "2312.06640" in el.cite(el.renoise(Propagate(flow), el.KeepNoise()))


# --- flow that is still being estimated -----------------------------------------------------------


def coming(flow: object) -> Future[Any]:
    made: Future[Any] = Future()
    made.set_result(flow)
    return made


def test_flow_to_come_is_waited_for_at_the_first_step_that_propagates() -> None:
    latent, flow = make_latent((2, 4, 3, 5, 6)), smooth_flow(1, 2, 10, 12, 3)
    future: Future[Flow] = Future()
    hook, run = Propagate(future, 0.4), make_run((2, 4, 3, 5, 6))
    state = hook.init(run)
    assert not [*hook.check(Host("DDIMScheduler", 1, "epsilon", frames=2))]
    assert hook.acts_at(4) == frozenset(range(4))
    future.set_result(flow)
    ready = Propagate(flow, 0.4)
    made, after = hook.update(latent, make_step(run), state)
    assert torch.equal(made, apply(ready, latent))
    again, last = hook.update(latent, make_step(run, 1), after)
    assert last is after  # its passes are made once
    assert torch.equal(again, made)


def test_where_nothing_is_propagated_no_flow_is_waited_for() -> None:
    never: Future[Flow] = Future()
    latent, one = make_latent((1, 4, 3, 5, 6)), make_latent((1, 4, 1, 5, 6))
    assert apply(Propagate(never, fuse=0), latent) is latent
    assert apply(Propagate(never), one) is one
    assert Propagate(never, fuse=0).acts_at(4) == frozenset()


def test_flow_to_come_is_told_by_itself_and_not_by_when() -> None:
    future: Future[Flow] = Future()
    hook = Propagate(future, 0.3)
    before, said = hash(hook), repr(hook)
    assert hook == Propagate(future, 0.3) != Propagate(Future(), 0.3)
    future.set_result(still(1, 2, 5, 6))
    assert (hash(hook), repr(hook)) == (before, said)
    assert said.startswith("Propagate(<flow to come>, fuse=0.3,")


def test_what_comes_of_a_future_is_checked_then() -> None:
    latent, error = make_latent((1, 4, 3, 5, 6)), RuntimeError("no flow today")
    with pytest.raises(el.CheckError, match=r"flow of 4 frames .* but the latents have 3"):
        apply(Propagate(coming(still(1, 3, 5, 6))), latent)
    with pytest.raises(el.CheckError, match="flow of 2 clips, but the latents have 1"):
        apply(Propagate(coming(still(2, 2, 5, 6))), latent)
    with pytest.raises(ValueError, match=r"a Flow, or a future of one, not a list; write Flow\("):
        apply(Propagate(coming([])), latent)
    failed: Future[Flow] = Future()
    failed.set_exception(error)
    with pytest.raises(RuntimeError) as raised:
        apply(Propagate(failed), latent)
    assert raised.value is error


# --- hosts ----------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Looking(Hook[Any]):
    """Keeps the steps it sees."""

    seen: list[Step]

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        self.seen.append(step)
        return clean, state


FRAMES = 4
STEPS, WHERE = 4, 2


def arguments(name: str) -> dict[str, Any]:
    given = call(name, num_inference_steps=STEPS)
    if name == "upscale":  # frames are the batch
        for prompt in ("prompt_embeds", "negative_prompt_embeds"):
            given[prompt] = given[prompt].repeat(FRAMES, 1, 1)
        given["image"] = [Image.new("RGB", (16, 16), (60 * i, 90, 40)) for i in range(FRAMES)]
    return given


@pytest.mark.parametrize("name", ["upscale", "animatediff", "animatediff_sdxl", "t2vsd", "svd"])
def test_it_runs_on_every_pipeline_whose_autoencoder_is_of_images(name: str) -> None:
    pipe = tiny(name)
    frames = FRAMES if name == "upscale" else None
    flow = smooth_flow(1, FRAMES - 1, 8, 8, 2)
    hook = Propagate(flow)
    steps: list[Step] = []

    def made(hook: Hook[Any]) -> Tensor:
        with el.attach(pipe, hook, frames=frames), torch.no_grad():
            return latents_of(pipe(**arguments(name)))

    with torch.no_grad():
        plain = latents_of(pipe(**arguments(name)))
    assert torch.equal(made(el.renoise(Propagate(flow, fuse=0), el.KeepNoise())), plain)
    changed = made(el.chain(Looking(steps), el.renoise(el.at({WHERE}, hook), el.KeepNoise())))
    assert changed.isfinite().all()
    assert not torch.equal(changed, plain)

    step, after = steps[WHERE], steps[WHERE + 1]
    edited = hook.update(step.predicted.clean, step, hook.init(step.run))[0]
    assert not torch.equal(edited, step.predicted.clean)
    wanted = step.next.alpha * edited + step.next.sigma * step.predicted.noise
    torch.testing.assert_close(after.noisy.float(), wanted.float(), rtol=1e-4, atol=1e-4)


# --- errors ---------------------------------------------------------------------------------------


def test_flow_of_other_frames_or_clips() -> None:
    hook = Propagate(still(2, 3, 5, 6))
    message = r"flow of 4 frames \(3 pairs\), but the latents have 3; estimate the flow of exactly"
    with pytest.raises(el.CheckError, match=message):
        hook.init(make_run((2, 4, 3, 5, 6)))
    with pytest.raises(el.CheckError, match="flow of 2 clips, but the latents have 3; give one"):
        hook.init(make_run((3, 4, 4, 5, 6)))


def test_too_long_a_flow_is_seen_before_the_run() -> None:
    hook = Propagate(still(1, 3, 5, 6))
    problems = [*hook.check(Host("DDIMScheduler", 1, "epsilon", frames=3))]
    assert len(problems) == 1
    assert "flow of 4 frames (3 pairs), but the clip has 3; estimate the flow of" in problems[0]
    # A causal VAE makes fewer latent frames than the clip has.
    for frames in (None, 4, 13):
        assert not [*hook.check(Host("DDIMScheduler", 1, "epsilon", frames=frames))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fuse": 1.2}, "fuse=1.2 is no share of the neighbour; give a number from 0"),
        ({"fuse": float("nan")}, "fuse=nan is no share"),
        ({"alpha1": -1.0}, "alpha1=-1.0, alpha2=0.05 allow no distance; give numbers from 0 up"),
        ({"alpha2": float("nan")}, "alpha2=nan allow no distance"),
        ({"mode": "cubic"}, "mode 'cubic' is unknown; choose one of bilinear, bicubic, nearest"),
    ],
)
def test_numbers_out_of_range(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(ValueError, match=message):
        Propagate(still(1, 2, 5, 6), **arguments)


@pytest.mark.parametrize(
    "flow",
    [
        Flow(torch.zeros(1, 2, 3, 5, 6), torch.zeros(1, 2, 2, 5, 6)),
        Flow(torch.zeros(1, 3, 2, 5, 6), torch.zeros(1, 3, 2, 5, 6)),
        Flow(torch.zeros(2, 2, 5, 6), torch.zeros(2, 2, 5, 6)),
    ],
)
def test_flows_that_are_none(monkeypatch: pytest.MonkeyPatch, flow: Flow) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"whose two parts have one shape \(b, 2, frames - 1, h"):
        Propagate(flow)
    with pytest.raises(ValueError, match=r"not a tuple; write Flow\(forward, backward\)"):
        Propagate(tuple(flow))  # type: ignore[arg-type]
