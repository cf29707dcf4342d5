"""Clips read from every kind of file, and fitted to a size."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from elevator.video import clips, io
from tests.video.test_io import clip


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip"])
@pytest.mark.parametrize(("frames", "every"), [(7, 1), (4, 1), (1, 1), (4, 2), (2, 5)])
def test_the_first_frames_of_each_nth(tmp_path: Path, name: str, frames: int, every: int) -> None:
    target = tmp_path / name
    whole = io.as_bytes(clip(7))
    io.write_video(whole, target)
    found = clips.read_video(target, frames, every)
    assert found.dtype == np.uint8
    wanted = whole[::every][:frames]
    assert found.shape == wanted.shape
    wrong = np.abs(found.astype(int) - wanted)
    assert wrong.max() == 0 if name in ("clip.webp", "clip") else wrong.mean() < 3


def test_only_what_is_needed_is_read(tmp_path: Path) -> None:
    """A folder's later frames may even be broken."""
    io.write_video(clip(3), tmp_path / "clip")
    (tmp_path / "clip/0002.png").write_bytes(b"")
    assert len(clips.read_video(tmp_path / "clip", 2)) == 2
    with pytest.raises(io.VideoError, match=r"0002.png: it is damaged or not a video"):
        clips.read_video(tmp_path / "clip", 3)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(io.VideoError, match=r"no file .*none.mp4: check the name"):
        clips.read_video(tmp_path / "none.mp4", 1)
    for name in ("text.mp4", "text.gif", "text.txt"):
        (tmp_path / name).write_text("no video")
        with pytest.raises(io.VideoError, match=f"cannot read .*{name}: it is damaged or not a"):
            clips.read_video(tmp_path / name, 1)
    whole = tmp_path / "whole.mp4"
    io.write_video(clip(5), whole)
    (tmp_path / "half.mp4").write_bytes(whole.read_bytes()[:900])
    with pytest.raises(io.VideoError, match=r"no frames in .*half.mp4: it is damaged"):
        clips.read_video(tmp_path / "half.mp4", 5)


def test_a_sound_without_pictures(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(io.VideoError, match=r"sound.wav: it is damaged or not a video"):
        clips.read_video(tmp_path / "sound.wav", 1)


def test_too_few_frames_and_frames_of_several_sizes(tmp_path: Path) -> None:
    io.write_video(clip(5), tmp_path / "clip.webp")
    with pytest.raises(io.VideoError, match=r"clip.webp has 5 of the 6 frames that are needed"):
        clips.read_video(tmp_path / "clip.webp", 6)
    with pytest.raises(io.VideoError, match="has 3 of the 4 frames, 2 apart, that"):
        clips.read_video(tmp_path / "clip.webp", 4, every=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(io.VideoError, match=r"no frames in .*empty"):
        clips.read_video(tmp_path / "empty", 1)
    for index, size in enumerate((8, 16)):
        Image.new("RGB", (size, size)).save(tmp_path / f"empty/{index}.png")
    with pytest.raises(
        io.VideoError, match=r"frames of .*empty differ in size: 1.png is 16x16, the first 8x8"
    ):
        clips.read_video(tmp_path / "empty", 2)


@given(*(st.integers(4, 40) for _ in range(4)))
def test_fitted_frames_keep_their_proportions(h: int, w: int, height: int, width: int) -> None:
    """The middle stays the middle, and nothing is stretched."""
    y, x = np.mgrid[0:h, 0:w]
    red = np.broadcast_to((x - (w - 1) / 2) * 4 + 127.5, (h, w))
    green = np.broadcast_to((y - (h - 1) / 2) * 4 + 127.5, (h, w))
    frame = np.stack([red, green, np.zeros((h, w))], -1).round().astype(np.uint8)
    made = clips.fit(frame[None], width, height)[0]
    assert made.shape == (height, width, 3)
    if (h, w) == (height, width):
        assert np.array_equal(made, frame)
    assert np.abs(made[..., :2].astype(float).mean((0, 1)) - 127.5).max() < 4
    scale = max(width / w, height / h)  # of the side that decides
    inner = made[height // 2, width // 4 : -(width // 4) or None, 0].astype(float)
    if min(h, w, height, width) >= 12 and len(inner) > 3:
        assert abs(np.diff(inner).mean() - 4 / scale) < 0.2 * 4 / scale + 0.2


def test_fitted_frames_of_the_same_size_are_the_same() -> None:
    frames = io.as_bytes(clip())
    assert clips.fit(frames, 48, 32) is frames
