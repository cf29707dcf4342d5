"""`elevator upscale`: clips and folders of them, what it tells and what it refuses."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from elevator.cli import main
from elevator.cli.methods import METHODS
from elevator.cli.watching import Line
from elevator.video.reader import open_video
from elevator.video.writer import create_video

ROOT = Path(__file__).parents[1]
Run = Callable[..., int]


def clip_at(path: Path | str, frames: int = 5, height: int = 12, width: int = 16) -> Path:
    y, x = np.mgrid[:height, :width]
    with create_video(path, width=width, height=height, rate=25) as out:
        for index in range(frames):
            waves = [np.sin(0.4 * x + 0.2 * index), np.cos(0.5 * y), np.sin(0.3 * (x + y))]
            out.write((127 + 120 * np.stack(waves, -1)).astype(np.uint8), Fraction(index, 25))
    return Path(path)


def with_sound(path: Path, frames: int = 10) -> Path:
    """A clip of 16x12 with a tone beside it."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 16, 12, "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        for index in range(frames):
            grey = np.full((12, 16, 3), 20 * index, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        tone = np.sin(np.arange(640 * frames, dtype=np.float32)[None] / 9)
        sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path


@pytest.fixture
def upscale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in an empty folder, by bicubic interpolation where nobody says."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, method: str | None = "bicubic") -> int:
        given = [str(argument) for argument in arguments]
        if method is not None and "--method" not in given:
            given += ["--method", method]
        return main(["upscale", *given])

    return run


def size_of(path: str) -> tuple[int, int, int]:
    with open_video(path) as clip:
        return sum(1 for _ in clip), clip.width, clip.height


def packets(path: str | Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


# --- one clip -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bicubic", "lanczos"])
def test_a_clip(upscale: Run, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    clip_at("in.mp4")
    assert upscale("in.mp4", "-o", "out.mp4", "--method", method) == 0
    assert size_of("out.mp4") == (5, 64, 48)
    said = capsys.readouterr()
    assert said.out.startswith("out.mp4: 5 frames of 64x48 in ")
    assert said.err == ""
    assert sorted(os.listdir()) == ["in.mp4", "out.mp4"]


def test_methods_and_scales_differ(upscale: Run) -> None:
    clip_at("in.mp4")
    made = []
    for arguments in (["--scale", "2"], ["--scale", "2", "--method", "lanczos"], ["--scale", "3"]):
        assert upscale("in.mp4", "-o", "out.mp4", *arguments) == 0
        made.append(Path("out.mp4").read_bytes())
    assert len(set(made)) == 3


def test_sound_is_carried_over_packet_by_packet(upscale: Run) -> None:
    with_sound(Path("in.mp4"))
    assert upscale("in.mp4", "-o", "out.mkv", "--scale", "2", "--chunk", "3") == 0
    assert size_of("out.mkv") == (10, 32, 24)
    assert packets("out.mkv") == packets("in.mp4")


def with_chapters(path: Path) -> Path:
    """A clip with a title and two chapters, of whose two sounds the second is played."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "An afternoon"
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 16, 12, "yuv420p"
        sounds: Any = [container.add_stream("aac", rate=16000) for _ in range(2)]
        flags = type(sounds[0].disposition)
        sounds[0].disposition, sounds[1].disposition = flags(0), flags.default | flags.comment
        chapters: Any = [
            {"id": place + 1, "start": start, "end": start + 200, "time_base": Fraction(1, 1000)}
            | {"metadata": {"title": f"part {place}"}}
            for place, start in enumerate((0, 200))
        ]
        container.set_chapters(chapters)
        for index in range(10):
            grey = np.full((12, 16, 3), 20 * index, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        for sound in sounds:
            tone = np.zeros((1, 6400), np.float32)
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(sound.encode(frame))
        streams: Any = (video, *sounds)
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_title_chapters_and_the_sound_that_is_played_stay(upscale: Run, name: str) -> None:
    with_chapters(Path("in.mkv"))
    assert upscale("in.mkv", "-o", name, "--scale", "1") == 0
    told = []
    for path in ("in.mkv", name):
        with av.open(path) as made:
            chapters: Any = made.chapters()
            times = [
                (one["start"] * one["time_base"], one["end"] * one["time_base"], one["metadata"])
                for one in chapters
            ]
            played = [int(stream.disposition) for stream in made.streams.audio]
            told.append((made.metadata["title"], times, played))
    assert told[0] == told[1]
    assert told[0][0] == "An afternoon"
    assert told[0][1][1] == (Fraction(1, 5), Fraction(2, 5), {"title": "part 1"})
    assert told[0][2] == [0, 9]


def test_pictures_in_and_out(upscale: Run) -> None:
    clip_at("frames")
    assert upscale("frames", "-o", "out.mp4", "--scale", "2", "--fps", "10") == 0
    with open_video("out.mp4") as made:
        assert [frame.time for frame in made][1] == Fraction(1, 10)
    assert upscale("out.mp4", "-o", "v1.0/", "--scale", "1") == 0
    assert len(list(Path("v1.0").glob("*.png"))) == 5


def test_beside_it(upscale: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with_sound(Path("in.mp4"))
    assert upscale("in.mp4", "-o", "o.mp4", "--compare", "--preview", "--chunk", "4") == 0
    assert sorted(os.listdir()) == [
        *("in.mp4", "o-compare.mp4", "o-compare.png", "o-preview.png", "o.mp4"),
    ]
    frames, width, _ = size_of("o-compare.mp4")
    assert frames == 10
    assert width > 2 * 256
    assert packets("o-compare.mp4") == packets("in.mp4")
    for sheet in ("o-compare.png", "o-preview.png"):
        with Image.open(sheet) as page:
            assert min(page.size) > 100
    assert "o-compare.mp4: compared with bicubic" in capsys.readouterr().out


def test_quiet(upscale: Run, capsys: pytest.CaptureFixture[str]) -> None:
    clip_at("in.mp4")
    assert upscale("in.mp4", "-o", "out.mp4", "--quiet", "--compare") == 0
    said = capsys.readouterr()
    assert said.out + said.err == ""


def test_the_line_on_a_terminal(
    upscale: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_at("in.mp4")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("elevator.cli.watching._OFTEN", 0)
    assert upscale("in.mp4", "-o", "out.mp4", "--chunk", "2") == 0
    lines = capsys.readouterr().err.split("\r")
    assert any("in.mp4: upscaling 3/5 frames, 0:00:0" in line for line in lines)
    assert any("MB" in line for line in lines)
    assert lines[-1] == "", "the line is gone in the end"


def test_time_left_is_that_of_the_frames_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames found finished took no time."""
    now = [0.0]
    monkeypatch.setattr("elevator.cli.watching.time.monotonic", lambda: now[0])
    line = Line("in.mp4")
    texts: list[str] = []
    monkeypatch.setattr(line, "_shown", True)
    monkeypatch.setattr(line, "_write", texts.append)
    line.progress("upscaling", 100, 400)
    now[0] = 50.0
    line.progress("upscaling", 200, 400)
    assert "left" not in texts[0]
    assert "upscaling 200/400 frames, 0:01:40 left" in texts[1]


# --- interrupted ----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_kill_9_and_the_same_command(upscale: Run, capsys: pytest.CaptureFixture[str]) -> None:
    clip_at("in.mp4", 40, 48, 64)
    assert upscale("in.mp4", "-o", "whole.mp4", "--chunk", "2") == 0
    command = [sys.executable, "-m", "elevator", "upscale", "in.mp4", "-o", "out.mp4"]
    command += ["--method", "bicubic"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--chunk", "2"], env=env)
    while not (parts := list(Path(".elevator/out.mp4").glob("*/0*.mkv"))):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("out.mp4").exists()
    parts = list(Path(".elevator/out.mp4").glob("*/0*.mkv"))
    assert len(parts) < 20
    capsys.readouterr()
    assert upscale("in.mp4", "-o", "out.mp4", "--chunk", "2") == 0
    assert f"{len(parts)} of 20 stretches from before" in capsys.readouterr().out
    assert Path("out.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    assert sorted(os.listdir()) == ["in.mp4", "out.mp4", "whole.mp4"]


def test_ctrl_c_says_that_it_can_go_on(
    upscale: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    clip_at("in.mp4")
    with monkeypatch.context() as patch:
        patch.setattr("elevator.video.jobs._encode", stop)
        assert upscale("in.mp4", "-o", "out.mp4", "--chunk", "2") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert upscale("in.mp4", "-o", "out.mp4", "--chunk", "2") == 0
    said = capsys.readouterr().out
    assert "3 of 3 stretches from before" in said
    assert "finished before" not in said, "it has just been encoded"


def test_an_unforeseen_error_of_one_clip_is_one_line(
    upscale: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("unforeseen,\nover two lines")

    clip_at("in.mp4")
    monkeypatch.setattr("elevator.cli.upscale.upscale_video", broken)
    assert upscale("in.mp4", "-o", "out.mp4") == 2
    assert capsys.readouterr().err == "elevator: ValueError: unforeseen, over two lines\n"


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_with_a_bad_clip(upscale: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("clips").mkdir()
    for name in ("a.mp4", "c.mkv"):
        clip_at(Path("clips", name))
    clip_at("clips/frames")
    Path("clips/b.avi").write_bytes(b"no video")
    Path("clips/notes.txt").write_text("not a clip")
    assert upscale("clips", "-o", "large", "--scale", "2") == 2
    said = capsys.readouterr()
    assert "elevator: cannot read clips/b.avi" in said.err
    assert "3 of 4 clips are made; not b.avi; the same command tries it again" in said.err
    assert sorted(name for name in os.listdir("large") if name[0] != ".") == [
        *("a.mp4", "c.mkv", "frames")
    ]
    assert size_of("large/frames") == (5, 32, 24)
    Path("clips/b.avi").unlink()
    assert upscale("clips", "-o", "large", "--scale", "2") == 0
    said = capsys.readouterr()
    assert said.out.count("finished before") == 3, "nothing is made twice"
    assert said.out.endswith("large: 3 clips\n")
    assert sorted(os.listdir("large")) == ["a.mp4", "c.mkv", "frames"]


def test_a_clip_that_breaks_in_an_unforeseen_way_does_not_stop_the_rest(
    upscale: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from elevator.cli import upscale as command
    from elevator.video.jobs import upscale_video

    def breaking(source: Path, *given: object, **named: object) -> object:
        if source.name == "a.mp4":
            raise RuntimeError("unforeseen")
        return upscale_video(source, *given, **named)  # type: ignore[arg-type]

    Path("clips").mkdir()
    clip_at("clips/a.mp4")
    clip_at("clips/b.mp4")
    monkeypatch.setattr(command, "upscale_video", breaking)
    assert upscale("clips", "-o", "large") == 2
    assert "elevator: RuntimeError: unforeseen" in capsys.readouterr().err
    assert Path("large/b.mp4").exists()


def test_names_in_a_folder(upscale: Run) -> None:
    Path("clips").mkdir()
    clip_at("clips/a.mkv").rename("clips/a.ts")
    Image.new("RGB", (8, 8)).save("clips/b.GIF", save_all=True)
    assert upscale("clips", "-o", "large", "--scale", "2") == 0
    assert sorted(os.listdir("large")) == ["a.mkv", "b.mp4"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a.mkv", "a.avi"], "a.avi and a.mkv would both become a.mkv; rename one of them"),
        (["a.mp4", "A.MP4"], "would both become"),
        (["notes.txt"], "there are neither videos nor pictures in clips"),
    ],
)
def test_folders_that_are_refused(
    upscale: Run, capsys: pytest.CaptureFixture[str], files: list[str], said: str
) -> None:
    Path("clips").mkdir()
    for name in files:
        Path("clips", name).touch()
    assert upscale("clips", "-o", "large") == 2
    assert said in capsys.readouterr().err
    assert not Path("large").exists()


@pytest.mark.parametrize(
    ("names", "option", "said"),
    [
        (["a.mp4", "a-compare.mp4"], "--compare", "a-compare.mp4 would be written for a"),
        (["a.mkv", "A-Compare.avi"], "--compare", "A-Compare.mkv would be written for"),
        (["a.mp4", "a.mkv"], "--compare", "a-compare.png would be written for a.mkv and a.mp4"),
        (["a.mp4", "a.mkv"], "--preview", "a-preview.png would be written for a.mkv and a.mp4"),
        (["a.mp4", "a-preview.png/"], "--preview", "a-preview.png would be written for a"),
    ],
)
def test_nothing_beside_a_clip_meets_another_clip(
    upscale: Run, capsys: pytest.CaptureFixture[str], names: list[str], option: str, said: str
) -> None:
    Path("clips").mkdir()
    for name in names:
        if name.endswith("/"):
            clip_at("frames").rename(Path("clips", name))
        else:
            clip_at("in.mkv").rename(Path("clips", name))
    assert upscale("clips", "-o", "large", option) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not Path("large").exists()
    assert upscale("clips", "-o", "large", "--scale", "1") == 0, "alone they do not meet"


def test_what_looks_like_a_clip_and_is_left_out_is_told(
    upscale: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("clips/more").mkdir(parents=True)
    clip_at("clips/more/b.mp4")
    assert upscale("clips", "-o", "clips/large") == 2
    told = capsys.readouterr().err
    assert "neither videos nor pictures in clips; left out: the videos in clips/more" in told
    clip_at("clips/a.mp4")
    for name in ("1.png", "2.png"):
        Image.new("RGB", (8, 8)).save(Path("clips", name))
    for _ in range(2):  # the second time with what the first one made in it
        assert upscale("clips", "-o", "clips/large", "--scale", "1", "--quiet") == 0
        told = capsys.readouterr().err
        assert told.count("\n") == 2
        assert "left out: 1.png and 1 more beside the videos of clips" in told
        assert "left out: the videos in clips/more" in told
    assert os.listdir("clips/large") == ["a.mp4"]


def test_a_folder_is_not_called_like_a_video_by_mistake(
    upscale: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("clips").mkdir()
    clip_at("clips/a.mp4")
    assert upscale("clips", "-o", "x.mp4") == 2
    assert "give -o a name without an ending, or x.mp4/" in capsys.readouterr().err
    assert os.listdir() == ["clips"]
    assert upscale("clips", "-o", "x.mp4/", "--scale", "1") == 0
    assert os.listdir("x.mp4") == ["a.mp4"]


# --- refused --------------------------------------------------------------------------------------


def _no_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        tone = np.zeros((1, 1024), np.float32)
        sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def _unknown_codec(path: Path) -> None:
    """A clip whose coding is called what no decoder is."""
    clip_at(path)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def _truncated(path: Path) -> None:
    """The index of an .mp4 is gone or points nowhere."""
    clip_at(path)
    path.write_bytes(path.read_bytes()[:600])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (Path.touch, "no frames in in.mp4: it is empty"),
    "text": (lambda path: path.write_text("text"), "cannot read in.mp4"),
    "sound alone": (_no_video, "no video stream in in.mp4"),
    "truncated": (_truncated, "in.mp4"),
    "unknown codec": (_unknown_codec, "cannot decode in.mp4"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_clips(upscale: Run, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    make, expected = BAD[kind]
    make(Path("in.mp4"))
    Path("out.mp4").write_bytes(b"before")
    assert upscale("in.mp4", "-o", "out.mp4") == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert said.err.count("\n") == 1
    assert Path("out.mp4").read_bytes() == b"before"
    assert sorted(os.listdir()) == ["in.mp4", "out.mp4"]


def test_a_clip_cut_short_is_made_as_far_as_it_goes_and_told(
    upscale: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    data = clip_at("in.mkv", 60, 64, 64).read_bytes()
    Path("in.mkv").write_bytes(data[: len(data) // 2])
    assert upscale("in.mkv", "-o", "out.mp4", "--scale", "2") == 1
    assert "elevator: in.mkv ends after" in capsys.readouterr().err
    assert 0 < size_of("out.mp4")[0] < 60


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2)])
def test_tiny_clips(upscale: Run, size: tuple[int, int]) -> None:
    clip_at("frames", 1, *size)
    assert upscale("frames", "-o", "out") == 0
    assert size_of("out") == (1, 4 * size[1], 4 * size[0])


REFUSED = [
    (["none.mp4", "-o", "out.mp4"], "there is no none.mp4: check the name"),
    (["in.mp4", "-o", "in.mp4"], "it is the clip itself; give another name"),
    (["in.mp4", "-o", "out.avi"], "cannot write out.avi"),
    (["in.mp4", "-o", "none/out.mp4"], "make the folder none first"),
    (["in.mp4", "-o", "out.mp4", "--scale", "0"], "0 is not a whole number of at least 1"),
    (["in.mp4", "-o", "out.mp4", "--crf", "52"], "52 is not a number from 0 to 51"),
    (["in.mp4", "-o", "out.mp4", "--method", "magic"], "invalid choice: 'magic'"),
    (["in.mp4", "-o", "out.mp4", "--scale", "2000"], "larger than the 88 million pixels"),
    (["in.mp4"], "the following arguments are required: -o/--out"),
    (["in.mp4", "-o", "out.mp4", "--fps", "12"], "a video has times of its own: drop --fps"),
    (["", "-o", "out.mp4"], "the name given as clip is empty"),
    (["in.mp4", "-o", ""], "the name given as -o is empty"),
    (["in.mp4", "-o", "out.mp4", "--method", "diffusion", "--pipe", "zoo:none"], "zoo:none"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_refusals(
    upscale: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    clip_at("in.mp4")
    assert upscale(*arguments) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.count("\n") == 1
    assert os.listdir() == ["in.mp4"]


def test_a_comparison_is_not_written_over_the_clip(
    upscale: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("before any work")

    clip_at("cl-compare.mp4")
    before = Path("cl-compare.mp4").read_bytes()
    monkeypatch.setattr("elevator.cli.upscale.upscale_video", work)
    assert upscale("cl-compare.mp4", "-o", "cl.mp4", "--compare") == 2
    assert "cl-compare.mp4 would lie beside cl.mp4, and is the clip" in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save("one-preview.png")
    assert upscale("one-preview.png", "-o", "one", "--preview") == 2
    assert "and is the clip itself" in capsys.readouterr().err
    assert Path("cl-compare.mp4").read_bytes() == before
    assert sorted(os.listdir()) == ["cl-compare.mp4", "one-preview.png"]


def test_a_comparison_that_cannot_be_written_is_told_before_any_work(
    upscale: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    clip_at("in.mp4")
    Path("o-compare").mkdir()
    Path("o-compare/letter.txt").write_text("to keep")
    assert upscale("in.mp4", "-o", "o", "--compare") == 2
    assert "it exists and holds other things" in capsys.readouterr().err
    assert not Path("o").exists()


VALUES = {
    **{"tile": "64", "device": "cpu", "pipe": "x", "prompt": "x", "caption": "x", "negative": "x"},
    **{"preset": "aigc", "noise_level": "20", "guidance": "6", "steps": "2", "propagate": "none"},
    **{"window": "8", "overlap": "2", "colour": "adain", "seed": "1", "dtype": "fp32"},
    **{"strength": "0.5", "video_vae": ""},
}


@pytest.mark.parametrize("method", METHODS)
def test_options_of_other_methods_are_refused(
    upscale: Run, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    clip_at("in.mp4")
    assert VALUES.keys() == frozenset().union(*(one.options for one in METHODS.values()))
    for option in sorted(VALUES.keys() - METHODS[method].options):
        flag = f"--{option.replace('_', '-')}"
        value = [VALUES[option]] if VALUES[option] else []
        assert upscale("in.mp4", "-o", "out.mp4", "--method", method, flag, *value) == 2
        said = capsys.readouterr().err
        assert f"{flag} means nothing to --method {method}; drop it, or choose" in said


# --- regression and diffusion ---------------------------------------------------------------------


def test_the_method_suits_the_scale(upscale: Run) -> None:
    """The built-in network where there is one for it."""
    clip_at("in.mp4", 2)
    made = {}
    for name, given in {
        "four": [],
        "network": ["--method", "regression", "--tile", "64", "--device", "cpu"],
        "three": ["--scale", "3"],
        "sharp": ["--scale", "3", "--method", "lanczos"],
    }.items():
        assert upscale("in.mp4", "-o", name, *given, method=None) == 0
        made[name] = [file.read_bytes() for file in sorted(Path(name).iterdir())]
    assert made["four"] == made["network"]
    assert made["three"] == made["sharp"]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pipelines on the disk: one of clips, and two taken frame by frame."""
    from diffusers import DDPMScheduler, StableDiffusionUpscalePipeline

    from tests import builders

    folder = tmp_path_factory.mktemp("pipes")
    text = builders.tiny_text(folder / "tokenizer")
    clips = builders.tiny_video_upscale()
    clips.register_modules(**text)
    clips.save_pretrained(folder / "clips")
    StableDiffusionUpscalePipeline(
        vae=builders.tiny_vae(),
        unet=builders.tiny_unet(in_channels=7, num_class_embeds=351),
        low_res_scheduler=DDPMScheduler(),
        scheduler=builders.ddim("v_prediction"),
        safety_checker=None,
        **text,
    ).save_pretrained(folder / "upscaler")
    builders.publish(clips, folder / "tree", builders.tiny_video_upscale(conditioned=True).vae)
    still = builders.tiny_sd()
    still.register_modules(**text)
    still.save_pretrained(folder / "still")
    return folder


def test_a_pipeline_of_clips(upscale: Run, pipes: Path) -> None:
    clip_at("in.mp4", 6)
    Path("caption.txt").write_text("a cat\non a sofa\n")
    common = ["in.mp4", "--method", "diffusion", "--pipe", pipes / "clips", "--steps", "2"]
    common += ["--guidance", "2", "--chunk", "5", "--device", "cpu"]
    made = {}
    for name, given in {
        "prompt": ["--prompt", "a cat on a sofa", "--propagate", "1"],
        "caption": ["--caption", "caption.txt", "--propagate", "1"],
        "seed": ["--prompt", "a cat on a sofa", "--propagate", "1", "--seed", "7"],
        "more": [
            *("--negative", "blur", "--preset", "aigc", "--noise-level", "20", "--colour", "adain"),
            *("--window", "3", "--overlap", "1", "--propagate", "none", "--dtype", "fp32"),
        ],
    }.items():
        assert upscale(*common, "-o", name, *given) == 0
        made[name] = [file.read_bytes() for file in sorted(Path(name).iterdir())]
        assert len(made[name]) == 6
    assert made["prompt"] == made["caption"]
    assert len({b"".join(frames) for frames in made.values()}) == 3


def test_the_autoencoder_of_the_published_tree(
    upscale: Run, pipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip_at("in.mp4", 2)
    common = ["in.mp4", "-o", "out", "--pipe", pipes / "tree", "--steps", "1", "--guidance", "1"]
    common += ["--device", "cpu", "--propagate", "none"]
    made = []
    for given in ([], ["--video-vae"], []):
        assert upscale(*common, *given, method=None) == 0
        assert "before" not in capsys.readouterr().out  # nothing of the other one was taken over
        made.append(Path("out/0001.png").read_bytes())
    assert made[0] == made[2] != made[1]


@pytest.mark.parametrize("pipe", ["upscaler", "still"])
def test_pipelines_taken_frame_by_frame(upscale: Run, pipes: Path, pipe: str) -> None:
    clip_at("in.mp4", 3)
    given = ["--steps", "4", "--window", "2", "--overlap", "1", "--prompt", "a", "--guidance", "2"]
    given += ["--scale", "2"] if pipe == "still" else ["--noise-level", "20"]
    common = ["in.mp4", "-o", "out", "--pipe", pipes / pipe]  # which means diffusion
    common += ["--device", "cpu", *given]
    assert upscale(*common, method=None) == 0
    assert size_of("out")[0] == 3
    if pipe == "still":
        before = Path("out/0001.png").read_bytes()
        assert upscale(*common, "--strength", "1", method=None) == 0
        assert Path("out/0001.png").read_bytes() != before


def test_a_small_tile_brings_an_overlap_that_fits(upscale: Run, pipes: Path) -> None:
    clip_at("in.mp4", 2, 24, 48)
    common = ["in.mp4", "--pipe", pipes / "clips", "--steps", "1", "--device", "cpu"]
    common += ["--propagate", "none"]
    assert upscale(*common, "-o", "out", "--tile", "32", method=None) == 0
    assert size_of("out")[0] == 2


def test_a_pipeline_of_the_zoo(upscale: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from elevator import zoo
    from elevator.errors import CheckpointError

    asked = []

    def load(source: str, **_: object) -> None:
        asked.append(source)
        raise CheckpointError("far enough")

    clip_at("in.mp4")
    monkeypatch.setattr("elevator.pipelines.upscalers.load_upscaler", load)
    common = ["in.mp4", "-o", "out.mp4", "--device", "cpu", "--pipe"]
    for name in ("zoo:t2i", "elsewhere"):
        assert upscale(*common, name, method=None) == 2
    assert asked == [str(zoo.path("t2i")), "elsewhere"]


def test_training_starts_from_the_zoo_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from elevator import zoo

    asked = []

    def train(*_: object, model: str | None, **__: object) -> Path:
        asked.append(model)
        return Path("trained")

    monkeypatch.setattr("elevator.zoo.own_clips.train_temporal", train)
    for name in ("zoo:t2i", "elsewhere"):
        assert main(["train", "temporal", "--data", "clips", "--model", name]) == 0
    assert main(["train", "temporal", "--data", "clips"]) == 0
    assert asked == [str(zoo.path("t2i")), "elsewhere", None]


@pytest.mark.parametrize(
    ("pipe", "given", "said"),
    [
        ("clips", ["--scale", "9"], "times as large, not 9; drop --scale"),
        ("clips", ["--strength", "0.5"], "--strength means nothing to a VideoUpscalePipeline"),
        ("upscaler", ["--strength", "0.5"], "--strength means nothing to a StableDiffusionUpscale"),
        ("upscaler", ["--colour", "adain"], "--colour means nothing to a StableDiffusionUpscale"),
        ("still", ["--noise-level", "5"], "--noise-level means nothing to a StableDiffusionImg2"),
        ("clips", ["--video-vae"], "drop it, or give the folder of the published Upscale-A-Video"),
        ("upscaler", ["--video-vae"], "--video-vae means nothing to "),
        ("clips", ["--preset", "new"], "preset 'new' is unknown; choose one of"),
        ("clips", ["--prompt", "a", "--caption", "b"], "give it or --prompt, not both"),
        ("clips", ["--caption", "none.txt"], "cannot read --caption none.txt"),
        ("clips", ["--noise-level", "400"], "noise_level is 400, but must be from 0 to 350"),
        ("clips", ["--propagate", "1,x"], "1,x are no steps; write 24,26,28, or none"),
        ("clips", ["--device", "nowhere"], "there is no device 'nowhere' here"),
        ("none", [], "none"),
    ],
)
def test_what_diffusion_refuses(
    upscale: Run,
    pipes: Path,
    capsys: pytest.CaptureFixture[str],
    pipe: str,
    given: list[str],
    said: str,
) -> None:
    clip_at("in.mp4", 2)
    device = [] if "--device" in given else ["--device", "cpu"]
    common = ["in.mp4", "-o", "out.mp4", "--method", "diffusion", "--pipe", pipes / pipe, *device]
    assert upscale(*common, *given) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert os.listdir() == ["in.mp4"]


def test_a_folder_that_cannot_be_written_to(
    upscale: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where tests are run by root, who may do anything."""
    clip_at("in.mp4")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert upscale("in.mp4", "-o", "out.mp4") == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on files")
def test_a_full_disk(tmp_path: Path) -> None:
    """As near as a test comes to it: no file may be larger than so many bytes."""
    clip_at(tmp_path / "in.mp4", 12, 48, 64)
    command = [sys.executable, "-m", "elevator", "upscale", "in.mp4", "-o", "out.mp4"]
    command += ["--crf", "0", "--method", "bicubic"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    made = subprocess.run(
        command,
        cwd=tmp_path,
        env=env,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 2, made.stderr
    assert made.stderr.startswith("elevator: cannot write")
    assert made.stderr.count("\n") == 1
    assert not (tmp_path / "out.mp4").exists()
