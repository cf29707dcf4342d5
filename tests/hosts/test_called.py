"""Whole pipelines as denoisers: each predicts what it does when it samples by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final
from unittest.mock import Mock

import pytest
import torch
from diffusers import FirstBlockCacheConfig

import elevator as el
from elevator.denoise import Call, count_calls
from elevator.errors import CheckError
from elevator.hook import Hook, Step
from elevator.hosts.called import CalledPipeline
from elevator.hosts.coefficients import _shift
from elevator.hosts.pipeline import knows_its_frames, tokens_of
from elevator.latent import Latent, current_frames
from elevator.level import Level, Prediction
from tests.tiny_pipelines import NAMES, call, tiny

OWN = ("t2vsd",)
"""Called directly, see test_denoiser.py."""
REFUSED = {
    "skydf": "a scheduler of its own for every frame",
    "ltx_i2v": "pictures it is given among the latents",
    "ltx_cond": "pictures it is given among the latents",
    "ltx2": "sound beside pictures",
    "wan_modular": "no network a denoiser can be made of",
}
NOT_OF_A_DENOISER = (
    *("height", "width", "num_frames", "num_images_per_prompt"),
    *("num_inference_steps", "output_type", "generator"),
)


@final
@dataclass(frozen=True)
class Looking(Hook[Any]):
    """Keeps every step, copied: some pipelines write into their latents afterwards."""

    seen: list[Step]

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        kept = Prediction(*(part.clone() for part in step.predicted))
        self.seen.append(replace(step, noisy=step.noisy.clone(), predicted=kept))
        return clean, state


def given(name: str) -> dict[str, Any]:
    """What a pipeline's call is given beside what the latents tell."""
    arguments = call(name)
    return {key: value for key, value in arguments.items() if key not in NOT_OF_A_DENOISER}


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(OWN) - REFUSED.keys()))
def test_it_predicts_what_the_pipeline_does(name: str) -> None:
    """At every step, also in the middle of the pipeline's own run, which it leaves alone."""
    pipe, plain = tiny(name), tiny(name)
    seen: list[Step] = []
    worst: list[float] = []
    whole_clip = CalledPipeline(pipe, given(name), guided=True, name=name)

    def asking(clean: Latent, step: Step) -> Latent:
        made = whole_clip(step.noisy, step.level)
        pairs = zip(made, step.predicted, strict=True)
        worst.append(max(float((a - b).abs().max()) for a, b in pairs))
        return clean

    frames = None if knows_its_frames(pipe) else 1
    hook = el.chain(Looking(seen), el.stateless(asking))
    with torch.no_grad(), el.attach(pipe, hook, frames=frames):
        got = pipe(**call(name), return_dict=False)[0]
    assert len(worst) == len(seen) > 1
    assert max(worst) < 2e-5  # motion modules round differently in other batches
    assert torch.equal(got, plain(**call(name), return_dict=False)[0])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_denoiser_is_refused_with_a_reason(name: str) -> None:
    pipe = tiny(name)
    noisy = torch.zeros(1, pipe.transformer.config.in_channels, 3, 8, 8)
    with pytest.raises(CheckError, match=REFUSED[name]):
        el.denoiser(pipe, guidance=2.0, **given(name))(noisy, Level(*HALF, None))


HALF = torch.tensor(0.5), torch.tensor(0.5)


def wan(guidance: float, **more: Any) -> Any:
    """Wan's transformer and text, as a denoiser."""
    return el.denoiser(tiny("wan"), guidance=guidance, **given("wan") | more)


def test_guidance_is_the_formula() -> None:
    noisy, level = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(3)), None
    level = Level(*HALF, torch.tensor(500.0))
    texts = given("wan")
    positive = wan(1.0)(noisy, level).noise
    negative = wan(1.0, prompt_embeds=texts["negative_prompt_embeds"])(noisy, level).noise
    assert not torch.equal(positive, negative)
    expected = negative + 3.0 * (positive - negative)
    torch.testing.assert_close(wan(3.0)(noisy, level).noise, expected, atol=1e-5, rtol=1e-4)


def test_latents_may_come_in_any_scale() -> None:
    """And without a timestep, which is then that of equal signal-to-noise ratio."""
    noisy = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    own = wan(2.0)(noisy, Level(*HALF, torch.tensor(500.0)))
    for factor in (2.0, 7.0):
        level = Level(factor * HALF[0], factor * HALF[1], None)
        torch.testing.assert_close(wan(2.0)(factor * noisy, level), own, atol=1e-5, rtol=1e-4)


def test_the_network_may_be_told_another_timestep() -> None:
    """As DDIM inversion does; latents are read at their own level all the same."""
    noisy = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    for timestep in (500.0, 600.0):
        level = Level(*HALF, torch.tensor(timestep))
        clean, noise = wan(2.0)(noisy, level)
        torch.testing.assert_close(0.5 * clean + 0.5 * noise, noisy, atol=1e-5, rtol=1e-4)
    told = [wan(2.0)(noisy, Level(*HALF, torch.tensor(t))).clean for t in (500.0, 600.0)]
    assert not torch.equal(*told)


def test_images_are_the_frames_of_a_clip() -> None:
    noisy = torch.randn(1, 16, 3, 8, 12, generator=torch.Generator().manual_seed(6))
    level = Level(*HALF, torch.tensor(500.0))
    painter = el.denoiser(tiny("qwen"), guidance=1.0, **_texts())
    together = painter(noisy, level).clean
    apart = [painter(frame, level).clean for frame in noisy.split(1, dim=2)]
    torch.testing.assert_close(together, torch.cat(apart, dim=2), atol=1e-5, rtol=1e-4)


def _texts() -> dict[str, Any]:
    names = ("prompt_embeds", "prompt_embeds_mask")
    return {name: given("qwen")[name] for name in names}


def test_one_prompt_serves_all_clips_and_other_numbers_are_told() -> None:
    noisy = torch.randn(2, 16, 3, 2, 2, generator=torch.Generator().manual_seed(8))
    level = Level(*HALF, torch.tensor(500.0))
    apart = [wan(2.0)(clip, level).clean for clip in noisy.split(1)]
    torch.testing.assert_close(wan(2.0)(noisy, level).clean, torch.cat(apart), atol=1e-5, rtol=1e-4)
    pairs = wan(2.0, **{name: text.repeat(2, 1, 1) for name, text in given("wan").items()})
    with pytest.raises(CheckError, match="made for 2 prompts, but the clip batch is 3"):
        pairs(torch.zeros(3, 16, 3, 2, 2), level)
    with pytest.raises(CheckError, match="takes no guidance scale, so guidance=5"):
        el.denoiser(tiny("svd"), guidance=5.0)


@pytest.mark.parametrize("name", ["flux", "qwen", "sd3", "ltx"])
def test_levels_may_depend_on_the_size_of_the_latents(name: str) -> None:
    """As those of the published Flux, Qwen-Image and LTX do: in a run, before it and for a call."""
    pipe = tiny(name)
    pipe.scheduler = type(pipe.scheduler).from_config(
        pipe.scheduler.config, use_dynamic_shifting=True, shift_terminal=0.1
    )
    seen: list[Step] = []
    frames = None if knows_its_frames(pipe) else 1
    assert el.check(pipe, el.identity(), frames=frames, steps=4) == ()
    with torch.no_grad(), el.attach(pipe, Looking(seen), frames=frames):
        pipe(**call(name))
    height, width = (call(name).get(key) for key in ("height", "width"))
    pictures = call(name).get("num_frames", 1)
    planned: list[Step] = []

    def watching(clean: Latent, step: Step) -> Latent:
        planned.append(step)
        return clean

    hook = el.stateless(watching)
    el.plan(pipe, hook, steps=2, frames=pictures, height=height, width=width)
    assert float(planned[0].level.sigma) == pytest.approx(float(seen[0].level.sigma), abs=1e-3)
    assert float(planned[-1].level.sigma) == pytest.approx(0.1, abs=1e-3)
    whole_clip = CalledPipeline(pipe, given(name), guided=True, name=name)
    made = whole_clip(seen[-1].noisy, seen[-1].level)
    torch.testing.assert_close(made.clean, seen[-1].predicted.clean, atol=2e-5, rtol=0)


def test_levels_are_shifted_as_pipelines_do() -> None:
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    pipe = tiny("flux")
    pipe.scheduler.register_to_config(use_dynamic_shifting=True, base_shift=0.4, max_shift=1.2)
    config = pipe.scheduler.config
    for shape in ((4, 1, 32, 32), (4, 1, 128, 96)):
        tokens = tokens_of(pipe, shape)
        assert tokens == shape[2] * shape[3] // 4
        limits = (config.base_image_seq_len, config.max_image_seq_len, 0.4, 1.2)
        assert _shift(pipe.scheduler, tokens) == pytest.approx(calculate_shift(tokens, *limits))
    assert _shift(pipe.scheduler, None) == pytest.approx(1.2)
    assert tokens_of(tiny("ltx"), (8, 3, 4, 5)) == 3 * 4 * 5
    assert tokens_of(tiny("qwen"), (16, 5, 8, 6)) == 4 * 3


def test_calls_are_counted_without_running() -> None:
    meta = torch.empty(1, 16, 3, 8, 12, device="meta")
    with count_calls() as calls:
        el.denoiser(tiny("qwen"), guidance=1.0, name="T2I", **_texts())(meta, Level(*HALF, None))
        wan(2.0, name="T2V")(meta, Level(*HALF, None))
    assert calls == [Call("T2I", 3, 1), Call("T2V", 2, 3)]


def test_texts_are_encoded_once() -> None:
    pipe = tiny("wan")
    pipe.encode_prompt = Mock(wraps=pipe.encode_prompt)
    painter = el.denoiser(pipe, guidance=2.0, **given("wan"))
    for _ in range(3):
        painter(torch.zeros(1, 16, 3, 2, 2), Level(*HALF, None))
    assert pipe.encode_prompt.call_count == 1


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_cache_remembers_nothing_of_calls_before(guidance: float) -> None:
    """A hook calls it at levels and for clips that are no steps of one loop."""
    level = Level(*HALF, torch.tensor(500.0))
    one, other = torch.randn(2, 1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(9))
    pipe = tiny("wan")
    painter = el.denoiser(pipe, guidance=guidance, **given("wan"))
    plain = painter(other, level).clean
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=100.0))  # from the second on
    painter(one, level)
    assert torch.equal(painter(other, level).clean, plain)


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(CheckError, match="WanPipeline takes no strength; it takes prompt"):
        wan(2.0, strength=0.5)
    with pytest.raises(CheckError, match="UNet2DConditionModel take no strength"):
        el.denoiser(tiny("sd"), "a ring", strength=0.5)


@pytest.mark.parametrize(
    ("name", "pictures", "frames"), [("wan", 4, 3), ("ltx", 4, 3), ("sd", 1, 1)]
)
def test_hooks_know_how_many_pictures_a_latent_frame_stands_for(
    name: str, pictures: int, frames: int
) -> None:
    pipe = tiny(name)
    seen: list[Step] = []
    own = None if knows_its_frames(pipe) else 1
    with torch.no_grad(), el.attach(pipe, Looking(seen), frames=own):
        pipe(**call(name))
        assert current_frames() == frames
    assert (seen[0].run.pictures, seen[0].run.shape[2]) == (pictures, frames)
