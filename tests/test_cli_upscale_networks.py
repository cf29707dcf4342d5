"""`elevator upscale` by networks: which method is meant, what it is given, what it refuses."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elevator.cli import main
from elevator.cli.methods import METHODS
from elevator.pipelines.upscalers import ClipUpscaler, PipelineUpscaler
from elevator.upscale import Regression
from tests.builders import ddim, tiny_text, tiny_unet, tiny_vae, tiny_video_upscale
from tests.test_cli_upscale import clip_at, size_of

Parse = Callable[..., Any]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_text(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def clips(text: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of clips that doubles."""
    pipe = tiny_video_upscale()
    pipe.register_modules(**text)
    folder = tmp_path_factory.mktemp("clips")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(text: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved image upscaler that doubles."""
    from diffusers import DDPMScheduler, StableDiffusionUpscalePipeline

    pipe = StableDiffusionUpscalePipeline(
        vae=tiny_vae(),
        unet=tiny_unet(in_channels=7, num_class_embeds=351),
        low_res_scheduler=DDPMScheduler(),
        scheduler=ddim("v_prediction"),
        safety_checker=None,
        **text,
    )
    folder = tmp_path_factory.mktemp("images")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def upscale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, on a clip in an otherwise empty folder."""
    monkeypatch.chdir(tmp_path)
    clip_at("in.mp4")
    return lambda *given: main(["upscale", "in.mp4", "-o", "out.mp4", *map(str, given)])


@pytest.fixture
def built(upscale: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The upscaler that the command line makes."""

    def build(*given: str | Path) -> Any:
        made: list[Any] = []
        monkeypatch.setattr(
            "elevator.cli.upscale._upscale", lambda _, upscaler, *a, **k: made.append(upscaler)
        )
        with pytest.raises(AttributeError):  # what it is told there is not of a real run
            upscale(*given)
        return made[0]

    return build


@pytest.mark.parametrize("scale", [2, 4])
def test_the_default_is_the_network_of_that_scale(built: Any, scale: int) -> None:
    made = built("--scale", scale)
    assert isinstance(made, Regression)
    assert made.scale == scale


def test_regression_makes_a_clip(upscale: Any) -> None:
    assert upscale() == 0
    assert size_of("out.mp4") == (5, 64, 48)


def test_a_pipeline_of_clips_gets_what_is_given(built: Any, clips: Path, tmp_path: Path) -> None:
    plain = built("--pipe", clips, "--scale", "2")
    assert isinstance(plain, ClipUpscaler)
    assert (plain.settings, plain.prompt, plain.seed) == ({}, None, 0)
    (tmp_path / "words.txt").write_text("a fox\nin snow\n")
    made = built(
        *("--pipe", clips, "--scale", "2", "--caption", "words.txt", "--negative", "blur"),
        *("--noise-level", "150", "--guidance", "1.5", "--steps", "4", "--propagate", "1, 3"),
        *("--preset", "aigc", "--window", "5", "--overlap", "0", "--tile", "32", "--seed", "7"),
        *("--colour", "adain", "--method", "diffusion"),
    )
    assert (made.prompt, made.seed) == ("a fox in snow", 7)
    assert made.settings == {
        "preset": "aigc",
        "negative_prompt": "blur",
        "guidance_scale": 1.5,
        "noise_level": 150,
        "num_inference_steps": 4,
        "propagate": (1, 3),
        "window": 5,
        "overlap": 0,
        "tile": 32,
        "colour": "adain",
    }
    assert built("--pipe", clips, "--scale", "2", "--propagate", "").settings == {"propagate": ()}


def test_a_pipeline_of_images_gets_what_is_given(built: Any, images: Path) -> None:
    made = built(
        *("--pipe", images, "--scale", "2", "--prompt", "a fox", "--negative", "blur"),
        *("--noise-level", "20", "--guidance", "1.5", "--steps", "4", "--propagate", "3"),
        *("--window", "5", "--overlap", "1", "--seed", "7"),
    )
    assert isinstance(made, PipelineUpscaler)
    found = (made.prompt, made.negative, made.noise_level, made.guidance, made.steps)
    assert found == ("a fox", "blur", 20, 1.5, 4)
    assert (made.propagate, made.chunk, made.overlap, made.seed) == ((3,), 5, 1, 7)


@pytest.mark.parametrize("kind", ["clips", "images"])
def test_pipelines_make_clips(kind: str, upscale: Any, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    made = []
    for seed in ("0", "0", "1"):
        Path("out.mp4").unlink(missing_ok=True)
        given = ("--pipe", folder, "--scale", "2", "--steps", "2", "--seed", seed, "--no-resume")
        assert upscale(*given) == 0
        assert size_of("out.mp4") == (5, 32, 24)
        made.append(Path("out.mp4").read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]


REFUSED = [
    (["--scale", "3"], "make clips 2 or 4 times as large, not 3"),
    (["--pipe", "CLIPS"], "makes clips 2 times as large, not 4; give --scale 2"),
    (["--pipe", "CLIPS", "--prompt", "a", "--caption", "b"], "give one of them"),
    (["--pipe", "CLIPS", "--caption", "none.txt"], "the caption none.txt cannot be read"),
    (["--pipe", "CLIPS", "--preset", "magic"], "invalid choice: 'magic'"),
    (["--pipe", "CLIPS", "--propagate", "1,x"], "x is not a whole number of at least 0"),
    (["--pipe", "CLIPS", "--window", "2", "--overlap", "2", "--scale", "2"], "overlap"),
    (["--pipe", "IMAGES", "--scale", "2", "--colour", "adain"], "--colour means nothing to"),
    (["--pipe", "IMAGES", "--scale", "2", "--tile", "64"], "--tile means nothing to"),
    (["--pipe", "nowhere/at/all"], "nowhere/at/all"),
    (["--pipe", "CLIPS", "--method", "regression"], "--pipe means nothing to --method regression"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_refusals(
    given: list[str],
    said: str,
    upscale: Any,
    clips: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {"CLIPS": clips, "IMAGES": images}
    assert upscale(*(folders.get(word, word) for word in given)) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert [name for name in os.listdir() if name.startswith("out")] == []


def test_every_option_of_a_method_is_one_of_the_command() -> None:
    from elevator.cli import _parser

    known = vars(_parser().parse_args(["upscale", "in.mp4", "-o", "out.mp4"]))
    for method in METHODS.values():
        assert method.options <= known.keys()
        assert all(known[option] is None for option in method.options)
