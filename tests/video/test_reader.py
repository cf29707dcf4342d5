"""Clips read frame by frame: how many, when, which way up, and what is told about them."""

import os
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from elevator.video.clip import Frame, natural
from elevator.video.io import VideoError
from elevator.video.reader import open_video
from tests.video.material import RATE, make, moving, picture


def far(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The mean difference, in levels of 255."""
    scale = [255 / np.iinfo(pixels.dtype).max for pixels in (found, wanted)]
    return float(np.abs(found * scale[0] - wanted * scale[1]).mean())


def read(path: Path) -> list[Frame]:
    with open_video(path) as clip:
        return [*clip]


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(277, 12), Fraction(2835000, 114599), Fraction(1, 3)]
)
def test_every_frame_and_its_time(tmp_path: Path, rate: Fraction) -> None:
    wanted = moving(7)
    clip = open_video(make(tmp_path / "a.mp4", wanted, tick=1 / rate))
    found = [*clip]
    assert [frame.time for frame in found] == [index / rate for index in range(7)]
    assert {frame.duration for frame in found} == {1 / rate}
    assert max(far(frame.pixels, one) for frame, one in zip(found, wanted, strict=True)) < 2
    assert (clip.width, clip.height, clip.expected, clip.depth, clip.alpha) == (48, 32, 7, 8, False)
    assert clip.rate == rate
    assert clip.notes == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.sampled_from([90000, 30000, 277]))
def test_uneven_times_are_kept(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], units: int
) -> None:
    ticks = np.cumsum([0, *steps]).tolist()
    times = [Fraction(tick, units) for tick in ticks]
    file = tmp_path_factory.mktemp("uneven") / "a.mp4"
    found = read(make(file, moving(len(times), 8, 8), times, tick=Fraction(1, units)))
    assert [frame.time for frame in found] == times
    assert [frame.duration for frame in found[:-1]] == [Fraction(step, units) for step in steps]


def test_a_late_start_is_kept_and_an_arbitrary_clock_is_not(tmp_path: Path) -> None:
    times = [Fraction(1, 2) + index / RATE for index in range(3)]
    late = make(tmp_path / "a.mp4", moving(3), times, tick=Fraction(1, 48000))
    assert [frame.time for frame in read(late)] == times
    stream = make(tmp_path / "a.ts", moving(3), form="yuv420p")
    with av.open(str(stream)) as container:
        assert (container.start_time or 0) > 50_000  # the clock of a transport stream
    assert read(stream)[0].time == 0


def test_reading_begins_anew_and_anywhere(tmp_path: Path) -> None:
    clip = open_video(make(tmp_path / "a.mp4", moving(7)))
    whole = [*clip]
    for start in (0, 3, 6, 7):
        part = [*clip.frames(start)]
        assert [frame.time for frame in part] == [frame.time for frame in whole[start:]]
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(part, whole[start:]))  # noqa: B905


# --- pictures as shown ----------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_the_display_matrix_is_applied(tmp_path: Path, quarters: int, mirrored: bool) -> None:
    """FFmpeg's own way: turn counter-clockwise, then mirror."""
    file = make(
        tmp_path / "a.mp4",
        [picture()] * 2,
        turn=(90 * quarters, mirrored),
        aspect=Fraction(8, 9),
    )
    clip = open_video(file)
    shown = np.rot90(picture(), quarters)
    shown = shown[:, ::-1] if mirrored else shown
    for frame in clip:
        assert far(frame.pixels, shown) < 2
    assert (clip.height, clip.width) == shown.shape[:2]
    assert clip.aspect == (Fraction(9, 8) if quarters % 2 else Fraction(8, 9))


@pytest.mark.parametrize(
    ("colour", "form"),
    [
        ((1, 6, 6, 6), "yuv444p"),
        ((1, 1, 1, 1), "yuv444p"),
        ((2, 1, 13, 1), "yuv444p"),
        ((2, 5, 6, 5), "yuvj444p"),
    ],
)
def test_colours_survive(tmp_path: Path, colour: tuple[int, int, int, int], form: str) -> None:
    flat = np.full((32, 48, 3), (200, 40, 90), np.uint8)
    clip = open_video(make(tmp_path / "a.mp4", [flat] * 2, colour=colour, form=form))
    assert np.abs(next(iter(clip)).pixels.astype(int) - flat).max() <= 3
    assert tuple(clip.colour) == colour


def test_ten_bits(tmp_path: Path) -> None:
    wanted = picture(64, 96).astype(np.uint16) * 257 + 97
    options = {"x265-params": "log-level=none:crf=0:bframes=0:frame-threads=1"}
    file = make(tmp_path / "a.mp4", [wanted], codec="libx265", form="yuv444p10le", options=options)
    clip = open_video(file)
    (found,) = clip
    assert clip.depth == 10
    assert found.pixels.dtype == np.uint16
    assert far(found.pixels, wanted) < 0.4


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [("a.mov", "prores_ks", "yuva444p10le"), ("a.webm", "libvpx-vp9", "yuva420p"),
     ("a.mkv", "ffv1", "bgra")],
)  # fmt: skip
def test_alpha(tmp_path: Path, name: str, codec: str, form: str) -> None:
    options = {"prores_ks": {"profile": "4444"}, "libvpx-vp9": {"crf": "4"}}.get(codec, {})
    wanted = picture(32, 48, 4)
    clip = open_video(make(tmp_path / name, [wanted] * 3, codec=codec, form=form, options=options))
    assert clip.alpha
    found = [*clip]
    assert len(found) == 3
    assert found[0].pixels.shape == (32, 48, 4)
    assert far(found[0].pixels, wanted) < 2
    assert far(found[0].pixels[..., 3], wanted[..., 3]) < 2


# --- pictures in folders --------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2000), unique=True))
def test_names_are_sorted_as_people_do(numbers: list[int]) -> None:
    names = sorted((f"frame{number}b.png" for number in numbers), key=natural)
    assert names == [f"frame{number}b.png" for number in sorted(numbers)]


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        Image.fromarray(picture() + np.uint8(number)).save(tmp_path / f"shot {number}.png")
    Image.fromarray(picture()).save(tmp_path / "shot 11.jpg", quality=100, subsampling=0)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a picture")
    clip = open_video(tmp_path, rate=12)
    assert clip.names == ("shot 1.png", "shot 9.png", "shot 10.png", "shot 11.jpg")
    found = [*clip]
    assert [frame.time for frame in found] == [Fraction(index, 12) for index in range(4)]
    for frame, number in zip(found, (1, 9, 10), strict=False):
        assert np.array_equal(frame.pixels, picture() + np.uint8(number))
    assert far(found[3].pixels, picture()) < 1
    assert (clip.width, clip.height, clip.expected, clip.rate) == (48, 32, 4, Fraction(12))


def test_a_folder_of_sixteen_bits_and_alpha(tmp_path: Path) -> None:
    Image.fromarray(picture(8, 8, 4)).save(tmp_path / "1.png")
    Image.fromarray(picture(8, 8)).save(tmp_path / "2.png")
    clip = open_video(tmp_path)
    assert (clip.alpha, clip.depth) == (True, 8)
    first, second = clip
    assert np.array_equal(first.pixels, picture(8, 8, 4))
    assert (second.pixels[..., 3] == 255).all()


def test_pictures_that_move(tmp_path: Path) -> None:
    pictures = [Image.fromarray(one) for one in moving(3)]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=[40, 70, 90],
        lossless=True,
    )  # fmt: skip
    clip = open_video(tmp_path / "a.webp")
    assert [frame.time for frame in clip] == [0, Fraction(40, 1000), Fraction(110, 1000)]
    assert all(np.array_equal(f.pixels, one) for f, one in zip(clip, moving(3), strict=True))
    pictures[0].save(tmp_path / "one.png")
    (still,) = open_video(tmp_path / "one.png", rate=5)
    assert (still.time, still.duration) == (Fraction(0), Fraction(1, 5))


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.4, 0.7, 0.97])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_what_a_truncated_file_still_holds(tmp_path: Path, name: str, share: float) -> None:
    start = {"movflags": "faststart"} if name == "a.mp4" else {}
    options = {"crf": "1", "g": "1"}  # each frame by itself: every whole one can be had
    whole = make(tmp_path / name, moving(48), container=start, options=options)
    with av.open(str(whole)) as container:
        ends = [
            p.pos + p.size + 16 for p in container.demux(video=0) if p.pos is not None and p.size
        ]
    cut = round(share * whole.stat().st_size)
    file = tmp_path / f"cut{name[1:]}"
    file.write_bytes(whole.read_bytes()[:cut])
    clip = open_video(file)
    found = [*clip]
    assert sum(end <= cut for end in ends) <= len(found) < 48
    assert [f.time for f in found] == [f.time for f in read(whole)][: len(found)]
    told = [note for note in clip.notes if "that it announces: it is truncated" in note]
    assert bool(told) == (len(found) < 45)
    cut_through = f"left out: 1 coded frames of {file.name} that cannot be decoded"
    assert any(note.startswith(cut_through) for note in clip.notes) == (name == "a.mp4")
    assert [*clip][-1].time == found[-1].time
    assert len(set(clip.notes)) == len(clip.notes)


def _lost_index(folder: Path) -> Path:
    data = make(folder / "whole.mp4", moving(20)).read_bytes()
    (folder / "bad.mp4").write_bytes(data[: len(data) // 2])
    return folder / "bad.mp4"


def _unknown_coding(folder: Path) -> Path:
    data = make(folder / "whole.mkv", moving(3)).read_bytes()
    (folder / "bad.mkv").write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVX"))
    return folder / "bad.mkv"


def _only_sound(folder: Path) -> Path:
    with av.open(str(folder / "bad.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    return folder / "bad.wav"


def _no_frames(folder: Path) -> Path:
    data = bytearray(make(folder / "whole.mp4", moving(2), options={"g": "1"}).read_bytes())
    at = data.index(b"mdat")
    size = int.from_bytes(data[at - 4 : at])
    data[at + 4 : at - 4 + size] = bytes(size - 8)
    (folder / "bad.mp4").write_bytes(data)
    return folder / "bad.mp4"


def _written(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bad.mp4")
    return folder / "bad.mp4"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda folder: folder / "none.mp4", r"no file .*none.mp4: check the name"),
        (_written("bad.mp4", b""), r"no frames in .*: it is empty; copy or download"),
        (_written("bad.mp4", b"no video"), r"cannot read .*: it is damaged or not a video; copy"),
        (_written("bad.png", b"no picture"), r"cannot read .*bad.png: it is damaged or not"),
        (_lost_index, r"cannot read .*not a video \(an MP4 that was cut short has lost its index"),
        (_unknown_coding, r"cannot decode .*: its coding is not known .*; convert it to H.264"),
        (_only_sound, r"no video stream in .*damaged or not a video \(it holds audio\); give"),
        (_no_frames, r"no frames in .*: it is damaged, or coded in a way"),
        (lambda folder: folder, r"no frames in .*: it is a folder without pictures; give a"),
        (_pipe, r"it is neither a file nor a folder"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, bad: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        open_video(bad(tmp_path))


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(tmp_path / "a.mp4", moving(2))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(VideoError, match=r"a.mp4: permission denied; make it readable"):
        open_video(file)


def test_names_that_look_like_something_else(tmp_path: Path) -> None:
    for name in ("http:x.mp4", "100%d.mp4", "ends.in.nothing"):
        make(tmp_path / "a.mp4", moving(2)).rename(tmp_path / name)
        assert len(read(tmp_path / name)) == 2


def test_one_frame_of_one_pixel(tmp_path: Path) -> None:
    (frame,) = read(make(tmp_path / "a.mp4", [picture(1, 1)]))
    assert frame.pixels.shape == (1, 1, 3)
    assert far(frame.pixels, picture(1, 1)) < 2


def test_times_that_do_not_grow_are_mended(tmp_path: Path) -> None:
    """Matroska counts milliseconds, so frames closer than that share one."""
    times = [Fraction(index, 4000) for index in range(6)]
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=4000)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "yuv420p"
        for index, one in enumerate(moving(6, 8, 8)):
            frame = av.VideoFrame.from_ndarray(one, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, times[1]
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    clip = open_video(tmp_path / "a.mkv")
    found = [frame.time for frame in clip]
    assert len(found) == 6
    assert all(a < b for a, b in pairwise(found))
    assert clip.notes == ["a.mkv gives frames times that do not grow; they are kept, each just "
                          "after the one before"]  # fmt: skip
