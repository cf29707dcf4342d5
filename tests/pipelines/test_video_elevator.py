"""VideoElevator as one object: arguments, outputs, saving, devices, errors."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import pytest
import torch
from einops import rearrange
from torch import Tensor

import elevator as el
from elevator.denoise import count_calls
from elevator.models import CrossFrameAttention, FrameWindows
from elevator.recipes import PRESETS, Preset, preset_for
from elevator.samplers import mixed_noise
from tests.builders import scheduler_of, tiny_animatediff, tiny_sd, tiny_text_to_video
from tests.hosts.test_checkpoints import make_text_encoder, make_tokenizer

QUICK = Preset(4, 5, (4, 3, 2), 2, 0.4, 1.0, 1.0, 3.0, 2.0)
PROMPT = "a red ring"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("text") / "tokenizer")
    return {"tokenizer": tokenizer, "text_encoder": make_text_encoder(len(tokenizer))}


def _pair(texts: dict[str, Any], video: str = "unet3d") -> tuple[Any, Any]:
    t2i = tiny_sd()
    if video == "unet3d":
        t2v = tiny_text_to_video()
    else:
        t2v = tiny_animatediff(scheduler_of("LCMScheduler"))
    for pipeline in (t2i, t2v):
        pipeline.register_modules(**texts)
    return t2i, t2v


@pytest.fixture(params=["unet3d", "motion"])
def either(request: pytest.FixtureRequest, texts: dict[str, Any]) -> el.VideoElevatorPipeline:
    return _quiet(el.VideoElevatorPipeline.from_pipelines(*_pair(texts, request.param)))


@pytest.fixture
def pipe(texts: dict[str, Any]) -> el.VideoElevatorPipeline:
    return _quiet(el.VideoElevatorPipeline.from_pipelines(*_pair(texts)))


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _run(pipe: Any, prompt: Any = PROMPT, seed: int = 0, **more: Any) -> Any:
    settings = {"preset": QUICK, "output_type": "latent", "generator": _generator(seed)}
    return pipe(prompt, **(settings | more)).frames


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- outputs --------------------------------------------------------------------------------------


def test_outputs_by_type(pipe: Any) -> None:
    assert _run(pipe).shape == (1, 4, 4, 8, 8)
    array = _run(pipe, output_type="np")
    assert array.shape == (1, 4, 16, 16, 3)
    assert array.min() >= 0
    assert array.max() <= 1
    assert _run(pipe, output_type="pt").shape == (1, 4, 3, 16, 16)
    ((first, *rest),) = _run(pipe, output_type="pil")
    assert isinstance(first, PIL.Image.Image)
    assert len(rest) == 3
    assert first.size == (16, 16)
    assert np.allclose(np.asarray(first) / 255, array[0, 0], atol=1 / 255)
    (tuple_frames,) = pipe(
        PROMPT, preset=QUICK, output_type="latent", generator=_generator(0), return_dict=False
    )
    assert torch.equal(tuple_frames, _run(pipe))


def test_sizes_and_counts(pipe: Any) -> None:
    assert _run(pipe, height=24, width=32, num_frames=3).shape == (1, 4, 3, 12, 16)
    assert _run(pipe, num_frames=1).shape == (1, 4, 1, 8, 8)


def test_the_seed_is_all(either: Any) -> None:
    """Initial noise, SDEdit's and LCM's draws all follow from the generator."""
    torch.manual_seed(1)
    first = _run(either)
    torch.manual_seed(2)
    assert torch.equal(_run(either), first)
    assert not torch.equal(_run(either, seed=1), first)


def test_two_prompts_are_two_calls(either: Any) -> None:
    both = _run(either, [PROMPT, "blue"], generator=[_generator(0), _generator(1)])
    one, other = (
        _run(either, generator=[_generator(0)]),
        _run(either, "blue", generator=[_generator(1)]),
    )
    torch.testing.assert_close(both, torch.cat([one, other]), atol=2e-4, rtol=1e-4)
    assert (one - other).abs().max() > 0.01


def test_embeddings_instead_of_prompts(pipe: Any) -> None:
    view = pipe.t2i
    text, against = view.encode_prompt(PROMPT, "cpu", 1, True, "blue")
    same = {
        "prompt_embeds": text,
        "negative_prompt_embeds": against,
        "video_prompt_embeds": text,
        "negative_video_prompt_embeds": against,
    }
    assert torch.equal(_run(pipe, None, **same), _run(pipe, negative_prompt="blue"))


def test_embeddings_of_two_clips(pipe: Any) -> None:
    """Without negative ones, with one negative prompt for both, and planned."""
    text, _ = pipe.t2i.encode_prompt([PROMPT, "blue"], "cpu", 1, True, ["red"] * 2)
    embeds = {"prompt_embeds": text, "video_prompt_embeds": text}
    generators = [_generator(0), _generator(1)]
    ours = _run(pipe, None, negative_prompt="red", generator=generators, **embeds)
    both = _run(pipe, [PROMPT, "blue"], negative_prompt="red", generator=[*map(_generator, (0, 1))])
    torch.testing.assert_close(ours, both)
    assert _run(pipe, None, generator=[*map(_generator, (0, 1))], **embeds).shape == ours.shape
    assert pipe.plan(None, preset=QUICK, **embeds) == pipe.plan([PROMPT, "blue"], preset=QUICK)


def test_initial_latents_may_be_given(pipe: Any) -> None:
    noise = mixed_noise((1, 4, 3, 8, 8), 1.0, _generator(5))
    given = _run(pipe, latents=noise)
    assert given.shape == noise.shape
    assert torch.equal(_run(pipe, latents=noise), given)
    assert not torch.equal(_run(pipe, latents=-noise), given)


@pytest.mark.parametrize(
    "change",
    [
        {"negative_prompt": "blue"},
        {"guidance_scale": 1.0},
        {"video_guidance_scale": 1.0},
        {"refine": (3,)},
        {"t2v_steps": 1},
        {"lowpass": el.identity()},
        {"shared_noise": 0.0},
        {"eta": 0.5},
        {"num_inference_steps": 6},
        {"hook": el.at({4}, el.stateless(lambda clean, step: clean * 0.9))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_argument_matters(either: Any, change: dict[str, Any]) -> None:
    changed = _run(either, **change)
    assert changed.isfinite().all()
    assert not torch.equal(changed, _run(either))


def test_fast_is_another_arrangement(either: Any) -> None:
    """It takes fewer calls per inversion, and no correction between refinements."""
    longer: dict[str, Any] = {"num_inference_steps": 10, "refine": (9, 4)}
    assert not torch.equal(_run(either, fast=True, **longer), _run(either, **longer))


# --- what it is made of ---------------------------------------------------------------------------


def test_without_refinement_it_is_the_inflated_t2i(pipe: Any) -> None:
    noise = mixed_noise((1, 4, 4, 8, 8), 1.0, _generator(0))
    t2i = pipe.t2i
    with el.attach(t2i, el.identity(), [CrossFrameAttention()], frames=4):
        plain = t2i(
            [PROMPT] * 4,
            negative_prompt=[""] * 4,
            num_inference_steps=5,
            guidance_scale=3.0,
            latents=rearrange(noise, "1 c f h w -> f c h w"),
            output_type="latent",
        ).images
    got = _run(pipe, refine=(), latents=noise)
    torch.testing.assert_close(got, rearrange(plain, "f c h w -> 1 c f h w"), atol=1e-5, rtol=1e-5)


def _composed(
    pipe: Any, rule: el.Renoise[Any], match: Literal["timestep", "snr"] = "timestep"
) -> Tensor:
    """`_run` from parts, as the README writes it."""
    from elevator.filters import LowPass
    from elevator.samplers import SDEdit

    t2i = pipe.t2i
    refine = el.chain(
        el.at({1, 2}, LowPass("gaussian", temporal=0.4, spatial=1.0)),
        el.at({1, 2, 3}, SDEdit(el.denoiser(pipe.t2v, PROMPT, guidance=2.0), 2, match=match)),
    )
    generator = _generator(0)
    noise = mixed_noise((1, 4, 4, 8, 8), 1.0, generator)
    with el.attach(t2i, el.renoise(refine, rule), [CrossFrameAttention()], frames=4):
        frames = t2i(
            [PROMPT] * 4,
            num_inference_steps=5,
            guidance_scale=3.0,
            latents=rearrange(noise, "1 c f h w -> f c h w"),
            generator=generator,
            output_type="latent",
        ).images
    return rearrange(frames, "f c h w -> 1 c f h w")


def test_it_is_the_recipe_attached(pipe: Any) -> None:
    from elevator.samplers import DDIMInversion

    rule = DDIMInversion(
        invert=el.denoiser(pipe.t2i, "", guidance=1),
        correct=el.denoiser(pipe.t2i, PROMPT, guidance=1),
    )
    torch.testing.assert_close(_run(pipe), _composed(pipe, rule), atol=1e-4, rtol=1e-4)


def test_the_plan_counts_the_real_calls(either: Any) -> None:
    real: list[tuple[str, int]] = []
    for name, net in (("t2i", either.unet), ("t2v", either.video_unet)):
        net.register_forward_pre_hook(lambda m, args, n=name: real.append((n, len(args[0]))))
    planned = either.plan(PROMPT, preset=QUICK)
    with count_calls() as recorded:
        _run(either)
    assert planned.hooks == Counter(recorded)
    expected = Counter(
        {("t2v" if call.name == "T2V" else "t2i", call.batch): 0 for call in planned.total}
    )
    for call, count in planned.total.items():
        expected["t2v" if call.name == "T2V" else "t2i", call.batch] += count
    assert Counter(real) == expected


def test_fast_halves_the_t2i_work(pipe: Any) -> None:
    """`fast` takes at most half of the published arrangement's T2I frame-forwards."""
    for name, published in (("zeroscope", 7248), ("lavie", 5600), ("animatelcm", 2800)):
        numbers = PRESETS[name]
        t2v = sum(
            call.frame_forwards * count
            for call, count in pipe.plan(PROMPT, preset=name, fast=True).total.items()
            if call.name == "T2V"
        )
        fast = pipe.plan(PROMPT, preset=name, fast=True).frame_forwards() - t2v
        exact = pipe.plan(PROMPT, preset=name).frame_forwards() - t2v
        assert t2v == 2 * numbers.frames * numbers.t2v_steps * len(numbers.refine)
        assert exact <= 0.87 * published, name
        assert fast <= 0.5 * published, name


def test_fresh_noise_in_place_of_inversion(pipe: Any) -> None:
    """Without one call to invert; what frames share is what `FreshNoise` draws."""
    numbers = replace(QUICK, fresh_noise=2.0)
    wanted = _composed(pipe, el.FreshNoise(2.0))
    torch.testing.assert_close(_run(pipe, preset=numbers), wanted, atol=1e-4, rtol=1e-4)
    assert {call.name for call in pipe.plan(PROMPT, preset=numbers).hooks} == {"T2V"}
    with pytest.raises(el.CheckError, match=r"fast shortens inversions.*leave fast out"):
        pipe.plan(PROMPT, preset=numbers, fast=True)


def test_the_t2v_may_be_met_at_its_level_of_noise(pipe: Any) -> None:
    """Not at its timestep, which is noisier where its betas are others than the T2I's."""
    from diffusers import DDIMScheduler

    pipe.video_scheduler = DDIMScheduler.from_config(
        pipe.video_scheduler.config, beta_schedule="linear", beta_start=1e-4, beta_end=0.02
    )
    numbers = replace(QUICK, fresh_noise=2.0, match="snr")
    seen, wanted = _run(pipe, preset=numbers), _composed(pipe, el.FreshNoise(2.0), "snr")
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-4)
    other = _run(pipe, preset=replace(numbers, match="timestep"))
    assert (seen - other).abs().mean() > 0.01


def test_nothing_is_left_behind(pipe: Any) -> None:
    before = type(pipe.scheduler), dict(pipe.unet.attn_processors)
    _run(pipe)
    with pytest.raises(ZeroDivisionError):
        _run(pipe, hook=el.stateless(lambda clean, step: clean / (1 // 0)))
    assert (type(pipe.scheduler), dict(pipe.unet.attn_processors)) == before
    assert "_elevator_engine" not in vars(pipe.scheduler)
    assert "prepare_latents" not in vars(pipe.t2i)


# --- diffusers' habits ----------------------------------------------------------------------------


def test_callback_and_progress_bar(pipe: Any, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[Any, int, tuple[int, ...]]] = []

    def callback(own: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
        seen.append((own, index, tuple(tensors["latents"].shape)))
        return {}

    _run(pipe, callback_on_step_end=callback)
    assert seen == [(pipe, index, (4, 4, 8, 8)) for index in range(5)]
    assert "5/5" not in capfd.readouterr().err
    pipe.set_progress_bar_config(disable=False)
    _run(pipe)
    assert "5/5" in capfd.readouterr().err


def test_saving_and_loading(either: Any, tmp_path: Path) -> None:
    either.save_pretrained(tmp_path)
    again = _quiet(el.VideoElevatorPipeline.from_pretrained(tmp_path))
    assert type(again.video_scheduler) is type(either.video_scheduler)
    assert torch.equal(_run(again), _run(either))


def test_from_two_folders(texts: dict[str, Any], tmp_path: Path, pipe: Any) -> None:
    t2i, t2v = _pair(texts)
    t2i.scheduler = scheduler_of("PNDMScheduler", skip_prk_steps=True)  # as SD 1.5 is published
    t2i.save_pretrained(tmp_path / "t2i")
    t2v.save_pretrained(tmp_path / "t2v")
    again = el.VideoElevatorPipeline.from_pretrained(t2i=tmp_path / "t2i", t2v=tmp_path / "t2v")
    assert torch.equal(_run(_quiet(again)), _run(pipe))
    half = el.VideoElevatorPipeline.from_pretrained(
        t2i=tmp_path / "t2i", t2v=tmp_path / "t2v", dtype=torch.bfloat16
    )
    assert half.unet.dtype == half.video_unet.dtype == torch.bfloat16
    assert _run(_quiet(half)).isfinite().all()


def test_a_saved_pipeline_never_opens_pickles(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved", safe_serialization=False)
    with pytest.raises(el.CheckpointError, match="has only pickled weights"):
        el.VideoElevatorPipeline.from_pretrained(tmp_path / "saved")


def test_a_saved_pipeline_that_is_none_is_named(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(el.CheckpointError, match="none does not exist"):
        el.VideoElevatorPipeline.from_pretrained(tmp_path / "none")
    pipe.t2i.save_pretrained(tmp_path / "t2i")
    with pytest.raises(el.CheckpointError, match="holds a StableDiffusionPipeline, not a saved"):
        el.VideoElevatorPipeline.from_pretrained(tmp_path / "t2i")


@pytest.mark.parametrize("name", ["lora", "textual_inversion", "t2v_lora"])
def test_a_saved_pipeline_takes_no_addons_beside_it(pipe: Any, tmp_path: Path, name: str) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    addon: Any = {name: ["x.safetensors"]}
    with pytest.raises(el.CheckError, match="put add-ons on a saved pipeline with load_lora"):
        el.VideoElevatorPipeline.from_pretrained(tmp_path / "saved", **addon)


def test_a_lora_reaches_the_t2i_and_its_scale_counts(pipe: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    t2i, t2v = pipe.t2i, pipe.t2v
    t2i.save_pretrained(tmp_path / "t2i")
    t2v.save_pretrained(tmp_path / "t2v")
    plain = _run(pipe)
    pipe.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "conv1"], init_lora_weights=False)
    )
    t2i.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.unet))
    file = tmp_path / "pytorch_lora_weights.safetensors"

    def made(scale: float) -> Any:
        return _run(
            _quiet(
                el.VideoElevatorPipeline.from_pretrained(
                    t2i=tmp_path / "t2i", t2v=tmp_path / "t2v", lora=[(file, scale)]
                )
            )
        )

    torch.testing.assert_close(made(0.0), plain)
    assert not torch.allclose(made(1.0), plain, atol=1e-3)


def test_more_frames_than_the_motion_module_knows_are_refused(texts: dict[str, Any]) -> None:
    pipe = el.VideoElevatorPipeline.from_pipelines(*_pair(texts, "motion"))
    longest = pipe.video_unet.config.motion_max_seq_length
    with pytest.raises(el.CheckError, match=f"motion module knows {longest} frames at most"):
        _run(pipe, num_frames=longest + 1)


def test_windows_let_the_t2v_see_long_clips(either: Any) -> None:
    """Never more frames at once than it knows, as planned."""
    windows, seen = FrameWindows(16, stride=8), []
    either.video_unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    given: dict[str, Any] = {"preset": QUICK, "num_frames": 25, "video_patches": [windows]}
    made = _run(either, refine=(3,), **given)
    assert made.shape[2] == 25
    assert made.isfinite().all()
    planned = either.plan(PROMPT, refine=(3,), **given).total
    assert {call.frames for call in planned if call.name == "T2V"} == {16}
    assert seen == [16] * sum(n for call, n in planned.items() if call.name == "T2V")
    short: dict[str, Any] = {"num_frames": 4, "video_patches": [windows]}
    assert torch.equal(_run(either, **short), _run(either))


def test_decoding_in_parts(pipe: Any) -> None:
    whole = _run(pipe, output_type="pt")
    torch.testing.assert_close(_run(pipe, output_type="pt", decode_chunk_size=3), whole)
    pipe.vae.enable_slicing()
    torch.testing.assert_close(_run(pipe, output_type="pt"), whole)


def test_decoding_in_tiles(pipe: Any) -> None:
    size = {"height": 32, "width": 32}
    whole = _run(pipe, output_type="pt", **size)
    pipe.vae.enable_tiling()
    assert pipe.vae.tile_latent_min_size < _run(pipe, **size).shape[-1]
    tiled = _run(pipe, output_type="pt", **size)
    assert not torch.equal(tiled, whole), "tiles see less around them"
    frames = _run(pipe, **size)[0].transpose(0, 1) / pipe.vae.config.scaling_factor
    with torch.no_grad():
        expected = (pipe.vae.decode(frames).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(tiled[0], expected)


def test_offloading(pipe: Any) -> None:
    plain = _run(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    torch.testing.assert_close(_run(pipe), plain)
    torch.testing.assert_close(_run(pipe), plain)


def test_presets() -> None:
    assert preset_for("zeroscope").refine_at(50) == (45, 35, 25, 15)
    assert preset_for("zeroscope").refine_at(25) == (22, 18, 12, 8)
    assert preset_for("animatelcm").refine_at(3) == (3, 2, 1)


def test_the_preset_fits_the_t2v(texts: dict[str, Any]) -> None:
    pipe = el.VideoElevatorPipeline.from_pipelines(*_pair(texts, "motion"))
    assert pipe.preset == "animatelcm"
    t2i, t2v = _pair(texts)
    assert el.VideoElevatorPipeline.from_pipelines(t2i, t2v).preset == "zeroscope"
    t2v.scheduler = scheduler_of("DDIMScheduler", beta_schedule="linear")
    assert el.VideoElevatorPipeline.from_pipelines(t2i, t2v).preset == "lavie"


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"height": 17}, "height is 17, but must be a positive multiple of 4; try 16"),
        ({"width": 0}, "width is 0"),
        ({"num_frames": 0}, "num_frames is 0, but must be at least 1"),
        ({"num_inference_steps": 3, "refine": (4,)}, r"refinement points \[4\] lie outside"),
        ({"preset": "zeroscop"}, "preset 'zeroscop' is unknown; choose one of zeroscope"),
        ({"output_type": "tensor"}, "output_type 'tensor' is unknown; use pil, np, pt or latent"),
        ({"prompt": None}, "give a prompt"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0, but must be at least 1"),
        ({"shared_noise": -1.0}, "shared_noise is -1.0, but must be 0 or more"),
        ({"t2v_steps": -1}, "t2v_steps is -1, but must be 0 or more"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1 clips"),
        ({"latents": torch.zeros(1, 4, 2, 8, 8), "height": 24}, "height 24"),
        ({"latents": torch.zeros(2, 4, 2, 8, 8)}, "do not fit 1 clips of 4 channels"),
        ({"latents": torch.zeros(1, 4, 2, 7, 8)}, "height is 14"),
        ({"height": 15, "num_frames": -1}, "height(.|\n)*num_frames"),
    ],
)
def test_arguments_that_cannot_work(pipe: Any, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(el.CheckError, match=sentence):
        _run(pipe, **arguments)


def test_a_scheduler_that_cannot_follow(pipe: Any) -> None:
    pipe.scheduler = scheduler_of("PNDMScheduler", skip_prk_steps=True)
    with pytest.raises(el.CheckError, match=r"pipe.scheduler = DDIMScheduler.from_config"):
        _run(pipe)


def test_latents_of_another_space(texts: dict[str, Any]) -> None:
    t2i, t2v = _pair(texts)
    t2v.vae.register_to_config(scaling_factor=0.5)
    with pytest.raises(el.CheckError, match="scaling"):
        el.VideoElevatorPipeline.from_pipelines(t2i, t2v)


def test_loading_needs_both_models(tmp_path: Path) -> None:
    with pytest.raises(el.CheckError, match=r"give t2i=\.\.\. and t2v="):
        el.VideoElevatorPipeline.from_pretrained(t2i=tmp_path)
    with pytest.raises(el.CheckError, match="not both at once"):
        el.VideoElevatorPipeline.from_pretrained(tmp_path, t2i=tmp_path)


def test_a_t2i_on_another_kind_of_schedule(texts: dict[str, Any]) -> None:
    t2i, t2v = _pair(texts)
    t2i.scheduler = scheduler_of("FlowMatchEulerDiscreteScheduler")
    with pytest.raises(el.CheckError, match="FlowMatchEulerDiscreteScheduler, whose noise levels"):
        el.VideoElevatorPipeline.from_pipelines(t2i, t2v)
