"""A hook as a callback: the same result as inside the step, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

import elevator as el
from elevator.errors import CheckError, HookError
from elevator.filters import LowPass
from elevator.hook import Hook, Step
from elevator.hosts.pipeline import knows_its_frames
from elevator.latent import Latent
from elevator.samplers import DDIMInversion, SDEdit
from tests.builders import (
    FakeDenoiser,
    ddim,
    make_latent,
    sample,
    scheduler_of,
    tiny_animatediff,
    tiny_sd,
    tiny_text_to_video,
)
from tests.hosts.loops import looking, shrink
from tests.tiny_pipelines import call, tiny

NOISE = el.KeyedNoise((3,))
SOLVERS: dict[str, Callable[[], Any]] = {
    "ddim": ddim,
    "ddim-v": lambda: ddim("v_prediction"),
    "ddim-sample": lambda: ddim("sample"),
    "ddim-trailing": lambda: ddim(timestep_spacing="trailing"),
    "ddim-parallel": lambda: scheduler_of("DDIMParallelScheduler", clip_sample=False),
    "euler": lambda: scheduler_of("EulerDiscreteScheduler"),
    "euler-karras": lambda: scheduler_of("EulerDiscreteScheduler", use_karras_sigmas=True),
    "flow": lambda: scheduler_of("FlowMatchEulerDiscreteScheduler"),
    "flow-shifted": lambda: scheduler_of("FlowMatchEulerDiscreteScheduler", shift=3.0),
}
LOWPASS = LowPass("gaussian", temporal=0.4, spatial=1.0)
HOOKS: dict[str, Hook[Any]] = {
    "everywhere": LOWPASS,
    "some steps": el.at({1, 3}, LOWPASS),
    "chain": el.chain(el.between(0.2, 0.7, LOWPASS), el.stateless(lambda c, step: 0.9 * c)),
    "drawing": el.at({1}, SDEdit(FakeDenoiser(), 2)),
    "keep": el.renoise(el.at({1}, LOWPASS), el.KeepNoise()),
    "fresh": el.renoise(el.at({0, 2}, LOWPASS), el.FreshNoise()),
    "inversion": el.renoise(
        el.at({1}, LOWPASS), DDIMInversion(FakeDenoiser(), FakeDenoiser(0.4), told="own")
    ),
}


class Calling:
    """The least of a pipeline that calls back: no parameters, latents `(b f) c h w`."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def __call__(self, callback: Any = None, steps: int = 5) -> Tensor:
        self.scheduler.set_timesteps(steps)
        latents = start() * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for index, timestep in enumerate(self.scheduler.timesteps):
            scaled = latents
            if hasattr(self.scheduler, "scale_model_input"):
                scaled = self.scheduler.scale_model_input(latents, timestep)
            latents = self.scheduler.step(shrink(scaled, timestep), timestep, latents)[0]
            if callback is not None:
                tensors = callback(self, index, timestep, {"latents": latents})
                latents = tensors.pop("latents", latents)
        return latents


def start() -> Tensor:
    return make_latent((3, 4, 6, 8), 11)


def attached(pipe: Any, hook: Hook[Any], **more: Any) -> Tensor:
    with el.attach(pipe, hook, frames=3, noise=NOISE):
        return pipe(**more)


def made(hook: Hook[Any], **more: Any) -> Any:
    own = {"latents": start(), "frames": 3, "noise": NOISE, "layout": "(b f) c h w"}
    return el.HookCallback(hook, **{**own, **more})


# --- the same as inside the step ------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_it_gives_what_attach_gives(solver: Callable[[], Any], hook: Hook[Any]) -> None:
    pipe = Calling(solver())
    plain = pipe()
    expected, got = attached(pipe, hook), pipe(made(hook))
    assert (expected - plain).abs().max() > 1e-2
    size = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * size)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_hook_sees_the_estimates_of_the_steps(solver: Callable[[], Any]) -> None:
    pipe, inside, after = Calling(solver()), list[Step](), list[Step]()
    plain = attached(pipe, looking(lambda clean, step: inside.append(step)))
    assert torch.equal(pipe(), plain)
    got = pipe(made(looking(lambda clean, step: after.append(step))))
    assert torch.equal(got, plain)  # bitwise: nothing was changed
    assert [step.index for step in after] == [0, 1, 2, 3, 4]
    for one, other in zip(inside, after, strict=True):
        torch.testing.assert_close(other.noisy, one.noisy, rtol=0.0, atol=0.0)
        size = float(one.predicted.clean.abs().max())
        torch.testing.assert_close(
            other.predicted.clean, one.predicted.clean, rtol=1e-3, atol=1e-4 * size
        )
        assert other.level.alpha == one.level.alpha
        assert other.level.sigma == one.level.sigma
        assert other.next == one.next
        assert other.run.shape == one.run.shape == (1, 4, 3, 6, 8)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("latents", [None, start()], ids=["unknown", "known"])
def test_a_hook_that_does_nothing_is_bitwise_invisible(
    solver: Callable[[], Any], latents: Tensor | None
) -> None:
    pipe = Calling(solver())
    plain = pipe()
    hook = el.at({1, 2}, el.stateless(lambda clean, step: clean))
    before = dict(vars(pipe.scheduler))
    for _ in range(2):
        assert torch.equal(pipe(made(hook, latents=latents)), plain)
    assert type(pipe.scheduler) is type(solver())
    assert before.keys() == vars(pipe.scheduler).keys()


def test_runs_know_nothing_of_each_other() -> None:
    pipe, callback = Calling(ddim()), made(HOOKS["chain"])
    first, second = pipe(callback), pipe(callback)
    assert torch.equal(first, second)
    expected = attached(pipe, HOOKS["chain"], steps=3)
    torch.testing.assert_close(pipe(callback, steps=3), expected, rtol=1e-4, atol=1e-4)


def test_a_broken_run_leaves_nothing_to_the_next() -> None:
    pipe, callback = Calling(ddim()), made(HOOKS["some steps"])
    expected = pipe(callback)

    def stop(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        if index == 2:
            raise KeyboardInterrupt
        return callback(pipeline, index, timestep, tensors)

    with pytest.raises(KeyboardInterrupt):
        pipe(stop)
    assert torch.equal(pipe(callback), expected)


def test_noise_is_new_in_every_run_and_leaves_the_generators_alone() -> None:
    pipe, callback = Calling(ddim()), made(HOOKS["drawing"], noise=None)
    state = torch.get_rng_state()
    first, second = pipe(callback), pipe(callback)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    again = made(HOOKS["drawing"], noise=None)
    assert torch.equal(pipe(again), first)


# --- in diffusers' places -------------------------------------------------------------------------

PIPELINES: dict[str, dict[str, Any]] = {
    "animatediff": {},
    "animatediff_sdxl": {},
    "cog": {},
    "hunyuan": {},
    "mochi": {},
    "sd3": {},
    "sdxl": {},
    "svd": {},
    "wan": {"scheduler": scheduler_of("FlowMatchEulerDiscreteScheduler", shift=3.0)},
    "wan22": {},
}


def _latents(output: Any) -> Tensor:
    first = output[0]
    return torch.as_tensor(first[0] if isinstance(first, list) else first)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_it_knows_gives_what_attach_gives(name: str) -> None:
    pipe = tiny(name)
    for part, made in PIPELINES[name].items():
        setattr(pipe, part, made)
    given = {"num_inference_steps": 3}
    if "clip_sample" in pipe.scheduler.config:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, clip_sample=False)
    frames = None if knows_its_frames(pipe) else 1
    seen: list[Latent] = []
    hook = el.chain(
        el.at({1, 2}, el.stateless(lambda clean, step: 0.5 * clean.roll(1, -1))),
        looking(lambda clean, step: seen.append(clean)),
    )
    with el.attach(pipe, hook, frames=frames):
        expected = _latents(pipe(**call(name, **given)))
    inside, seen = seen, []
    hook = el.chain(hook.inner()[0], looking(lambda clean, step: seen.append(clean)))
    callback = el.HookCallback(el.at({1, 2}, hook), frames=frames)
    got = _latents(pipe(**call(name, **given, callback_on_step_end=callback)))
    size = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * size)
    assert [clean.shape for clean in seen] == [clean.shape for clean in inside[1:]]
    plain = _latents(pipe(**call(name, **given)))
    assert (expected - plain).abs().max() > 1e-2


class Louder(PipelineCallback):
    @property
    def tensor_inputs(self) -> list[str]:
        return ["prompt_embeds"]

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        return callback_kwargs | {"prompt_embeds": 2 * callback_kwargs["prompt_embeds"]}


def test_it_works_in_stable_diffusion_and_among_several_callbacks() -> None:
    pipe, noise = tiny_sd(), make_latent((3, 4, 8, 12), 11)
    louder, callback = Louder(), el.HookCallback(LOWPASS, latents=noise, frames=3)
    assert isinstance(callback, PipelineCallback)
    with el.attach(pipe, LOWPASS, frames=3):
        expected = sample(pipe, latents=noise, callback_on_step_end=louder)
        alone = sample(pipe, latents=noise)
    both = MultiPipelineCallbacks([louder, callback])
    assert both.tensor_inputs == ["prompt_embeds", "latents"]
    got = sample(pipe, latents=noise, callback_on_step_end=both)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    got = sample(pipe, latents=noise, callback_on_step_end=callback)
    torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-4)
    assert (alone - expected).abs().max() > 1e-3


def test_a_legacy_callback_writes_into_the_latents() -> None:
    pipe, noise = tiny_text_to_video(), make_latent((1, 4, 3, 8, 12), 4)
    with el.attach(pipe, LOWPASS):
        expected = sample(pipe, latents=noise)
    plain = sample(pipe, latents=noise)
    callback = el.HookCallback(LOWPASS, latents=noise)
    got = sample(pipe, latents=noise, callback=callback.legacy(pipe))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (got - plain).abs().max() > 1e-2
    idle = el.HookCallback(el.identity(), latents=noise).legacy(pipe)
    assert torch.equal(sample(pipe, latents=noise, callback=idle), plain)


# --- refusals -------------------------------------------------------------------------------------


def refuse(scheduler: Any, callback: Any, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        Calling(scheduler)(callback)


@pytest.mark.parametrize(
    "name",
    [
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "DDPMScheduler",
        "EulerAncestralDiscreteScheduler",
        "LCMScheduler",
    ],
)
def test_solvers_with_history_or_noise_are_refused(name: str) -> None:
    refuse(
        scheduler_of(name),
        made(LOWPASS),
        f"latents of {name} do not tell.*EulerDiscrete.*use el.attach",
    )


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (ddim(clip_sample=True), "clip_sample=True a step of DDIM.*el.attach, or pipe.scheduler"),
        (ddim(thresholding=True), "thresholding=True a step.*thresholding=False"),
        (
            scheduler_of("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True),
            "stochastic_sampling=True a step of FlowMatch.*stochastic_sampling=False",
        ),
    ],
)
def test_steps_that_cannot_be_undone_are_refused(scheduler: Any, message: str) -> None:
    refuse(scheduler, made(LOWPASS), message)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    pipe = Calling(ddim())
    pipe.scheduler.set_timesteps(5)
    told = (0, pipe.scheduler.timesteps[0], {"latents": start().to(dtype)})
    with pytest.raises(CheckError, match=r"latents are torch\.\w+.*el.attach.*float32"):
        made(LOWPASS)(pipe, *told)


@pytest.mark.parametrize("hook", [LOWPASS, el.at({0, 2}, LOWPASS), HOOKS["fresh"]])
def test_a_hook_for_an_unknown_first_step_is_refused(hook: Hook[Any]) -> None:
    message = r"may act at step 0.*latents=.*el\.at or el\.between, or use el\.attach"
    refuse(ddim(), made(hook, latents=None), message)


def test_a_rule_that_claims_the_first_step_is_refused() -> None:
    class Always(el.Renoise[Any]):
        def update(self, clean: Any, proposed: Latent, step: Step, state: Any) -> Any:
            return proposed + 1, state

        def claims(self, acts_at: frozenset[int], steps: int) -> frozenset[int]:
            return frozenset(range(steps))

    hook = el.renoise(el.at({2}, LOWPASS), Always())
    refuse(ddim(), made(hook, latents=None), "may act at step 0")


def test_other_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(ddim(), made(LOWPASS, frames=None), r"Calling does not tell how many frames.*frames=")
    refuse(ddim(), made(LOWPASS, layout=None), "know that Calling gives.*layout='b c f h w'")
    refuse(ddim(), made(LOWPASS, latents=start()[:1]), r"shape \(1, 4, 6, 8\).*are \(3, 4, 6, 8\)")
    both = el.renoise(el.chain(el.renoise(LOWPASS, el.KeepNoise())), el.KeepNoise())
    refuse(ddim(), made(both), "rule around a hook that has one already")
    pipe = Calling(ddim())
    with (
        el.attach(pipe, el.identity(), frames=3),
        pytest.raises(CheckError, match="already carries a hook; chain"),
    ):
        pipe(made(LOWPASS))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(TypeError, match=r"HookCallback takes a hook.*stateless"):
        el.HookCallback(lambda clean, step: clean)  # type: ignore[arg-type]


def test_pipelines_it_does_not_know_are_refused() -> None:
    pipe = tiny("ltx")
    with pytest.raises(CheckError, match=r"know that LTXPipeline gives its callback.*el.attach"):
        pipe(**call("ltx", callback_on_step_end=el.HookCallback(LOWPASS)))
    video = tiny_animatediff()
    video.enable_free_init(num_iters=2)
    with pytest.raises(CheckError, match=r"FreeInit makes new noise.*el.attach"):
        sample(video, callback_on_step_end=el.HookCallback(el.at({1}, LOWPASS)))


def test_a_step_left_out_is_noticed() -> None:
    pipe, noise = tiny_text_to_video(), make_latent((1, 4, 3, 8, 12), 4)
    callback = el.HookCallback(LOWPASS, latents=noise).legacy(pipe)
    with pytest.raises(HookError, match=r"called at step 2 after step 0.*callback_steps=1"):
        sample(pipe, latents=noise, callback=callback, callback_steps=2)


def test_other_timesteps_than_the_schedulers_are_noticed() -> None:
    pipe, callback = Calling(ddim()), made(LOWPASS)

    def shifted(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        return callback(pipeline, index, timestep + 1, tensors)

    with pytest.raises(HookError, match="none of the scheduler's"):
        pipe(shifted)
    with pytest.raises(HookError, match="needs every step from the first on"):
        made(LOWPASS)(pipe, 1, pipe.scheduler.timesteps[1], {"latents": start()})
