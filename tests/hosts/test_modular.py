"""A hook as a block of a modular pipeline: equal to `attach`, and gone without a trace."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, final

import jaxtyping
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanBlocks
from torch import Tensor

import elevator as el
from elevator.errors import CheckError, HookError
from elevator.filters import LowPass
from elevator.hook import Hook, Step
from elevator.latent import Latent
from elevator.samplers import SDEdit
from tests.builders import FakeDenoiser
from tests.hosts.loops import looking
from tests.tiny_pipelines import call, tiny

STEPS = 4
NOISE = el.KeyedNoise((3,))
LOWPASS = LowPass("gaussian", temporal=0.4, spatial=1.0)
HOOKS: dict[str, Hook[Any]] = {
    "everywhere": LOWPASS,
    "chain": el.chain(el.at({1, 2}, LOWPASS), el.stateless(lambda clean, step: 0.9 * clean)),
    "drawing": el.at({2}, SDEdit(FakeDenoiser(), 2)),
}


def blocks() -> Any:
    """Wan's blocks without text encoder and decoder."""
    return WanBlocks().sub_blocks["denoise"]


def piped(chosen: Any, scheduler: str = "UniPCMultistepScheduler") -> Any:
    """A tiny modular pipeline of the blocks given."""
    source = tiny("wan")
    pipe = chosen.init_pipeline()
    if scheduler == "UniPCMultistepScheduler":
        made: Any = UniPCMultistepScheduler.from_config(source.scheduler.config)
    else:
        made = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe.update_components(transformer=source.transformer, scheduler=made, vae=None)
    for loop in pipe._blocks.sub_blocks.values():
        if hasattr(loop, "set_progress_bar_config"):
            loop.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any, steps: int = STEPS) -> Tensor:
    given = call("wan", num_inference_steps=steps)
    del given["output_type"]
    latents = pipe(**given, output="latents")
    assert isinstance(latents, Tensor)
    return latents


@pytest.fixture(scope="module", params=["UniPCMultistepScheduler", "FlowMatchEuler"])
def pipe(request: pytest.FixtureRequest) -> Any:
    return piped(blocks(), request.param)


@pytest.fixture(scope="module")
def plain(pipe: Any) -> Tensor:
    return sample(pipe)


def loop_of(pipe: Any) -> Any:
    return pipe._blocks.sub_blocks["denoise"].sub_blocks


# --- the same as inside the step ------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_it_gives_what_attach_gives(pipe: Any, plain: Tensor, hook: Hook[Any]) -> None:
    with el.attach(pipe, hook, noise=NOISE):
        expected = sample(pipe)
    with el.insert(pipe, hook, noise=NOISE):
        got = sample(pipe)
        again = sample(pipe)
    assert torch.equal(got, expected)
    assert torch.equal(again, expected)
    assert (expected - plain).abs().max() > 1e-3


def test_a_hook_sees_the_estimates_of_the_steps(pipe: Any, plain: Tensor) -> None:
    inside, between = list[Step](), list[Step]()
    with el.attach(pipe, looking(lambda clean, step: inside.append(step))):
        sample(pipe)
    with el.insert(pipe, looking(lambda clean, step: between.append(step))):
        assert torch.equal(sample(pipe), plain)  # bitwise: nothing was changed
    assert [step.index for step in between] == list(range(STEPS))
    for one, other in zip(inside, between, strict=True):
        assert torch.equal(other.predicted.clean, one.predicted.clean)
        assert torch.equal(other.noisy, one.noisy)
        assert other.level == one.level
        assert other.run.shape == one.run.shape == (1, 16, 3, 2, 2)


def test_runs_of_other_lengths_follow_each_other(pipe: Any) -> None:
    with el.insert(pipe, HOOKS["chain"]):
        both = [sample(pipe, steps) for steps in (3, 5, 3)]
    with el.attach(pipe, HOOKS["chain"]):
        assert torch.equal(sample(pipe, 5), both[1])
    assert torch.equal(both[0], both[2])


def test_noise_follows_from_the_pipelines_generator(pipe: Any) -> None:
    state = torch.get_rng_state()
    with el.insert(pipe, HOOKS["drawing"]):
        first, second = sample(pipe), sample(pipe)
    torch.manual_seed(1)
    with el.insert(pipe, HOOKS["drawing"]):
        third = sample(pipe)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_steps_in_other_loops_of_wan_too() -> None:
    from diffusers import Wan22Blocks

    chosen = Wan22Blocks()
    el.insert(chosen, LOWPASS)
    loop = chosen.sub_blocks["denoise"].sub_blocks["denoise"].sub_blocks
    assert list(loop) == ["before_denoiser", "denoiser", "hook", "after_denoiser"]


# --- put in, taken out ----------------------------------------------------------------------------


def test_it_is_taken_out_without_a_trace(pipe: Any, plain: Tensor) -> None:
    loop = loop_of(pipe)
    before, scheduler = list(loop.items()), type(pipe.scheduler)
    inputs, doc = [param.name for param in pipe._blocks.inputs], pipe._blocks.doc
    with el.insert(pipe, LOWPASS):
        assert list(loop) == ["before_denoiser", "denoiser", "hook", "after_denoiser"]
        assert type(pipe.scheduler) is scheduler
        assert [param.name for param in pipe._blocks.inputs] == inputs
        assert "LowPass(" in repr(pipe._blocks.sub_blocks["denoise"])
    assert list(loop.items()) == before
    assert pipe._blocks.doc == doc
    with pytest.raises(KeyError), el.insert(pipe, LOWPASS):
        raise KeyError
    assert list(loop.items()) == before
    inserted = el.insert(pipe, LOWPASS)
    assert not torch.equal(sample(pipe), plain)
    inserted.close()
    inserted.close()
    assert list(loop.items()) == before
    assert torch.equal(sample(pipe), plain)


@final
@dataclass(frozen=True)
class Heavy(Hook[Any]):
    """Holds something that must not be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise AssertionError("a hook was copied")

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        return clean.flip(2), state


def test_blocks_with_a_hook_make_pipelines_with_it(pipe: Any, plain: Tensor) -> None:
    if type(pipe.scheduler) is not UniPCMultistepScheduler:
        pytest.skip("once is enough")
    chosen = blocks()
    el.insert(chosen, Heavy())
    own = piped(chosen)
    got = sample(own)
    with el.insert(pipe, Heavy()):
        assert torch.equal(sample(pipe), got)
    assert not torch.equal(got, plain)
    assert "hook" not in loop_of(pipe)
    copied = copy.deepcopy(own._blocks)
    assert list(copied.sub_blocks["denoise"].sub_blocks) == list(loop_of(own))


def test_a_block_can_be_put_in_by_hand(pipe: Any) -> None:
    with el.insert(pipe, LOWPASS):
        expected = sample(pipe)
    loop_of(pipe).insert("smooth", el.HookBlock(LOWPASS), 2)
    try:
        assert torch.equal(sample(pipe), expected)
    finally:
        del loop_of(pipe)["smooth"]


# --- refusals -------------------------------------------------------------------------------------


def test_what_has_no_denoising_loop_is_refused() -> None:
    from tests.builders import tiny_sd

    message = r"has no loop with a block named 'denoiser'.*WanBlocks.*el\.attach"
    with pytest.raises(CheckError, match=f"StableDiffusionPipeline {message}"):
        el.insert(tiny_sd(), LOWPASS)
    with pytest.raises(CheckError, match=f"WanTextEncoderStep {message}"):
        el.insert(WanBlocks().sub_blocks["text_encoder"], LOWPASS)


def test_rules_are_refused() -> None:
    hook = el.chain(el.identity(), el.renoise(LOWPASS, el.FreshNoise()))
    chosen = blocks()
    with pytest.raises(CheckError, match=r"FreshNoise replaces the latent after.*el\.attach"):
        el.insert(chosen, hook)
    assert "hook" not in chosen.sub_blocks["denoise"].sub_blocks


def test_a_second_hook_is_refused() -> None:
    chosen = blocks()
    el.insert(chosen, LOWPASS)
    with pytest.raises(CheckError, match="already has a hook; chain the hooks"):
        el.insert(chosen, el.identity())
    assert isinstance(chosen.sub_blocks["denoise"].sub_blocks["hook"], el.HookBlock)


def test_a_scheduler_that_cannot_follow_is_refused(pipe: Any) -> None:
    from diffusers import DEISMultistepScheduler, EDMEulerScheduler

    before = pipe.scheduler
    try:
        for scheduler, message in (
            (DEISMultistepScheduler(), "DEISMultistepScheduler does not follow"),
            (EDMEulerScheduler(), r"is handed the clean estimate by its pipeline.*el\.attach"),
        ):
            pipe.update_components(scheduler=scheduler)
            with el.insert(pipe, LOWPASS), pytest.raises(CheckError, match=message):
                sample(pipe)
    finally:
        pipe.update_components(scheduler=before)


def test_a_place_without_a_prediction_is_named(pipe: Any) -> None:
    loop = loop_of(pipe)
    loop.insert("early", el.HookBlock(LOWPASS), 1)
    try:
        with pytest.raises(HookError, match=r"no noise_pred on its state.*right behind the block"):
            sample(pipe)
    finally:
        del loop["early"]


def test_a_function_is_told_to_be_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(TypeError, match=r"HookBlock takes a hook.*stateless\(fn\)"):
        el.insert(blocks(), lambda clean, step: clean)  # type: ignore[arg-type]
