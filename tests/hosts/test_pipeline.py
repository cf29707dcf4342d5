"""Hooks inside whole pipelines: saving, pickling, copies, offloading, precision, other loops."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import elevator as el
from elevator.errors import CheckError, HookError
from elevator.hook import Step
from elevator.latent import Latent
from tests.builders import (
    ddim,
    make_latent,
    sample,
    scheduler_of,
    tiny_animatediff,
    tiny_sd,
    tiny_text_to_video,
)
from tests.hosts.loops import looking


class Watch:
    """A hook that changes nothing and remembers what it saw."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.hook = el.stateless(self._see)

    def _see(self, clean: Latent, step: Step) -> Latent:
        self.steps.append(step)
        return clean

    @property
    def indices(self) -> list[int]:
        return [step.index for step in self.steps]


def _constant(clean: Latent, step: Step) -> Latent:
    return torch.full_like(clean, 0.375)


@pytest.mark.parametrize("build", [tiny_sd, tiny_text_to_video, tiny_animatediff])
@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
    ],
)
def test_a_hook_that_changes_nothing_is_bitwise_invisible(build: Any, name: str) -> None:
    pipe, watch = build(scheduler_of(name)), Watch()
    plain = sample(pipe)
    pipe.scheduler = scheduler_of(name)
    with el.attach(pipe, watch.hook, frames=3):
        assert torch.equal(sample(pipe), plain)
        assert torch.equal(sample(pipe), plain)  # and again
    assert torch.equal(sample(pipe), plain)
    calls = [0, 0, 1, 1, 2, 2, 3] if name.startswith("Heun") else [0, 1, 2, 3]
    assert watch.indices == calls * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", [tiny_sd, tiny_animatediff])
def test_half_precision_hosts(build: Any, dtype: torch.dtype) -> None:
    pipe, watch = build().to(dtype), Watch()
    plain = sample(pipe)
    assert plain.dtype == dtype
    with el.attach(pipe, watch.hook, frames=3):
        assert torch.equal(sample(pipe), plain)
    for step in watch.steps:
        assert step.run.dtype == dtype
        assert step.predicted.clean.dtype == step.noisy.dtype == torch.float32
    pipe.scheduler = ddim(set_alpha_to_one=True)
    with el.attach(pipe, el.stateless(_constant), frames=3):
        forced = sample(pipe)
    assert forced.dtype == dtype
    torch.testing.assert_close(forced, torch.full_like(forced, 0.375), rtol=0.0, atol=0.02)
    with el.attach(pipe, el.renoise(el.stateless(_constant), el.FreshNoise()), frames=3):
        assert sample(pipe).dtype == dtype


def test_a_saved_pipeline_names_the_original_scheduler(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = tiny_sd()
    plain = sample(pipe, steps=2)
    with el.attach(pipe, el.stateless(_constant), frames=3):
        sample(pipe, steps=2)
        pipe.save_pretrained(tmp_path)
    index = (tmp_path / "model_index.json").read_text()
    assert '"DDIMScheduler"' in index
    assert "elevator" not in index
    saved = (tmp_path / "scheduler" / "scheduler_config.json").read_text()
    assert '"_class_name": "DDIMScheduler"' in saved
    none = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "image_encoder")
    again = StableDiffusionPipeline.from_pretrained(tmp_path, **dict.fromkeys(none))
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is DDIMScheduler
    assert torch.equal(sample(again, steps=2), plain)


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_a_copied_pipeline_is_unhooked_and_works(how: str) -> None:
    from diffusers import DDIMScheduler

    pipe, watch = tiny_sd(), Watch()
    plain = sample(pipe, steps=2)
    # A lambda cannot be pickled: nothing of the hook travels.
    with el.attach(
        pipe, el.chain(watch.hook, el.stateless(lambda clean, step: 2 * clean)), frames=3
    ):
        sample(pipe, steps=2)
        other = copy.deepcopy(pipe) if how == "deepcopy" else pickle.loads(pickle.dumps(pipe))
        seen = len(watch.steps)
        assert type(other.scheduler) is DDIMScheduler
        assert "_elevator_engine" not in vars(other.scheduler)
        assert torch.equal(sample(other, steps=2), plain)
        assert len(watch.steps) == seen
        with el.attach(other, el.identity(), frames=3):
            assert torch.equal(sample(other, steps=2), plain)
        sample(pipe, steps=1)
        assert len(watch.steps) == seen + 1
    assert torch.equal(sample(other, steps=2), plain)


def test_a_copied_scheduler_is_left_alone() -> None:
    pipe, watch = tiny_sd(scheduler_of("UniPCMultistepScheduler")), Watch()
    with el.attach(pipe, watch.hook, frames=3):
        for other in (
            copy.deepcopy(pipe.scheduler),
            copy.copy(pipe.scheduler),
            pickle.loads(pickle.dumps(pipe.scheduler)),
            type(pipe.scheduler).from_config(pipe.scheduler.config),
        ):
            other.set_timesteps(2)
            other.step(make_latent((3, 4, 8, 8)), other.timesteps[0], make_latent((3, 4, 8, 8)))
        assert not watch.steps
        sample(pipe, steps=2)
    assert watch.indices == [0, 1]


class _Copying:
    """A pipeline that steps a copy of its scheduler, as SkyReels does with every frame."""

    def __init__(self, also_own: bool) -> None:
        self.scheduler, self.also_own = ddim(), also_own

    def prepare_latents(self, generator: torch.Generator | None = None) -> Tensor:
        return make_latent((3, 4, 8, 8))

    def __call__(self) -> Tensor:
        latents = audio = self.prepare_latents()
        second = copy.deepcopy(self.scheduler)
        for scheduler in (self.scheduler, second) if self.also_own else (second,):
            scheduler.set_timesteps(3)
        for timestep in second.timesteps:
            audio = second.step(0.1 * audio, timestep, audio).prev_sample
            if self.also_own:
                latents = self.scheduler.step(0.2 * latents, timestep, latents).prev_sample
        return latents + audio


def test_a_pipeline_that_deepcopies_its_scheduler() -> None:
    pipe, watch = _Copying(also_own=True), Watch()
    plain = pipe()
    with el.attach(pipe, watch.hook, frames=3):
        assert torch.equal(pipe(), plain)
    assert watch.indices == [0, 1, 2]
    pipe = _Copying(also_own=False)
    with (
        pytest.raises(HookError, match=r"_Copying prepared a run but never called scheduler\.step"),
        el.attach(pipe, watch.hook, frames=3),
    ):
        pipe()


def test_free_init_repeats_the_loop() -> None:
    pipe, counts = tiny_animatediff(), []
    pipe.enable_free_init(num_iters=3, use_fast_sampling=False)
    plain = sample(pipe, steps=3)
    watch = Watch()

    def count(clean: Latent, step: Step) -> Latent:
        counts.append(step.run)
        return clean

    with el.attach(pipe, el.chain(watch.hook, el.stateless(count))):
        assert torch.equal(sample(pipe, steps=3), plain)
    assert watch.indices == [0, 1, 2] * 3
    assert len({id(run) for run in counts}) == 3

    pipe.enable_free_init(num_iters=2, use_fast_sampling=True)
    watch = Watch()
    with el.attach(pipe, watch.hook):
        sample(pipe, steps=4)
    lengths = [len(step.run.schedule) for step in watch.steps if step.index == 0]
    assert lengths == [2, 4]


def test_image_to_image_starts_in_the_middle() -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    base = tiny_sd()
    for name in ("DDIMScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"):
        pipe, watch = StableDiffusionImg2ImgPipeline(**base.components), Watch()
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = scheduler_of(name)

        def run(pipe: Any) -> Tensor:
            embeds = make_latent((1, 5, 16), 7).repeat(3, 1, 1)
            return pipe(
                prompt_embeds=embeds,
                negative_prompt_embeds=-embeds,
                image=make_latent((3, 3, 16, 24)).clamp(-1, 1),
                strength=0.5,
                num_inference_steps=6,
                generator=torch.Generator().manual_seed(0),
                output_type="latent",
            ).images

        plain = run(pipe)
        pipe.scheduler = scheduler_of(name)
        with el.attach(pipe, watch.hook, frames=3):
            assert torch.equal(run(pipe), plain)
        expected = [3, 3, 4, 4, 5] if name.startswith("Heun") else [3, 4, 5]
        assert watch.indices == expected


def test_two_prompts_are_two_clips() -> None:
    pipe, watch = tiny_sd(), Watch()
    embeds = make_latent((2, 5, 16), 7).repeat_interleave(3, 0)
    with el.attach(pipe, watch.hook, frames=3):
        sample(pipe, steps=1, prompt_embeds=embeds, negative_prompt_embeds=-embeds)
    assert watch.steps[0].run.shape == (2, 4, 3, 8, 12)


class _Learned(torch.nn.Module):
    """A network with a learned variance: twice the channels."""

    def forward(self, latents: Tensor) -> Tensor:
        return torch.cat([latents * 0.3, latents.sin()], dim=1)


def test_learned_variance_passes_through() -> None:
    def run(scheduler: Any) -> Tensor:
        latents = make_latent((6, 4, 8, 8))
        scheduler.set_timesteps(5)
        generator, network = torch.Generator().manual_seed(0), _Learned()
        for timestep in scheduler.timesteps:
            result = scheduler.step(network(latents), timestep, latents, generator=generator)
            latents = result.prev_sample
        return latents

    class Pipe:
        scheduler = scheduler_of("DDPMScheduler", variance_type="learned_range")

    pipe, watch = Pipe(), Watch()
    plain = run(pipe.scheduler)
    with el.attach(pipe, watch.hook, frames=3):
        assert torch.equal(run(pipe.scheduler), plain)
    assert watch.steps[0].predicted.clean.shape == (2, 4, 3, 8, 8)
    with el.attach(pipe, el.stateless(lambda clean, step: clean.clone()), frames=3):
        torch.testing.assert_close(run(pipe.scheduler), plain, rtol=1e-4, atol=1e-4)
    with el.attach(pipe, el.stateless(_constant), frames=3):
        last = run(pipe.scheduler)
    assert (last - 0.375).abs().mean() < 0.02  # its last step adds a little noise


def test_cpu_offload_by_accelerate() -> None:
    plain = sample(tiny_sd(), steps=2)
    pipe, watch = tiny_sd(), Watch()
    try:
        pipe.enable_model_cpu_offload(device="cpu")
    except (RuntimeError, ValueError, ImportError) as error:
        pytest.skip(f"accelerate does not offload here: {error}")
    with el.attach(pipe, watch.hook, frames=3):
        for _ in range(2):
            assert torch.equal(sample(pipe, steps=2), plain)
    assert watch.indices == [0, 1] * 2


def _unconditional(pipe: Any, **more: Any) -> tuple[list[Tensor], Tensor]:
    found = []

    def look(clean: Latent, step: Step) -> Latent:
        prediction = step.conditional()
        assert prediction is not None
        found.append(prediction.clean)
        return clean

    with el.attach(pipe, el.stateless(look), frames=3):
        result = sample(pipe, steps=2, **more)
    return found, result


@pytest.mark.parametrize("build", [tiny_sd, tiny_text_to_video, tiny_animatediff])
def test_the_conditional_half_of_the_hosts_own_call(build: Any) -> None:
    """At guidance 1 it is the prediction itself; with guidance it is that of the prompt alone."""
    pipe, watch = build(), Watch()
    plain, _ = _unconditional(pipe, guidance=1.0)
    guided, _ = _unconditional(pipe, guidance=4.0)
    torch.testing.assert_close(guided[0], plain[0], rtol=1e-4, atol=1e-4)
    with el.attach(pipe, watch.hook, frames=3):
        sample(pipe, steps=2, guidance=1.0)
    assert torch.equal(watch.steps[0].predicted.clean, plain[0])


@pytest.mark.parametrize("mode", ["wrapper", "in place"])
def test_compiled_networks(mode: str) -> None:
    plain = sample(tiny_sd(), steps=2)
    pipe = tiny_sd()
    if mode == "wrapper":
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    else:
        pipe.unet.compile(backend="eager")
    found, latents = _unconditional(pipe)
    assert len(found) == 2
    torch.testing.assert_close(latents, plain)
    assert not vars(pipe.unet)["_forward_hooks"]


def test_a_network_called_once_per_prompt_does_not_tell() -> None:
    """Wan calls its network for the prompt, then for the negative one."""

    class Wan:
        def __init__(self) -> None:
            self.scheduler, self.transformer = ddim(), torch.nn.Identity()

        def __call__(self, guided: bool) -> None:
            latents = make_latent((3, 4, 8, 8))
            self.scheduler.set_timesteps(2)
            for timestep in self.scheduler.timesteps:
                output = self.transformer(0.1 * latents)
                if guided:
                    output = output + 2 * (output - self.transformer(-latents))
                latents = self.scheduler.step(output, timestep, latents).prev_sample

    pipe, told = Wan(), []
    hook = looking(lambda clean, step: told.append(step.conditional() is None))
    with el.attach(pipe, hook, frames=3):
        pipe(guided=True)
        pipe(guided=False)
    assert told == [True, True, False, False]


def test_a_lora_added_while_attached() -> None:
    from peft import LoraConfig

    pipe, watch = tiny_sd(), Watch()
    plain = sample(pipe, steps=2)
    config = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
    with el.attach(pipe, watch.hook, frames=3):
        pipe.unet.add_adapter(config)
        changed = sample(pipe, steps=2)
    assert not torch.equal(changed, plain)
    assert watch.indices == [0, 1]
    assert torch.equal(sample(pipe, steps=2), changed)


def test_inference_mode() -> None:
    plain = sample(tiny_sd(), steps=2)
    pipe = tiny_sd()
    with torch.inference_mode(), el.attach(pipe, el.identity(), frames=3):
        assert torch.equal(sample(pipe, steps=2), plain)


def test_steps_outside_the_run_are_refused_before_the_network_is_called() -> None:
    pipe, calls = tiny_sd(), []
    pipe.unet.register_forward_hook(lambda *args: calls.append(1))
    with (
        pytest.raises(CheckError, match=r"at\(...\) names steps \[4, 9\], but the run has 4"),
        el.attach(pipe, el.at({0, 4, 9}, el.stateless(_constant)), frames=3),
    ):
        sample(pipe, steps=4)
    assert not calls
