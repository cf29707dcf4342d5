"""The upscaler of clips: the published loop, cuts without a trace, noise by place, its files."""

import json
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import elevator as el
from elevator.errors import CheckError, CheckpointError
from elevator.filters import Flow, wavelet
from elevator.noise import RecordedNoise
from elevator.pipelines.upscalers import ClipUpscaler, load_upscaler
from elevator.pipelines.video_upscale import VideoUpscalePipeline
from elevator.recipes import UPSCALE_PRESETS, UpscalePreset, upscale_a_video, upscale_preset_for
from tests.builders import make_latent, publish, scheduler_of, tiny_text, tiny_video_upscale
from tests.reference.upscale_a_video import upscale

TEXT = make_latent((2, 5, 16), 7)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_video_upscale()


def clip(frames: int = 3, height: int = 8, width: int = 6, clips: int = 1) -> Tensor:
    return make_latent((clips, 3, frames, height, width), 3).clamp(-1, 1)


def still(frames: int, height: int, width: int, seed: int = 5) -> Flow:
    """Small motion, there and back again, but for a corner."""
    there = 0.1 * make_latent((1, 2, frames - 1, height, width), seed)
    there[..., :2, :2] += 3
    return Flow(there, -there + 0.01)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipe: Any, frames: Any, **more: Any) -> Any:
    """The latents, or what is asked for, of a short run with a fixed prompt and seed."""
    call: dict[str, Any] = {
        "prompt_embeds": TEXT[1:],
        "negative_prompt_embeds": TEXT[:1],
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "propagate": (),
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(0),
    }
    return pipe(frames, **call | more).frames


# --- the published arrangement --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "guidance", "conditioned", "propagate"),
    [(14, 9.0, True, (1,)), (11, 1.0, False, ()), (8, 6.0, False, (0, 2))],
)
@torch.no_grad()
def test_it_is_the_published_loop(
    frames: int, guidance: float, conditioned: bool, propagate: tuple[int, ...]
) -> None:
    pipe = tiny_video_upscale(conditioned=conditioned)
    low, flow = clip(frames, 10, 6), still(frames, 10, 6)
    shapes = {"low_res": (1, 3, frames, 10, 6), "latents": (1, 4, frames, 10, 6)}
    noise = {name: make_latent(shape, 8) for name, shape in shapes.items()}
    seen: list[Tensor] = []

    def keep(pipe: Any, index: int, timestep: Tensor, told: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(told["latents"])
        return {}

    steps, video = upscale(
        pipe,
        low,
        TEXT if guidance > 1 else TEXT[1:],
        noise,
        steps=3,
        guidance=guidance,
        level=150,
        propagate=propagate,
        flow=flow,
    )
    made = run(
        pipe,
        low,
        num_inference_steps=3,
        guidance_scale=guidance,
        noise_level=150,
        propagate=propagate,
        flow=flow,
        arrangement="published",
        noise=RecordedNoise({(0, name): drawn for name, drawn in noise.items()}),
        output_type="pt",
        callback_on_step_end=keep,
    )
    for ours, theirs in zip(seen, steps, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(2 * made.transpose(1, 2) - 1, video, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("frames", "rows"), [(8, 1), (9, 2)])
def test_published_labels_are_one_or_one_per_row(pipe: Any, frames: int, rows: int) -> None:
    _, labels = calls_of(pipe, lambda: run(pipe, clip(frames), arrangement="published"))
    assert set(labels) == {(rows,)}
    _, labels = calls_of(pipe, lambda: run(pipe, clip(frames)))
    assert set(labels) == {(2,)}


def calls_of(pipe: Any, go: Callable[[], Any]) -> tuple[list[tuple[int, ...]], list[Any]]:
    """Shapes of the network's inputs and labels, call by call."""
    shapes, labels = [], []

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(args[0].shape))
        labels.append(tuple(kwargs["class_labels"].shape))

    handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        go()
    finally:
        handle.remove()
    return shapes, labels


class Pointwise(nn.Module):
    """A network that sees one pixel of one frame at a time: no cut can matter to it."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, x: Tensor, time: Tensor, text: Tensor, class_labels: Tensor) -> Any:
        self.sizes.append(tuple(x.shape[2:]))
        said = torch.tanh(x[:, :4] + 0.5 * x[:, 4:5] * text.mean((1, 2))[:, None, None, None, None])
        return type("Said", (), {"sample": said})()

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []


class Enlarge(nn.Module):
    """A decoder by nearest neighbours."""

    dtype, device = torch.float32, torch.device("cpu")
    factor = 2
    config = type("Config", (), {"latent_channels": 4, "scaling_factor": 0.5})()

    def decode(self, z: Tensor, condition: Tensor, strength: float) -> Any:
        assert condition.shape[2:] == z.shape[2:]
        sample = (z[:, :3] + condition) / 4
        for axis in (-1, -2):
            sample = sample.repeat_interleave(2, axis)
        return type("Said", (), {"sample": sample})()


@pytest.fixture
def pointwise() -> Any:
    pipe = tiny_video_upscale()
    pipe.unet, pipe.vae = Pointwise(), Enlarge()
    return pipe


def test_published_tiles_are_cut_hard(pointwise: Any) -> None:
    low = clip(1, 130, 130)
    out = run(
        pointwise, low, tile=64, arrangement="published", output_type="pt", decode_chunk_size=1
    )
    assert out.shape == (1, 1, 3, 260, 260)
    assert set(pointwise.unet.sizes) == {(1, h, w) for h in (128, 130) for w in (128, 130)}
    again = run(pointwise, low, tile=64, arrangement="published", output_type="latent")
    assert again.shape == (1, 4, 1, 130, 130)
    with pytest.raises(CheckError, match="leave nothing of a picture of 40x130"):
        run(pointwise, clip(1, 40, 130), tile=64, arrangement="published")


# --- cuts -----------------------------------------------------------------------------------------


def test_windows_and_tiles_see_one_noise_and_leave_no_trace(pointwise: Any) -> None:
    low = clip(9, 20, 14)
    whole = run(pointwise, low, window=16, tile=32, tile_overlap=4, output_type="pt")
    assert len(pointwise.unet.sizes) == 2
    for cut in (
        {"window": 4, "overlap": 1},
        {"window": 5, "overlap": 3, "tile": 8, "tile_overlap": 3},
        {"window": 1, "overlap": 0, "tile": 5, "tile_overlap": 0, "decode_chunk_size": 4},
    ):
        made = run(pointwise, low, **{"tile": 32, "tile_overlap": 4} | cut, output_type="pt")
        torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-5)


def test_no_window_is_computed_twice(pipe: Any) -> None:
    """14 frames, of which the published arrangement computes one window twice."""
    shapes, _ = calls_of(pipe, lambda: run(pipe, clip(14), num_inference_steps=1))
    assert shapes == [(2, 7, 8, 8, 6)] * 2
    shapes, _ = calls_of(
        pipe, lambda: run(pipe, clip(14), num_inference_steps=1, arrangement="published")
    )
    assert len(shapes) == 3


def test_all_chunks_are_decoded_at_the_same_length(pointwise: Any) -> None:
    lengths: list[int] = []
    decode = pointwise.vae.decode

    def look(z: Tensor, *more: Any) -> Any:
        lengths.append(z.shape[2])
        return decode(z, *more)

    pointwise.vae.decode = look
    run(pointwise, clip(7), output_type="pt")
    assert lengths == [3, 3, 3]
    lengths.clear()
    run(pointwise, clip(7), output_type="pt", arrangement="published")
    assert lengths == [3, 3, 1]


def test_guidance_of_one_or_less_halves_the_batch(pipe: Any) -> None:
    for guidance, rows in ((1.0, 1), (0.0, 1), (1.01, 2)):
        shapes, _ = calls_of(pipe, partial(run, pipe, clip(), guidance_scale=guidance))
        assert {shape[0] for shape in shapes} == {rows}


# --- noise ----------------------------------------------------------------------------------------


def test_noise_belongs_to_the_absolute_frame_and_place(pointwise: Any) -> None:
    low = clip(6, 8, 6)
    whole = run(pointwise, low)
    torch.testing.assert_close(run(pointwise, low[:, :, 2:5], first_frame=2), whole[:, :, 2:5])
    assert not torch.allclose(run(pointwise, low[:, :, 2:5]), whole[:, :, 2:5])


def test_a_generator_seeds_and_does_not_advance(pipe: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    state = generator.get_state()
    first = run(pipe, clip(), generator=generator)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(run(pipe, clip(), generator=generator), first)
    torch.manual_seed(1)
    free = [run(pipe, clip(), generator=None) for _ in range(2)]
    assert not torch.allclose(free[0], free[1])
    torch.manual_seed(1)
    assert torch.equal(run(pipe, clip(), generator=None), free[0])
    streamed = [run(pipe, clip(), noise=generator) for _ in range(2)]
    assert not torch.allclose(streamed[0], streamed[1])


def test_clips_are_their_own(pipe: Any) -> None:
    low = clip(clips=2)
    generators = [torch.Generator().manual_seed(s) for s in (1, 2)]
    text = {"prompt_embeds": TEXT, "negative_prompt_embeds": TEXT[:1]}
    both = run(pipe, low, generator=generators, **text)
    for row, seed in enumerate((1, 2)):
        one = run(
            pipe,
            low[row : row + 1],
            generator=torch.Generator().manual_seed(seed),
            prompt_embeds=TEXT[row : row + 1],
        )
        torch.testing.assert_close(both[row : row + 1], one, atol=1e-4, rtol=1e-4)


def test_given_latents_take_the_place_of_noise(pipe: Any) -> None:
    latents = make_latent((1, 4, 3, 8, 6), 1)
    assert not torch.allclose(run(pipe, clip(), latents=latents), run(pipe, clip()))
    with pytest.raises(CheckError, match=r"give \(1, 4, 3, 8, 6\)"):
        run(pipe, clip(), latents=latents[:, :, :2])


# --- hooks ----------------------------------------------------------------------------------------


def test_propagation_is_a_hook_among_others(pipe: Any) -> None:
    low, flow, seen = clip(5), still(5, 8, 6), []

    def look(clean: Tensor, step: el.Step) -> Tensor:
        seen.append((step.index, tuple(clean.shape)))
        return clean

    plain = run(pipe, low)
    cut = {"window": 3, "overlap": 1}
    assert torch.equal(run(pipe, low, hook=el.stateless(look), **cut), run(pipe, low, **cut))
    assert seen == [(0, (1, 4, 5, 8, 6)), (1, (1, 4, 5, 8, 6))]
    propagated = run(pipe, low, flow=flow, propagate=(1,))
    assert not torch.allclose(propagated, plain)
    recipe = upscale_a_video(flow, (1,))
    torch.testing.assert_close(run(pipe, low, hook=recipe.hook), propagated)
    with el.attach(pipe, recipe.hook):
        torch.testing.assert_close(run(pipe, low), propagated)
        with pytest.raises(CheckError, match="give that hook as hook="):
            run(pipe, low, flow=flow, propagate=(1,))
    assert torch.equal(run(pipe, low), plain)
    with pytest.raises(CheckError, match="flow of 5 frames"):
        run(pipe, clip(4), flow=flow, propagate=(1,))


def test_flow_is_estimated_once_from_the_frames(pipe: Any) -> None:
    given: list[Tensor] = []

    def estimate(frames: Tensor) -> Flow:
        given.append(frames)
        return still(4, 8, 6)

    low = clip(4)
    made = run(pipe, low, flow=estimate, propagate=(0, 1), tile=8, tile_overlap=2)
    assert len(given) == 1
    assert torch.equal(given[0], low)
    torch.testing.assert_close(
        made, run(pipe, low, flow=still(4, 8, 6), propagate=(0, 1), tile=8, tile_overlap=2)
    )
    run(pipe, low, propagate=(1,))  # OpenCV's


def test_flow_is_estimated_while_the_network_is_at_work(pipe: Any) -> None:
    """An estimator that needs the network to be called first would else wait for ever."""
    called = threading.Event()

    def estimate(frames: Tensor) -> Flow:
        assert called.wait(20)
        return still(4, 8, 6)

    handle = pipe.unet.register_forward_hook(lambda *_: called.set())
    try:
        made = run(pipe, clip(4), flow=estimate, propagate=(1,))
    finally:
        handle.remove()
    assert torch.equal(made, run(pipe, clip(4), flow=still(4, 8, 6), propagate=(1,)))
    more = {"propagate": (0, 1), "arrangement": "published"}
    made = run(pipe, clip(4), flow=estimate, **more)
    assert torch.equal(made, run(pipe, clip(4), flow=still(4, 8, 6), **more))


def test_what_an_estimator_raises_comes_out_and_no_thread_stays(pipe: Any) -> None:
    error, before = LookupError("no flow today"), threading.active_count()

    def fail(frames: Tensor) -> Flow:
        raise error

    with pytest.raises(LookupError) as raised:
        run(pipe, clip(4), flow=fail, propagate=(1,))
    assert raised.value is error
    ended: list[bool] = []

    def slow(frames: Tensor) -> Flow:
        time.sleep(0.2)
        ended.append(True)
        return still(4, 8, 6)

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pipe, clip(4), flow=slow, propagate=(1,), callback_on_step_end=stop)
    assert ended == [True]
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_other_samplers_take_its_place(name: str) -> None:
    scheduler = scheduler_of(name, prediction_type="v_prediction", num_train_timesteps=1000)
    pipe = tiny_video_upscale(scheduler=scheduler)
    plain = run(pipe, clip(), num_inference_steps=4)
    assert plain.isfinite().all()
    more = {"num_inference_steps": 4, "flow": still(3, 8, 6), "propagate": (2,)}
    assert not torch.allclose(run(pipe, clip(), **more), plain)


def test_a_sampler_that_draws_noise_draws_it_from_the_seed() -> None:
    scheduler = scheduler_of("LCMScheduler", prediction_type="v_prediction")
    pipe = tiny_video_upscale(scheduler=scheduler)
    first = run(pipe, clip(), num_inference_steps=3)
    torch.manual_seed(5)
    assert torch.equal(run(pipe, clip(), num_inference_steps=3), first)


def stochastic(name: str) -> Any:
    if name == "sde":
        return scheduler_of(
            "DPMSolverMultistepScheduler",
            prediction_type="v_prediction",
            algorithm_type="sde-dpmsolver++",
        )
    return scheduler_of(name, prediction_type="v_prediction")


@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler", "sde"]
)
def test_noise_of_a_sampler_belongs_to_the_clip_and_the_absolute_frame(
    pointwise: Any, name: str
) -> None:
    pointwise.scheduler = stochastic(name)
    low, steps = clip(4, clips=2), {"num_inference_steps": 4, "guidance_scale": 1.0}
    both = run(pointwise, low, generator=generators(1, 2), **steps)
    for row, seed in enumerate((1, 2)):
        one = run(pointwise, low[row : row + 1], generator=generators(seed), **steps)
        torch.testing.assert_close(both[row : row + 1], one, atol=1e-4, rtol=1e-4)
    part = run(pointwise, low[:1, :, 2:], first_frame=2, generator=generators(1), **steps)
    torch.testing.assert_close(part, both[:1, :, 2:], atol=1e-4, rtol=1e-4)


def test_a_sampler_draws_other_noise_at_every_step_and_leaves_hooks_theirs(pointwise: Any) -> None:
    from elevator.noise import KeyedNoise

    drawn: list[Any] = []

    class Watched(KeyedNoise):
        def __call__(self, key: Any, shape: Any, device: torch.device) -> Tensor:
            drawn.append(key)
            return super().__call__(key, shape, device)

    pointwise.scheduler = stochastic("EulerAncestralDiscreteScheduler")
    own: list[Tensor] = []

    def look(clean: Tensor, step: el.Step) -> Tensor:
        own.append(torch.randn(3, generator=torch.Generator().manual_seed(7)))
        return clean

    run(pointwise, clip(), noise=Watched((3,)), hook=el.stateless(look))
    assert [(key.step, key.name) for key in drawn] == [
        (0, "low_res"),
        (0, "latents"),
        (0, "solver"),
        (1, "solver"),
    ]
    assert torch.equal(own[0], torch.randn(3, generator=torch.Generator().manual_seed(7)))


def test_a_sampler_with_noise_of_its_own_is_refused(pointwise: Any) -> None:
    pointwise.scheduler.noise_sampler = None
    with pytest.raises(CheckError, match="which no seed and no frame has a say in"):
        run(pointwise, clip())


# --- in and out -----------------------------------------------------------------------------------


def test_frames_come_in_and_go_out_in_any_form(pipe: Any) -> None:
    bytes_ = (np.random.default_rng(0).random((3, 8, 6, 3)) * 255).astype(np.uint8)
    images = [PIL.Image.fromarray(frame) for frame in bytes_]
    tensor = torch.from_numpy(bytes_).permute(3, 0, 1, 2)[None] / 127.5 - 1
    expected = run(pipe, tensor, output_type="pt")
    for frames in (images, bytes_):
        torch.testing.assert_close(run(pipe, frames, output_type="pt"), expected)
    assert expected.shape == (1, 3, 3, 16, 12)
    assert 0 <= float(expected.min()) <= float(expected.max()) <= 1
    array = run(pipe, tensor, output_type="np")
    np.testing.assert_allclose(array, expected.permute(0, 1, 3, 4, 2).numpy(), atol=1e-6)
    ((first, *_),) = run(pipe, tensor, output_type="pil")
    assert first.size == (12, 16)
    call = {"prompt_embeds": TEXT[1:], "guidance_scale": 1.0, "num_inference_steps": 1}
    ((same,),) = pipe(tensor, **call, return_dict=False)
    assert len(same) == 3


def test_colours_come_from_the_original(pipe: Any) -> None:
    low = clip()
    reference = interpolate(low[0].transpose(0, 1), scale_factor=2, mode="bicubic")
    plain = 2 * run(pipe, low, output_type="pt")[0] - 1
    made = {c: 2 * run(pipe, low, output_type="pt", colour=c)[0] - 1 for c in ("adain", "wavelet")}
    torch.testing.assert_close(
        made["wavelet"], wavelet(plain, reference).clamp(-1, 1), atol=1e-5, rtol=1e-5
    )
    assert (made["adain"] - plain).abs().max() > 0.01
    middle = (made["adain"].mean((2, 3)) - reference.clamp(-1, 1).mean((2, 3))).abs().max()
    assert middle < 0.1  # but for what is clipped


def test_callbacks_see_and_change_latents_and_can_stop(pipe: Any) -> None:
    seen: list[int] = []

    def zero(pipe: Any, index: int, timestep: Tensor, told: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(index)
        assert set(told) == {"latents", "prompt_embeds"}
        return {"latents": torch.zeros_like(told["latents"])}

    out = run(
        pipe,
        clip(),
        callback_on_step_end=zero,
        callback_on_step_end_tensor_inputs=("latents", "prompt_embeds"),
    )
    assert seen == [0, 1]
    assert not out.any()

    def stop(pipe: Any, index: int, timestep: Tensor, told: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(index)
        pipe._interrupt = True
        return {}

    seen.clear()
    run(pipe, clip(), num_inference_steps=4, callback_on_step_end=stop)
    assert seen == [0]
    run(pipe, clip(), num_inference_steps=2)  # and starts anew


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_level": 351}, "noise_level is 351, but must be from 0 to 350"),
        ({"overlap": 8}, "overlap is 8, but must be from 0 to 7"),
        ({"tile": 8}, "tile_overlap is 64, but must be from 0 to 7"),
        ({"propagate": (0, 2)}, r"propagate names steps \[2\], but a run of 2 has 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 2000}, "is 2000, but the DDIMScheduler has 1000 steps"),
        ({"generator": generators(1, 2)}, "2 generators were given for 1 clips"),
        ({"output_type": "gif"}, "output_type 'gif' is unknown"),
        ({"preset": "vhs"}, "preset 'vhs' is unknown; choose one of default, aigc"),
        ({"callback_on_step_end_tensor_inputs": ("v",)}, "not v"),
        ({"negative_prompt_embeds": None}, "this pipeline has no text encoder"),
        ({"prompt_embeds": TEXT[:1].repeat(3, 1, 1)}, "3 rows of prompt_embeds for 1 clips"),
    ],
)
def test_what_cannot_work_is_told_before_anything_runs(
    pipe: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        run(pipe, clip(), **arguments)


def test_the_clip_is_called_frames(pipe: Any) -> None:
    """As upscalers of pictures call theirs `image`."""
    for call in ({"image": clip()}, {"image": clip(), "frames": clip()}, {}):
        with pytest.raises(CheckError, match=r"takes a clip as frames=\.\.\., and no image="):
            pipe(**call)


def test_a_tensor_of_other_axes_is_no_clip(pipe: Any) -> None:
    for wrong in (clip()[:, :1], clip()[:, :, :0]):
        with pytest.raises(CheckError, match="are no clip"):
            run(pipe, wrong)
    empty: tuple[Any, ...] = ([], np.zeros((0, 8, 6, 3)))
    for nothing in empty:
        with pytest.raises(CheckError, match="has no frames"):
            run(pipe, nothing)


@pytest.mark.parametrize("bad", [200.0, -3.0, float("nan")])
def test_a_tensor_of_another_scale_is_no_clip(pipe: Any, bad: float) -> None:
    low = clip()
    low[0, 0, 0, 0, 0] = bad
    with pytest.raises(CheckError, match=r"a tensor of frames is in \[-1, 1\]"):
        run(pipe, low)
    low[0, 0, 0, 0, 0] = 1.3  # the overshoot of an interpolation
    assert run(pipe, low).isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (2, 5)])
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("frames", [1, 2])
def test_clips_of_any_size_get_larger(
    size: tuple[int, int], conditioned: bool, frames: int
) -> None:
    pipe, low = tiny_video_upscale(conditioned=conditioned), clip(frames, *size)
    for more in (
        {"propagate": (1,), "colour": "wavelet"},
        {"latents": make_latent((1, 4, frames, *size), 1)},
    ):
        made = run(pipe, low, output_type="pt", **more)
        assert made.shape == (1, frames, 3, 2 * size[0], 2 * size[1])
        assert made.isfinite().all()
    assert run(pipe, low).shape == (1, 4, frames, *size)


def test_a_callback_may_give_nothing_back(pipe: Any) -> None:
    plain = run(pipe, clip())
    assert torch.equal(run(pipe, clip(), callback_on_step_end=lambda *given: None), plain)


# --- presets --------------------------------------------------------------------------------------


def test_presets_are_the_published_ones_and_scale_with_the_steps() -> None:
    assert UPSCALE_PRESETS["aigc"] == UpscalePreset(150, 6.0, 30, (24, 26, 28))
    assert UPSCALE_PRESETS["old-video"] == UpscalePreset(150, 9.0, 30)
    assert UPSCALE_PRESETS["old-movie"] == UpscalePreset(100, 5.0, 20, (17, 18, 19))
    assert UPSCALE_PRESETS["animation"] == UpscalePreset(120, 6.0, 20)
    assert UPSCALE_PRESETS["aigc"].propagate_at(30) == (24, 26, 28)
    assert UPSCALE_PRESETS["aigc"].propagate_at(10) == (8, 9)
    assert UPSCALE_PRESETS["old-movie"].propagate_at(2) == (1,)
    own = UpscalePreset(steps=1)
    assert upscale_preset_for(own) is own
    assert upscale_a_video(still(3, 8, 6), ()).hook == el.identity()


# --- with a text encoder, and from files ----------------------------------------------------------


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline with a tokenizer and a text encoder of its own."""
    pipe = tiny_video_upscale(conditioned=True)
    parts = pipe.components | tiny_text(tmp_path_factory.mktemp("tokenizer"))
    pipe = VideoUpscalePipeline(**parts, preset="aigc")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def spoken(pipe: Any, prompt: Any = "a red square", **more: Any) -> Tensor:
    return run(pipe, clip(), prompt=prompt, prompt_embeds=None, negative_prompt_embeds=None, **more)


def test_prompts_carry_the_words_of_quality(speaking: Any) -> None:
    said: list[Any] = []
    encode = speaking.encode_prompt

    def look(text: Any, clips: int) -> Tensor:
        said.append(text)
        return encode(text, clips)

    speaking.encode_prompt = look
    try:
        spoken(speaking)
        spoken(speaking, None, negative_prompt="blue")
        spoken(speaking, guidance_scale=1.0, preset=UpscalePreset(quality="", negative=""))
    finally:
        del speaking.encode_prompt
    assert said == [
        "a red square, best quality, extremely detailed",
        "blur, worst quality",
        "best quality, extremely detailed",
        "blue",
        "a red square",
    ]
    assert not torch.allclose(spoken(speaking), spoken(speaking, "a blue circle"))
    with pytest.raises(CheckError, match="2 prompts for 1 clips"):
        spoken(speaking, ["one", "two"])


def test_it_is_saved_and_loaded(speaking: Any, tmp_path: Path) -> None:
    speaking.save_pretrained(tmp_path)
    again = VideoUpscalePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.config.preset == "aigc"
    torch.testing.assert_close(spoken(again), spoken(speaking))
    half = VideoUpscalePipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.unet.dtype == half.text_encoder.dtype == torch.bfloat16
    for name, value in speaking.vae.state_dict().items():
        assert torch.equal(half.vae.state_dict()[name], value)
    assert spoken(half, output_type="pt").dtype == torch.float32
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "Other"}))
    with pytest.raises(CheckpointError, match=r"a Other, not a saved .*upscalers\.load_upscaler"):
        VideoUpscalePipeline.from_pretrained(tmp_path)


def test_the_published_tree_is_loaded(speaking: Any, tmp_path: Path) -> None:
    publish(speaking, tmp_path)
    pipe = VideoUpscalePipeline.from_published(tmp_path, video_vae=True)
    pipe.set_progress_bar_config(disable=True)
    torch.testing.assert_close(
        spoken(pipe, preset="aigc", output_type="pt"), spoken(speaking, output_type="pt")
    )
    by_source: Any = load_upscaler(tmp_path, video_vae=True)
    assert by_source.pipeline.vae.config.condition_channels is not None
    assert len(by_source.weights) == 64
    with pytest.raises(CheckpointError, match=r"vae_3d\.bin is not a file"):
        load_upscaler(tmp_path)
    with pytest.raises(CheckpointError, match=r"vae_3d\.bin is not a file"):
        VideoUpscalePipeline.from_published(tmp_path)
    with pytest.raises(CheckpointError, match="it has no text_encoder"):
        VideoUpscalePipeline.from_published(tmp_path / "unet")
    plain = tiny_video_upscale()
    publish(speaking, tmp_path, plain.vae)
    other: Any = load_upscaler(tmp_path)
    assert other.pipeline.vae.config.condition_channels is None
    assert other.identity()["weights"] != by_source.identity()["weights"]


# --- prompts that are too long --------------------------------------------------------------------

LONG = "a red square beside a blue circle on a green hill behind a yellow house"


@pytest.fixture
def unheard(tmp_path: Path) -> Any:
    """A pipeline whose tokenizer has warned of nothing yet: it does so once."""
    pipe = VideoUpscalePipeline(**tiny_video_upscale().components | tiny_text(tmp_path))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def warnings_of(caplog: pytest.LogCaptureFixture, go: Callable[[], Any]) -> list[str]:
    """What is logged, also by transformers, which keeps its records from the root."""
    speaker = logging.getLogger("transformers")
    speaker.addHandler(caplog.handler)
    caplog.clear()
    try:
        go()
    finally:
        speaker.removeHandler(caplog.handler)
    return [record.getMessage() for record in caplog.records]


def test_words_of_quality_are_cut_silently_and_the_callers_are_not(
    unheard: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = unheard
    assert len(pipe.tokenizer(UPSCALE_PRESETS["default"].quality, verbose=False).input_ids) > 24
    assert warnings_of(caplog, lambda: spoken(pipe, None)) == []
    assert warnings_of(caplog, lambda: spoken(pipe, "a red square")) == []

    (warning,) = warnings_of(caplog, lambda: spoken(pipe, LONG))
    fits = pipe.tokenizer(LONG, truncation=True).input_ids[1:-1]
    cut = LONG.removeprefix(pipe.tokenizer.decode(fits, clean_up_tokenization_spaces=False).strip())
    assert len(fits) == 22
    assert 0 < len(cut) < len(LONG)
    assert (
        f"takes 24 tokens, those of start and end included, and does not see {cut!r} of prompt; "
        in warning
    )
    assert torch.equal(spoken(pipe, LONG), spoken(pipe, f"{LONG} with a door"))

    (warning,) = warnings_of(caplog, lambda: spoken(pipe, "a hill", negative_prompt=LONG))
    assert f"{cut!r} of negative_prompt; " in warning
    (warning,) = warnings_of(caplog, lambda: spoken(pipe, LONG, negative_prompt=LONG))
    assert f"{cut!r} of prompt and {cut!r} of negative_prompt; " in warning
    more = {"negative_prompt": LONG, "guidance_scale": 1.0}
    assert warnings_of(caplog, lambda: spoken(pipe, "a hill", **more)) == []
    assert warnings_of(caplog, lambda: run(pipe, clip(), prompt=LONG)) == []  # embeddings instead

    upscaler = ClipUpscaler(pipe, prompt=LONG, settings={"num_inference_steps": 1})
    given = clip()[0].transpose(0, 1).sigmoid()
    stretches = warnings_of(caplog, lambda: [upscaler(given, first) for first in (0, 3)])
    assert len(stretches) == 1


def test_a_token_of_several_vectors_stands_for_all_of_them(
    unheard: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = unheard
    pipe.load_textual_inversion({"<odd>": make_latent((3, 16), 2)})
    several = pipe.tokenizer(
        "<odd> <odd>_1 <odd>_2 hill", padding="max_length", return_tensors="pt"
    ).input_ids
    assert len(set(several[0, 1:4].tolist())) == 3
    own = UpscalePreset(quality="", negative="")
    assert torch.equal(pipe.encode_prompt("<odd> hill", 1), pipe.text_encoder(several)[0])
    assert warnings_of(caplog, lambda: spoken(pipe, "<odd> hill", preset=own)) == []
    nine = " ".join(["<odd>"] * 9)
    (warning,) = warnings_of(caplog, lambda: spoken(pipe, nine, preset=own))
    assert warning.count("<odd>") == 5  # 27 vectors and two ends


def test_its_calls_can_be_planned(pipe: Any) -> None:
    plan = el.plan(pipe, upscale_a_video(still(8, 8, 6), (2,)).hook, steps=4, frames=8)
    ((call, count),) = plan.host.items()
    assert (call.name, call.batch, call.frames, count) == ("TemporalUNet", 2, 8, 4)
