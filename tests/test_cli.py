"""The command line: what it writes, what it refuses, and that it can do it again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from elevator import zoo
from elevator.cli import main
from elevator.cli.compare import side_by_side, targets
from elevator.cli.record import Record, Settings
from elevator.video import io
from elevator.video.sheet import contact_sheet
from tests.builders import tiny_sd, tiny_text_to_video

PROMPT = "a red ring moving left"
SHORT = ["--frames", "3", "--steps", "5"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, all the more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pipelines, as people have them on their disks."""
    folder = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings(action="ignore"):
        text, tokenizer = _text(folder / "tokenizer")
        for name, pipeline in (("t2i", tiny_sd()), ("t2v", tiny_text_to_video())):
            pipeline.register_modules(text_encoder=text, tokenizer=tokenizer)
            pipeline.save_pretrained(folder / name)
        stranger = tiny_sd()
        with torch.no_grad():
            for weight in stranger.vae.encoder.parameters():
                weight.normal_(std=0.2)
        stranger.register_modules(text_encoder=text, tokenizer=tokenizer)
        stranger.save_pretrained(folder / "stranger")
    shutil.copytree(folder / "t2i", folder / "pickled")
    (folder / "pickled/unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, folder / "pickled/unet/diffusion_pytorch_model.bin")
    (folder / "model.ckpt").write_bytes(b"pickle")
    (folder / "empty").mkdir()
    for name, scheduler in (("t2i", "FlowMatchEulerDiscreteScheduler"), ("t2v", "PNDMScheduler")):
        odd = folder / f"{name}-odd"
        shutil.copytree(folder / name, odd)
        index = json.loads((odd / "model_index.json").read_text())
        index["scheduler"][1] = scheduler
        (odd / "model_index.json").write_text(json.dumps(index))
        (odd / "scheduler/scheduler_config.json").write_text(json.dumps({"_class_name": scheduler}))
    return folder


def _text(folder: Path) -> tuple[Any, Any]:
    """A text encoder of one layer, and a tokenizer that knows the letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=32
    )
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return CLIPTextModel(config).eval(), tokenizer


@pytest.fixture
def generate(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`elevator generate` with the tiny models, in an empty folder; `models/x` is one of theirs."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, defaults: bool = True) -> int:
        given = [str(models / a[7:]) if a.startswith("models/") else a for a in arguments]
        for flag in ("t2i", "t2v"):
            if defaults and f"--{flag}" not in given:
                given += [f"--{flag}", str(models / flag)]
        if defaults:
            given += [flag for flag in SHORT if SHORT[SHORT.index(flag) // 2 * 2] not in arguments]
        return main(["generate", *given])

    return run


def frames_of(folder: str) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(f)) for f in sorted(Path(folder).glob("*.png"))])


# --- what it makes --------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["ring.mp4", "ring.gif", "ring.webp", "ring"])
def test_again_makes_the_same_frames_bit_for_bit(
    generate: Callable[..., int], out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(PROMPT, "-o", out, "--seed", "7", "--size", "24x16", "--fps", "5") == 0
    record = Record.read(out)
    assert record.settings.prompt == PROMPT
    assert (record.settings.width, record.settings.height, record.settings.seed) == (24, 16, 7)
    assert {*record.sha256} == {"t2i", "t2v"}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in record.sha256.values())
    assert {"elevator", "torch", "diffusers", "python"} <= {*record.versions}
    assert "DDIMInversion" in record.hook
    assert generate("--again", out, "-o", "again", defaults=False) == 0
    assert "the same bit for bit" in capsys.readouterr().out
    assert Record.read("again") == record
    if out in ("ring", "ring.webp"):  # which keep frames exactly
        with Image.open("ring.webp" if out == "ring.webp" else "ring/0000.png") as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), frames_of("again")[0])


@pytest.mark.parametrize(
    ("out", "again"),
    [
        ("ring.mp4", "ring-again.mp4"),
        ("films/ring.gif", "films/ring-again.gif"),
        ("ring", "ring-again"),
        ("v1.0/", "v1.0-again"),
    ],
)
def test_again_needs_no_out(generate: Callable[..., int], out: str, again: str) -> None:
    Path("films").mkdir()
    assert generate(PROMPT, "-o", out, "--quiet") == 0
    assert generate("--again", out, "--quiet", defaults=False) == 0
    assert Path(again).is_dir() == Path(out).is_dir()
    assert Record.read(again) == Record.read(out)


def test_again_of_one_frame_makes_a_folder(generate: Callable[..., int]) -> None:
    assert generate(PROMPT, "-o", "ring", "--quiet") == 0
    shutil.copy("ring/0000.png", "frame.png")
    assert generate("--again", "frame.png", "--quiet", defaults=False) == 0
    assert np.array_equal(frames_of("frame-again"), frames_of("ring"))


def test_another_seed_makes_other_frames(generate: Callable[..., int]) -> None:
    assert generate(PROMPT, "-o", "one", "--seed", "1", "--quiet") == 0
    assert generate(PROMPT, "-o", "two", "--seed", "2", "--quiet") == 0
    assert not np.array_equal(frames_of("one"), frames_of("two"))


def test_quiet_prints_nothing(
    generate: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(PROMPT, "-o", "ring.mp4", "--quiet", "--compare", "--fast") == 0
    assert capfd.readouterr() == ("", "")


def test_without_quiet_there_is_a_bar_with_the_time_left_and_one_line(
    generate: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate("some wörds nobody knows 你好", "-o", "ring.mp4") == 0
    told = capfd.readouterr()
    assert re.fullmatch(r"ring.mp4: 3 frames of 16x16 in \d+ s\n", told.out)
    assert re.search(r"elevating: +\d+%.*<", told.err)
    assert "deprecated" not in told.err.lower()


def test_compare_writes_a_labelled_video_and_a_sheet(generate: Callable[..., int]) -> None:
    assert generate(PROMPT, "-o", "ring.webp", "--compare") == 0
    assert sorted(os.listdir()) == ["ring-compare.png", "ring-compare.webp", "ring.webp"]
    with Image.open("ring-compare.webp") as picture:
        assert getattr(picture, "n_frames", 1) == 3
        assert picture.width > 3 * 256  # tiny frames are enlarged
    assert io.read_metadata("ring-compare.png")["compares"]["settings"]["prompt"] == PROMPT


def test_the_first_command_of_the_readme_works_and_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = "a striped red ring moving left on a teal background"
    few = ["--steps", "10", "--frames", "4", "--quiet"]
    assert main(["generate", prompt, "-o", "ring.mp4", *few]) == 0
    assert main(["generate", "--again", "ring.mp4", "-o", "again.mp4"]) == 0
    assert "the same bit for bit" in capsys.readouterr().out
    assert Path("ring.mp4").read_bytes() == Path("again.mp4").read_bytes()


# --- starting from a clip -------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of another size and more frames than are made."""
    file = tmp_path_factory.mktemp("given") / "clip.webp"
    frames = np.random.default_rng(0).integers(0, 256, (7, 20, 32, 3), np.uint8)
    io.write_video(frames, file)
    return file


def test_a_clip_to_start_from_counts_and_can_be_made_again(
    generate: Callable[..., int], given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--init", str(given), "--size", "24x16"]
    assert generate(PROMPT, "-o", "ring", *start, "--strength", "0.4") == 0
    assert generate(PROMPT, "-o", "plain", "--size", "24x16") == 0
    assert generate(PROMPT, "-o", "noise", *start, "--strength", "1") == 0
    assert generate(PROMPT, "-o", "wide", *start, "--strength", "0.4", "--init-every", "3") == 0
    assert frames_of("ring").shape == (3, 16, 24, 3)
    assert np.array_equal(frames_of("noise"), frames_of("plain"))
    assert not np.array_equal(frames_of("ring"), frames_of("plain"))
    assert not np.array_equal(frames_of("wide"), frames_of("ring"))
    record = Record.read("ring")
    assert record.settings.init == str(given)
    assert (record.settings.strength, record.settings.init_every) == (0.4, 1)
    assert {*record.sha256} == {"t2i", "t2v", "init"}
    assert "at({3, 4}, SDEdit" in record.hook, "refined in the two of five steps that are run"
    capsys.readouterr()
    assert generate("--again", "ring", "-o", "again", "--fps", "3", defaults=False) == 0
    assert "the same bit for bit" in capsys.readouterr().out
    assert np.array_equal(frames_of("again"), frames_of("ring"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_again_refuses_another_clip(
    generate: Callable[..., int], given: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    clip = given
    if kind == "folder":
        clip = given.parent / "clip"
        io.write_video(np.zeros((4, 20, 32, 3), np.uint8), clip)
    assert generate(PROMPT, "-o", "ring.mp4", "--init", str(clip), "--quiet") == 0
    changed = np.random.default_rng(1).integers(0, 256, (4, 20, 32, 3), np.uint8)
    io.write_video(changed, clip)
    assert generate("--again", "ring.mp4", "--quiet", defaults=False) == 2
    told = capsys.readouterr().err
    assert re.search(rf"cannot be made again: init \({clip}\) has changed since; put the", told)
    shutil.rmtree(given.parent)
    assert generate("--again", "ring.mp4", "--quiet", defaults=False) == 2
    assert f"no file {clip}: check the name" in capsys.readouterr().err
    assert generate("--again", "ring.mp4", "--strength", "0.5", defaults=False) == 2
    assert "drop --strength" in capsys.readouterr().err


def test_compare_shows_the_clip_first(generate: Callable[..., int], given: Path) -> None:
    assert generate(PROMPT, "-o", "plain.webp", "--compare", "--quiet") == 0
    assert generate(PROMPT, "-o", "ring.webp", "--compare", "--quiet", "--init", str(given)) == 0
    widths = []
    for name in ("ring", "plain"):
        with Image.open(f"{name}-compare.webp") as picture:
            widths.append(picture.width)
    assert widths[0] == pytest.approx(widths[1] * 4 / 3, rel=0.01)


def test_files_made_before_there_were_clips_can_be_made_again(
    generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(PROMPT, "-o", "ring.webp") == 0
    old = io.read_metadata("ring.webp")
    for name in ("init", "init_every", "strength"):
        del old["settings"][name]
    with Image.open("ring.webp") as picture:
        frames = [frame.copy().convert("RGB") for frame in ImageSequence.Iterator(picture)]
    io.write_video(frames, "old.webp", 8, old)
    assert generate("--again", "old.webp", defaults=False) == 0
    assert "the same bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "none.mp4"], "no file .*none.mp4: check the name"),
        (["--init", "CLIP", "--frames", "8"], "clip.webp has 7 of the 8 frames that are"),
        (["--init", "CLIP", "--init-every", "4"], "has 2 of the 3 frames, 4 apart, that"),
        (["--init", "TEXT"], "cannot read .*text.mp4: it is damaged or not a video"),
        (["--init", "CLIP", "--strength", "0"], "0 is not a number above 0 and at most 1"),
        (["--init", "CLIP", "--strength", "1.1"], "1.1 is not a number above 0 and at most 1"),
        (["--init", "CLIP", "--strength", "0.1"], "strength 0.1 leaves none of 5 steps to run"),
        (["--strength", "0.5"], "are about a clip; give --init FILE too"),
        (["--init-every", "2"], "are about a clip; give --init FILE too"),
    ],
)
def test_clips_that_cannot_be_started_from(
    generate: Callable[..., int],
    given: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    text = given.parent / "text.mp4"
    text.write_text("no video")
    paths = {"CLIP": str(given), "TEXT": str(text)}
    told = [paths.get(argument, argument) for argument in arguments]
    assert generate(PROMPT, "-o", "ring.mp4", *told) == 2
    error = capfd.readouterr().err
    assert re.fullmatch(r"elevator: [^\n]+\n", error), error
    assert re.search(message, error)
    assert os.listdir() == []


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a prompt, such as"),
        ([PROMPT, "-o", "ring.avi"], ".avi is none of .mp4, .gif, .webp"),
        ([PROMPT, "-o", "none/ring.mp4"], "make the folder none first"),
        ([PROMPT, "-o", "/dev/fd/ring.mp4"], "give a place that can be written to"),
        ([PROMPT, "-o", "ring.gif", "--fps", "60"], "at most 50 frames a second"),
        ([PROMPT, "--fps", "0"], "0 is not a number above 0"),
        ([PROMPT, "--frames", "0"], "--frames: 0 is not a whole number of at least 1"),
        ([PROMPT, "--steps", "none"], "--steps: none is not a whole number"),
        ([PROMPT, "--size", "17"], "17, but must be a positive multiple of 4; try 16"),
        ([PROMPT, "--size", "16x"], "16x is not a size; write 64 or 96x64, width first"),
        ([PROMPT, "--seed", "-1"], "-1 is not a whole number from 0"),
        ([PROMPT, "--guidance", "nan"], "nan is not a number"),
        ([PROMPT, "--preset", "sora"], "preset 'sora' is unknown; choose one of zeroscope"),
        ([PROMPT, "--style", "oil", "--t2i", "models/t2i"], "give it or --t2i, not both"),
        ([PROMPT, "--device", "tpu9"], "there is no device 'tpu9' here; `elevator doctor`"),
        ([PROMPT, "--t2i", "zoo:sora"], "no built-in model zoo:sora; choose one of zoo:t2i"),
        ([PROMPT, "--t2i", "models/none"], "models.*/none"),
        ([PROMPT, "--t2i", "none.safetensors"], "none.safetensors"),
        ([PROMPT, "--t2i", "nobody/nothing"], "nobody/nothing is neither a file"),
        ([PROMPT, "--t2i", "models/empty"], "empty"),
        ([PROMPT, "--t2i", "models/model.ckpt"], "model.ckpt is a pickle"),
        ([PROMPT, "--t2i", "models/pickled"], "has only pickled weights"),
        ([PROMPT, "--t2i", "models/t2v"], "video model: give it as T2V"),
        ([PROMPT, "--t2v", "models/t2i"], "image model: give it as T2I"),
        ([PROMPT, "--t2i", "models/stranger"], "different latent spaces"),
        (
            [PROMPT, "--t2i", "models/t2i-odd"],
            "the T2I comes with a FlowMatchEulerDiscreteScheduler",
        ),
        ([PROMPT, "--t2v", "models/t2v-odd"], "t2v-odd comes with a PNDMScheduler"),
        ([PROMPT, "--lora", "none.safetensors:0.5"], "none.safetensors does not exist"),
        ([PROMPT, "--sped", "up"], "unrecognized arguments: --sped"),
    ],
)
def test_what_cannot_be_done_gets_one_line_and_leaves_nothing(
    generate: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    if "-o" not in arguments:
        arguments = [*arguments, "-o", "ring.mp4"]
    assert generate(*arguments) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"elevator: [^\n]+\n", told.err), told.err
    assert re.search(message, told.err)
    assert os.listdir() == []


def test_without_again_out_is_needed(
    generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(PROMPT) == 2
    assert "give a file to write, such as -o ring.mp4" in capsys.readouterr().err


def test_an_unknown_style_is_refused(
    generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(PROMPT, "--style", "oil", "-o", "ring.mp4", defaults=False) == 2
    assert "there is no style 'oil'; choose one of ink, mosaic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "preset"),
    [
        ({}, "world"),
        ({"lora": (("zoo:t2i-ink", 1.0),)}, "world-styled"),
        ({"t2i": "zoo:t2i-mosaic", "t2i_config": "zoo:t2i"}, "world-styled"),
        ({"lora": (("zoo:t2i-ink", 1.0),), "preset": "world"}, "world"),
        ({"t2v": "elsewhere"}, None),
    ],
)
def test_the_preset_fits_the_models(given: dict[str, Any], preset: str | None) -> None:
    assert Settings(PROMPT, **given).fitting_preset == preset


def test_a_folder_of_other_things_is_never_replaced(
    generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("diaries").mkdir()
    Path("diaries/0000.txt").write_text("dear diary")
    assert generate(PROMPT, "-o", "diaries") == 2
    assert "it exists and holds other things" in capsys.readouterr().err
    assert Path("diaries/0000.txt").read_text() == "dear diary"


def test_again_refuses_other_weights_and_settings(
    generate: Callable[..., int], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models / "t2i", "mine")
    assert generate(PROMPT, "-o", "ring.mp4", "--t2i", "mine", "--quiet") == 0
    again = ["--again", "ring.mp4", "-o", "again.mp4"]

    def refused(*more: str) -> str:
        assert generate(*again, *more, defaults=False) == 2
        assert not Path("again.mp4").exists()
        return capsys.readouterr().err

    assert "--again takes everything from ring.mp4; drop --seed" in refused("--seed", "1")
    assert "drop PROMPT, --t2i-config, --fast" in refused("x", "--fast", "--t2i-config", "mine")
    weights = Path("mine/unet/diffusion_pytorch_model.safetensors")
    shutil.copyfile(models / "stranger/vae/diffusion_pytorch_model.safetensors", "other")
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\x00\x00\x00\x3f")
    assert re.search(r"cannot be made again: t2i \(.*/mine\) has changed since", refused())
    shutil.rmtree("mine")
    assert "mine" in refused()


def test_again_refuses_another_configuration(
    generate: Callable[..., int], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models / "t2i", "config")
    assert generate(PROMPT, "-o", "ring.mp4", "--t2i-config", "config", "--quiet") == 0
    Path("config/unet/diffusion_pytorch_model.safetensors").unlink()  # nobody reads it
    assert generate("--again", "ring.mp4", "--quiet", defaults=False) == 0
    Path("config/tokenizer/vocab.json").write_text("{}")
    assert generate("--again", "ring.mp4", "--quiet", defaults=False) == 2
    told = capsys.readouterr().err
    assert re.search(r"cannot be made again: t2i config \(.*/config\) has changed since", told)


def test_again_splits_sums_as_before(
    generate: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert generate(PROMPT, "-o", "ring.mp4", "--quiet") == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert generate("--again", "ring.mp4", "-o", "again.mp4", "--quiet", defaults=False) == 0
    monkeypatch.undo()
    assert threads == [7]


def test_again_refuses_files_without_a_record(
    generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save("plain.gif")
    io.write_image(Image.new("RGB", (8, 8)), "forged.png", {"made_by": "elevator generate"})
    for name in ("plain.gif", "forged.png"):
        assert generate("--again", name, "-o", "again.mp4", defaults=False) == 2
        assert f"{name} does not tell how it was made" in capsys.readouterr().err
    assert generate("--again", "none.gif", "-o", "again.mp4", defaults=False) == 2
    assert "no file none.gif" in capsys.readouterr().err


def test_again_warns_of_other_versions(
    generate: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import elevator

    assert generate(PROMPT, "-o", "ring.mp4", "--quiet") == 0
    monkeypatch.setattr(elevator, "__version__", "9.9.9")
    assert generate("--again", "ring.mp4", "-o", "a.mp4", "--quiet", defaults=False) == 0
    told = capsys.readouterr().err
    assert "was made with elevator 0.1.0, this is 9.9.9: frames may differ a little" in told


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("while_", ["sampling", "writing"])
def test_ctrl_c_leaves_nothing(
    generate: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    while_: str,
) -> None:
    from diffusers import DDIMScheduler

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    if while_ == "sampling":
        monkeypatch.setattr(DDIMScheduler, "step", interrupt)
    else:
        monkeypatch.setattr(io, "_write_mp4", interrupt)
    assert generate(PROMPT, "-o", "ring.mp4", "--quiet") == 130
    assert capsys.readouterr().err == "elevator: stopped\n"
    assert os.listdir() == []


def test_a_real_ctrl_c_leaves_nothing(models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "elevator", "generate", PROMPT, "-o", "ring.mp4"]
    command += ["--t2i", str(models / "t2i"), "--t2v", str(models / "t2v"), "--steps", "900"]

    def heed() -> None:  # a background job of a shell ignores SIGINT, and so would its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=heed
    ) as process:
        assert process.stderr is not None
        heard = b""
        while b"/900" not in heard:  # the bar has begun
            assert process.poll() is None, heard.decode()
            heard += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.decode().rstrip().endswith("elevator: stopped")
    assert b"Traceback" not in rest
    assert os.listdir(tmp_path) == []


# --- the other commands ---------------------------------------------------------------------------


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys, elevator.cli\n"
        "for command in [], ['generate'], ['doctor'], ['zoo'], ['zoo', 'train']:\n"
        "    try: elevator.cli.main([*command, '--help'])\n"
        "    except SystemExit: pass\n"
        "sys.exit(' '.join({*sys.modules} & {'diffusers', 'transformers', 'av', 'PIL'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: elevator") == 5


def test_doctor_tells_versions_devices_and_missing_extras(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for word in (
        "torch",
        "diffusers",
        "huggingface_hub",
        "einops",
        "cpu",
        "memory",
        "xformers",
        "scipy",
    ):
        assert word in told
    assert "missing: pip" not in told


def test_zoo_list_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in zoo.names())


def test_zoo_train_calls_the_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from elevator.zoo import train

    seen: list[Any] = []

    def fake(*args: Any, **kwargs: Any) -> Path:
        seen.append((args, kwargs))
        return Path("zoo/t2i")

    monkeypatch.setattr(train, "train", fake)
    asked = ["--steps", "3", "--out", "x", "--seed", "5", "--no-resume"]
    assert main(["zoo", "train", "t2i", *asked]) == 0
    assert seen == [(("t2i", 3, "x", None), {"resume": False, "seed": 5})]
    for name in ("vae", "recogniser", *train.RECIPES):
        assert main(["zoo", "train", name]) == 0
        assert seen[-1] == ((name, None, None, None), {"resume": True, "seed": 0})
    assert main(["zoo", "train", "sora"]) == 2
    told = capsys.readouterr().err
    assert (
        "no model 'sora' to train; choose one of vae, recogniser, t2i-early, t2i-middle, " in told
    )


def test_no_command_is_an_error_and_version_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0


# --- the pictures of --compare --------------------------------------------------------------------


def test_compared_files_lie_next_to_the_video() -> None:
    assert targets("a/ring.mp4") == ("a/ring-compare.mp4", "a/ring-compare.png")
    assert targets("a/v1.0/") == ("a/v1.0-compare/", "a/v1.0-compare.png")


@pytest.mark.parametrize("size", [(8, 16), (64, 64), (300, 500)])
def test_strips_are_shown_pixel_by_pixel(size: tuple[int, int]) -> None:
    colours = {"T2V": 60, "T2I": 120, "elevated": 200}
    strips = [(n, np.full((9, *size, 3), c, dtype=np.uint8)) for n, c in colours.items()]
    video = side_by_side(strips)
    assert video.shape[0] == 9
    assert video.shape[1] % 2 == video.shape[2] % 2 == 0
    sheet = np.asarray(contact_sheet(strips, "a very long prompt " * 40))
    times = max(1, 256 // min(size))
    columns = min(8, 2400 // (times * size[1] + 8))
    for colour in colours.values():
        area = times**2 * size[0] * size[1]
        assert (video[4] == colour).all(-1).sum() >= area
        assert (sheet == colour).all(-1).sum() >= columns * area
    assert sheet.shape[1] <= 2400
