"""Videos written whole or not at all, in every format, with what they carry."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from elevator.errors import ElevatorError
from elevator.video import io

TARGETS = ["clip.mp4", "clip.gif", "clip.webp", "clip", "v1.0/"]
METADATA = {
    "prompt": 'grüner Ring — "你好"',
    "seed": 3,
    "scale": [0.5, None],
    "long": "x" * 70_000,
}


def clip(frames: int = 5, height: int = 32, width: int = 48) -> NDArray[Any]:
    """A soft gradient that moves, so that lossy formats stay close to it."""
    y, x, t = np.ogrid[0 : 1 : height * 1j, 0 : 1 : width * 1j, 0 : 1 : frames * 1j]
    waves = [
        0.5 + 0.4 * np.sin(3 * (y + x + t)),
        0.2 + 0.6 * y + 0 * (x + t),
        0.8 - 0.5 * x * t + 0 * y,
    ]
    return np.stack([np.moveaxis(wave, 2, 0) for wave in waves], -1)


def decoded(path: Path) -> NDArray[Any]:
    if path.is_dir():
        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.iterdir())])
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    with Image.open(path) as picture:
        return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(picture)])


@pytest.mark.parametrize("name", TARGETS)
def test_frames_and_metadata_come_back(tmp_path: Path, name: str) -> None:
    target = f"{tmp_path}/{name}"
    frames = clip()
    assert io.write_video(frames, target, 12, METADATA) == Path(target)
    found = decoded(Path(target)).astype(int)
    assert found.shape == frames.shape
    wrong = np.abs(found - io.as_bytes(frames))
    exact = name in ("clip.webp", "clip", "v1.0/")
    assert wrong.max() == 0 if exact else wrong.mean() < 3
    assert io.read_metadata(target) == METADATA
    assert os.listdir(tmp_path) == [Path(target).name]


@pytest.mark.parametrize("name", TARGETS)
def test_a_second_writing_replaces_the_first(tmp_path: Path, name: str) -> None:
    target = f"{tmp_path}/{name}"
    io.write_video(clip(7), target)
    io.write_video(clip(3), target)
    assert len(decoded(Path(target))) == 3
    assert io.read_metadata(target) == {}
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("before", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_half_a_file_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, before: bool, error: BaseException
) -> None:
    target = f"{tmp_path}/{name}"
    if before:
        io.write_video(clip(3), target)

    def half(pixels: Any, aside: Path, *more: Any) -> None:
        if io.kind_of(target) == "png":
            aside.mkdir()
            aside = aside / "0000.png"
        aside.write_bytes(b"half")
        raise error

    for writer in ("_write_mp4", "_write_gif", "_write_webp", "_write_folder"):
        monkeypatch.setattr(io, writer, half)
    with pytest.raises((KeyboardInterrupt, io.VideoError)) as caught:
        io.write_video(clip(4), target)
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert len(os.listdir(tmp_path)) == before
    if before:
        assert len(decoded(Path(target))) == 3


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("rename", [1, 2])
def test_an_interrupted_rename_leaves_one_whole_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rename: int
) -> None:
    target = Path(f"{tmp_path}/{name}")
    io.write_video(clip(3), f"{tmp_path}/{name}")
    done, original = [0], Path.rename

    def stumble(self: Path, to: Path) -> Path:
        done[0] += 1
        if done[0] == rename:
            raise KeyboardInterrupt
        return original(self, to)

    monkeypatch.setattr(Path, "rename", stumble)
    if rename == 1 or io.kind_of(f"{tmp_path}/{name}") == "png":
        with pytest.raises(KeyboardInterrupt):
            io.write_video(clip(4), f"{tmp_path}/{name}")
        assert len(decoded(target)) == 3
    else:
        io.write_video(clip(4), f"{tmp_path}/{name}")
        assert len(decoded(target)) == 4
    assert os.listdir(tmp_path) == [target.name]


def test_mp4_plays_everywhere_and_keeps_colours(tmp_path: Path) -> None:
    flat = np.empty((4, 32, 32, 3))
    flat[:] = 0.9, 0.2, 0.1
    path = io.write_video(flat, tmp_path / "red.mp4", 29.97)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == Fraction(2997, 100)
    assert np.abs(decoded(path).astype(int) - io.as_bytes(flat)).max() <= 3


def test_mp4_repeats_the_edge_of_odd_sizes(tmp_path: Path) -> None:
    frames = clip(height=31, width=45)
    found = decoded(io.write_video(frames, tmp_path / "odd.mp4")).astype(int)
    assert found.shape == (5, 32, 46, 3)
    assert np.abs(found[:, :31, :45] - io.as_bytes(frames)).mean() < 3


@pytest.mark.parametrize("name", ["odd.gif", "odd.webp", "odd"])
def test_other_formats_keep_odd_sizes_and_single_frames(tmp_path: Path, name: str) -> None:
    frames = clip(1, 31, 45)
    assert decoded(io.write_video(frames, tmp_path / name)).shape == frames.shape


def test_a_gif_lasts_as_long_as_asked(tmp_path: Path) -> None:
    path = io.write_video(clip(24), tmp_path / "clip.gif", 16)
    with Image.open(path) as picture:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(picture)]
    assert sum(durations) == 1500
    assert {*durations} == {60, 70}


def test_pictures_and_bytes_are_frames_too(tmp_path: Path) -> None:
    frames = io.as_bytes(clip())
    pictures = [Image.fromarray(frame) for frame in frames]
    assert np.array_equal(io.as_bytes(pictures), frames)
    assert np.array_equal(decoded(io.write_video(pictures, tmp_path / "a.webp")), frames)


def test_an_image_carries_metadata(tmp_path: Path) -> None:
    path = io.write_image(Image.new("RGB", (8, 8)), tmp_path / "sheet.png", METADATA)
    assert io.read_metadata(path) == METADATA


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fps", "message"),
    [
        ("clip.avi", 8, r"cannot write .*clip.avi: .avi is none of .mp4, .gif, .webp"),
        ("clip.png", 8, "'.*/clip' makes a folder of PNG files"),
        ("none/clip.mp4", 8, "make the folder .*none first"),
        ("full", 8, "exists and holds other things"),
        ("full.mp4", 8, "it is a folder"),
        ("clip.gif", 60, "at most 50 frames a second, got 60"),
        ("clip.mp4", 0, "more than 0, got 0"),
        ("clip.mp4", float("inf"), "more than 0, got inf"),
    ],
)
def test_impossible_targets_are_refused(
    tmp_path: Path, name: str, fps: float, message: str
) -> None:
    for folder in ("full", "full.mp4"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "diary.txt").write_text("dear diary")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(io.VideoError, match=message):
        io.write_video(clip(), tmp_path / name, fps)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_that_cannot_be_written_to_is_refused() -> None:
    with pytest.raises(io.VideoError, match=r"cannot write /dev/fd/clip.mp4: .*; give a place"):
        io.check_target("/dev/fd/clip.mp4")


def test_a_folder_without_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", "./"):
        with pytest.raises(io.VideoError, match="give a name of its own"):
            io.write_video(clip(), name)
    assert tmp_path.is_dir()


def test_frames_behind_a_link_are_replaced_and_the_others_kept(tmp_path: Path) -> None:
    io.write_video(clip(3), tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    io.write_video(clip(2), tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert len(decoded(tmp_path / "real")) == 3
    assert len(decoded(tmp_path / "link")) == 2


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((0, 8, 8, 3)), r"at least one, got \(0, 8, 8, 3\)"),
        (np.zeros((8, 8, 3)), r"must be \(F, H, W, 3\)"),
        (np.full((1, 8, 8, 3), np.nan), "half precision overflowed"),
    ],
)
def test_frames_that_are_none_are_refused(
    tmp_path: Path, frames: NDArray[Any], message: str
) -> None:
    with pytest.raises(io.VideoError, match=message):
        io.write_video(frames, tmp_path / "clip.mp4")
    assert os.listdir(tmp_path) == []


def test_metadata_of_other_files_is_empty_or_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.gif", comment=b"made by hand")
    assert io.read_metadata(tmp_path / "plain.gif") == {}
    for name in ("broken.mp4", "broken.webp"):
        (tmp_path / name).write_bytes(b"not a video")
        with pytest.raises(io.VideoError, match="damaged or not a video"):
            io.read_metadata(tmp_path / name)
    with pytest.raises(io.VideoError, match=r"no file .*none.mp4"):
        io.read_metadata(tmp_path / "none.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(io.VideoError, match="no frames in"):
        io.read_metadata(tmp_path / "empty")


def test_its_errors_are_ours() -> None:
    assert issubclass(io.VideoError, ElevatorError)
