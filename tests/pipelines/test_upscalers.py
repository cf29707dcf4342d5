"""Pipelines as upscalers of stretches: shapes, shared noise, chunks, what they load and say."""

import copy
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elevator.errors import CheckError, CheckpointError
from elevator.filters import Flow
from elevator.pipelines.upscalers import ClipUpscaler, PipelineUpscaler, load_upscaler
from tests.builders import (
    ddim,
    make_latent,
    scheduler_of,
    tiny_sd,
    tiny_text,
    tiny_unet,
    tiny_vae,
    tiny_video_upscale,
)

QUICK: dict[str, Any] = {"steps": 3, "guidance": 2.0, "prompt": "a red square"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_text(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def upscale(text: dict[str, Any]) -> Any:
    """An image upscaler that doubles."""
    from diffusers import DDPMScheduler, StableDiffusionUpscalePipeline

    pipe = StableDiffusionUpscalePipeline(
        vae=tiny_vae(),
        unet=tiny_unet(in_channels=7, num_class_embeds=351),
        low_res_scheduler=DDPMScheduler(),
        scheduler=ddim("v_prediction"),
        safety_checker=None,
        **text,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def refine(text: dict[str, Any]) -> Any:
    from diffusers import StableDiffusionImg2ImgPipeline

    parts = tiny_sd().components | text
    pipe = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frames(count: int = 3, height: int = 11, width: int = 8) -> Tensor:
    return make_latent((1, 3, count, height, width), 3)[0].transpose(0, 1).sigmoid()


@pytest.mark.parametrize("kind", ["upscale", "refine"])
def test_frames_of_any_size_get_larger(kind: str, request: pytest.FixtureRequest) -> None:
    pipe = request.getfixturevalue(kind)
    upscaler = PipelineUpscaler(pipe, **QUICK, strength=0.7, enlarge=3)
    scale = {"upscale": 2, "refine": 3}[kind]
    assert (upscaler.scale, upscaler.reach, upscaler.fade) == (scale, 0, 2)
    given = frames()
    made = upscaler(given, 0)
    assert made.shape == (3, 3, 11 * scale, 8 * scale)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert torch.equal(upscaler(given, 0), made)
    assert upscaler(given[:1], 0).shape == (1, 3, 11 * scale, 8 * scale)


def test_noise_is_shared_by_all_frames_or_goes_with_the_frame(upscale: Any) -> None:
    same = frames(1).expand(4, -1, -1, -1)
    alone: dict[str, Any] = {"inflate": False, "propagate": ()}
    shared = PipelineUpscaler(upscale, **QUICK, **alone)(same, 0)
    torch.testing.assert_close(shared, shared[:1].expand_as(shared), atol=1e-5, rtol=0)
    own = PipelineUpscaler(upscale, **QUICK, **alone, shared=False)
    made = own(same, 0)
    assert (made[0] - made[1]).abs().max() > 0.01
    torch.testing.assert_close(own(same[:2], 2), made[2:], atol=1e-5, rtol=0)


def test_frames_are_held_together(upscale: Any) -> None:
    """By attention to the first frame of the chunk, and by propagation."""
    given = frames(4)
    other = given.clone()
    other[0] = 1 - other[0]

    seen: list[Tensor] = []

    def still(clip: Tensor) -> Flow:
        seen.append(clip)
        b, _, f, h, w = clip.shape
        return Flow(*(torch.zeros(b, 2, f - 1, h, w) for _ in range(2)))

    cases: tuple[tuple[bool, dict[str, Any]], ...] = (
        (False, {"inflate": False, "propagate": ()}),
        (True, {"inflate": True, "propagate": ()}),
        (True, {"inflate": False, "propagate": (1,), "flow": still}),
    )
    for together, settings in cases:
        upscaler = PipelineUpscaler(upscale, **QUICK, **settings)
        difference = (upscaler(given, 0) - upscaler(other, 0))[1:].abs().amax()
        assert bool(difference > 1e-4) is together
    assert len(seen) == 2
    assert torch.equal(seen[0], 2 * given.transpose(0, 1)[None] - 1)


def test_flow_is_estimated_while_the_network_is_at_work(upscale: Any) -> None:
    called = threading.Event()

    def moving(frames: Tensor) -> Flow:
        b, _, f, h, w = frames.shape
        return Flow(*(0.3 * make_latent((b, 2, f - 1, h, w), seed) for seed in (1, 2)))

    def estimate(frames: Tensor) -> Flow:
        assert called.wait(20)
        return moving(frames)

    late: dict[str, Any] = QUICK | {"propagate": (2,), "inflate": False}
    handle = upscale.unet.register_forward_hook(lambda *_: called.set())
    try:
        made = PipelineUpscaler(upscale, **late, flow=estimate)(frames(4), 0)
    finally:
        handle.remove()
    assert torch.equal(made, PipelineUpscaler(upscale, **late, flow=moving)(frames(4), 0))


def test_chunks_are_cross_faded(upscale: Any) -> None:
    settings: dict[str, Any] = {"inflate": False, "propagate": ()}
    whole = PipelineUpscaler(upscale, **QUICK, **settings)(frames(7), 0)
    cut = PipelineUpscaler(upscale, **QUICK, **settings, chunk=3, overlap=1)(frames(7), 0)
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap": 8}, "chunks of 8 frames cannot share 8"),
        ({"enlarge": 0}, "enlarge is 0"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"propagate": (3,)}, r"names steps \[3\], but the run has 3"),
    ],
)
def test_what_cannot_work_is_told_at_once(
    upscale: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        PipelineUpscaler(upscale, **QUICK | settings)


def test_a_pipeline_without_image_is_refused() -> None:
    for pipe in (tiny_sd(), tiny_video_upscale()):
        with pytest.raises(CheckError, match=f"{type(pipe).__name__} takes no image"):
            PipelineUpscaler(pipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0.3}, r"3 x 0.3 is less than one; give 4 steps or more, or .* at least 0.34"),
        ({"strength": 0.7, "propagate": (0, 2)}, r"names steps \[0\], .* has 1 .* to 2 only"),
        ({"steps": 2000}, "steps is 2000, but must be from 1 to 1000"),
        ({"steps": 0}, "steps is 0, but"),
    ],
)
def test_what_image_to_image_would_not_run_is_told(
    refine: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        PipelineUpscaler(refine, **QUICK | settings)


def test_the_first_step_that_is_run_is_the_one_of_the_message(refine: Any) -> None:
    """Of 3 steps at 0.7 two are run, those with the indices 1 and 2."""
    given = frames(2)
    plain = PipelineUpscaler(refine, **QUICK, strength=0.7, enlarge=2, propagate=())(given, 0)
    for index in (1, 2):
        made = PipelineUpscaler(refine, **QUICK, strength=0.7, enlarge=2, propagate=(index,))
        assert not torch.equal(made(given, 0), plain)
    late = PipelineUpscaler(refine, **QUICK | {"steps": 10}, strength=0.1)
    assert late.identity()["propagate"] == [9]


@pytest.mark.parametrize(
    "name", ["StableDiffusionInstructPix2PixPipeline", "StableDiffusionInpaintPipeline"]
)
def test_pipelines_that_only_look_like_upscalers_are_refused(
    text: dict[str, Any], name: str
) -> None:
    import diffusers

    parts = tiny_sd().components | text
    pipe = getattr(diffusers, name)(**parts, requires_safety_checker=False)
    with pytest.raises(CheckError, match="neither enlarges it nor goes over it alone"):
        PipelineUpscaler(pipe)
    pipe.vae = None
    with pytest.raises(CheckError, match="has no autoencoder"):
        PipelineUpscaler(pipe)


def test_the_latent_upscaler_doubles_whatever_its_autoencoder_does(text: dict[str, Any]) -> None:
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionLatentUpscalePipeline,
    )

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
    )
    pipe = StableDiffusionLatentUpscalePipeline(
        vae=vae,
        unet=tiny_unet(in_channels=8, out_channels=5, time_cond_proj_dim=144),
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
        **text,
    )
    pipe.set_progress_bar_config(disable=True)
    upscaler = PipelineUpscaler(pipe, **QUICK)
    assert (upscaler.scale, upscaler.refines) == (2, False)
    assert upscaler(frames(2), 0).shape == (2, 3, 22, 16)


def test_frames_are_padded_to_what_the_pipeline_cuts_them_to(refine: Any) -> None:
    """Some round to twice their autoencoder's factor, and would stretch what is between."""
    from diffusers.image_processor import VaeImageProcessor

    seen: list[Any] = []
    own = refine.image_processor
    refine.image_processor = VaeImageProcessor(vae_scale_factor=4)
    preprocess = refine.image_processor.preprocess

    def look(image: Any, *more: Any, **options: Any) -> Any:
        seen.append(tuple(image.shape[2:]))
        return preprocess(image, *more, **options)

    refine.image_processor.preprocess = look
    try:
        made = PipelineUpscaler(refine, **QUICK, strength=0.7, enlarge=2)(frames(1, 5, 9), 0)
    finally:
        refine.image_processor = own
    assert seen == [(12, 20)]
    assert made.shape == (1, 3, 10, 18)


def test_a_clip_upscaler_is_the_pipeline_on_stretches() -> None:
    pipe = tiny_video_upscale()
    embeds = make_latent((2, 5, 16), 7)
    settings = {
        "prompt_embeds": embeds[1:],
        "negative_prompt_embeds": embeds[:1],
        "num_inference_steps": 2,
        "propagate": (1,),
    }
    upscaler = ClipUpscaler(pipe, settings=settings, seed=3)
    given = frames(4)
    made = upscaler(given, 5)
    assert (upscaler.scale, upscaler.reach, made.shape) == (2, 0, (4, 3, 22, 16))
    expected = pipe(
        2 * given.transpose(0, 1)[None] - 1,
        first_frame=5,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
        **settings,
    ).frames
    torch.testing.assert_close(made, expected[0])
    assert not torch.allclose(made, upscaler(given, 0))


# --- files ----------------------------------------------------------------------------------------


def test_what_is_loaded_tells_its_kind_and_identity(
    upscale: Any, text: dict[str, Any], tmp_path: Path
) -> None:
    upscale.save_pretrained(tmp_path / "upscale")
    loaded = load_upscaler(tmp_path / "upscale", **QUICK)
    assert isinstance(loaded, PipelineUpscaler)
    assert loaded.inflate
    torch.testing.assert_close(loaded(frames(), 0), PipelineUpscaler(upscale, **QUICK)(frames(), 0))
    identity = loaded.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["weights"] == loaded.weights != ""
    assert load_upscaler(tmp_path / "upscale", **QUICK).identity() == identity
    assert load_upscaler(tmp_path / "upscale", **QUICK, seed=1).identity() != identity

    clip = tiny_video_upscale()
    clip = type(clip)(**clip.components | text)
    clip.save_pretrained(tmp_path / "clip")
    small = {"num_inference_steps": 1}
    video = load_upscaler(tmp_path / "clip", settings=small, prompt="a red square")
    assert isinstance(video, ClipUpscaler)
    assert video.weights
    assert json.loads(json.dumps(video.identity())) == video.identity()
    video.pipeline.set_progress_bar_config(disable=True)
    assert video(frames(2), 0).shape == (2, 3, 22, 16)


def test_identity_tells_weights_and_configurations_apart(refine: Any) -> None:
    """Also of what came from a hub, of whose files nothing is known."""

    def said(pipe: Any) -> dict[str, Any]:
        return dict(PipelineUpscaler(pipe, **QUICK, strength=0.7).identity())

    same = said(refine)
    assert len(same["weights"]) == 64
    assert same == said(type(refine)(**refine.components, requires_safety_checker=False))
    notes = {"_use_default_values", "_class_name", "_diffusers_version", "_name_or_path"}
    assert not any(notes & part.keys() for part in same["parts"].values())

    parts = dict(refine.components)
    other = copy.deepcopy(parts["text_encoder"])
    next(other.parameters()).data[0, 0] += 1
    changed = type(refine)(**parts | {"text_encoder": other}, requires_safety_checker=False)
    assert said(changed)["weights"] != same["weights"]

    vae = copy.deepcopy(parts["vae"])
    vae.register_to_config(scaling_factor=0.9)
    changed = type(refine)(**parts | {"vae": vae}, requires_safety_checker=False)
    assert said(changed)["weights"] == same["weights"]
    assert said(changed)["parts"] != same["parts"]

    first, second = ClipUpscaler(tiny_video_upscale()), tiny_video_upscale()
    assert first.identity() == ClipUpscaler(second).identity()
    next(second.unet.parameters()).data.flatten()[0] += 1
    assert first.identity() != ClipUpscaler(second).identity()


def test_weights_of_a_hub_id_are_told_by_what_was_loaded(
    upscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elevator.pipelines import upscalers

    monkeypatch.setattr(upscalers, "locate", lambda source, expected: source)
    monkeypatch.setattr(upscalers, "index_of", lambda source, **hub: {})
    monkeypatch.setattr(upscalers, "_image_pipeline", lambda *given: upscale)
    loaded = load_upscaler("somebody/upscaler", **QUICK)
    upscale.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert loaded.weights == load_upscaler(tmp_path, **QUICK).weights != ""


def test_text_is_encoded_once_for_all_stretches(text: dict[str, Any]) -> None:
    pipe = tiny_video_upscale()
    pipe = type(pipe)(**pipe.components | text)
    pipe.set_progress_bar_config(disable=True)
    said: list[Any] = []
    encode = pipe.encode_prompt

    def look(words: Any, clips: int) -> Tensor:
        said.append(words)
        return encode(words, clips)

    pipe.encode_prompt = look
    settings = {"num_inference_steps": 2, "negative_prompt": "blue"}
    upscaler = ClipUpscaler(pipe, prompt="a red square", settings=settings)
    made = [upscaler(frames(2), first) for first in (0, 2)]
    assert said == ["a red square, best quality, extremely detailed", "blue"]
    fresh = replace(upscaler)
    assert fresh == upscaler
    assert torch.equal(fresh(frames(2), 2), made[1])
    assert len(said) == 4
    expected = pipe(
        2 * frames(2).transpose(0, 1)[None] - 1,
        "a red square",
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **settings,
    ).frames
    assert torch.equal(expected[0], made[0])
    said.clear()
    unguided = settings | {"guidance_scale": 1.0, "preset": "old-movie"}
    assert ClipUpscaler(pipe, settings=unguided)(frames(2), 0).shape == (2, 3, 22, 16)
    assert said == ["best quality, extremely detailed"]


def test_text_to_image_becomes_image_to_image_and_gets_a_solver_that_can_be_followed(
    text: dict[str, Any], tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    parts = tiny_sd(scheduler_of("PNDMScheduler")).components | text
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(CheckError, match="switch the solver"):
        PipelineUpscaler(_image_to_image(pipe), **QUICK, strength=0.7)
    loaded: Any = load_upscaler(tmp_path, **QUICK, strength=0.7, enlarge=2)
    assert type(loaded.pipeline).__name__ == "StableDiffusionImg2ImgPipeline"
    assert type(loaded.pipeline.scheduler).__name__ == "DDIMScheduler"
    assert loaded(frames(2), 0).shape == (2, 3, 22, 16)


def _image_to_image(pipe: Any) -> Any:
    from diffusers import AutoPipelineForImage2Image

    return AutoPipelineForImage2Image.from_pipe(pipe)


def test_sources_that_are_no_upscaler_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="video_vae=True chooses between the autoencoders"):
        load_upscaler(tmp_path, video_vae=True)
    with pytest.raises(CheckpointError, match="does not exist; expected a diffusers pipeline"):
        load_upscaler(tmp_path / "nothing")
    ddim().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"model_index\.json is missing"):
        load_upscaler(tmp_path)
