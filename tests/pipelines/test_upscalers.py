"""Pipelines as upscalers of stretches: shapes, shared noise, chunks, what they load and say."""

import json
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
    with pytest.raises(CheckError, match="StableDiffusionPipeline takes no image"):
        PipelineUpscaler(tiny_sd())


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


def test_text_to_image_becomes_image_to_image_and_gets_a_solver_that_can_be_followed(
    text: dict[str, Any], tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    parts = tiny_sd(scheduler_of("PNDMScheduler")).components | text
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(CheckError, match="switch the solver"):
        PipelineUpscaler(_image_to_image(pipe), **QUICK)
    loaded: Any = load_upscaler(tmp_path, **QUICK, strength=0.7, enlarge=2)
    assert type(loaded.pipeline).__name__ == "StableDiffusionImg2ImgPipeline"
    assert type(loaded.pipeline.scheduler).__name__ == "DDIMScheduler"
    assert loaded(frames(2), 0).shape == (2, 3, 22, 16)


def _image_to_image(pipe: Any) -> Any:
    from diffusers import AutoPipelineForImage2Image

    return AutoPipelineForImage2Image.from_pipe(pipe)


def test_sources_that_are_no_upscaler_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist; expected a diffusers pipeline"):
        load_upscaler(tmp_path / "nothing")
    ddim().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"model_index\.json is missing"):
        load_upscaler(tmp_path)
