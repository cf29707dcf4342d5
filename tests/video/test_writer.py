"""Clips written frame by frame, with what came beside them, whole or not at all."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from elevator.video import coding
from elevator.video.clip import Clip
from elevator.video.io import VideoError, read_metadata
from elevator.video.reader import open_video
from elevator.video.writer import check_video_target, create_video
from tests.video.material import make, moving, picture
from tests.video.test_reader import far

FILES = ["out.mp4", "out.mkv", "out.mov", "out.webm"]
PLACES = [*FILES, "out", "out.d/"]


def rewrite(clip: Clip, target: Path | str, times: int = 1, **options: Any) -> list[str]:
    """The clip again, larger by a whole factor; what the writer noted."""
    size = clip.width * times, clip.height * times
    with create_video(target, clip, *size, **options) as out:
        for frame in clip:
            large = frame.pixels.repeat(times, 0).repeat(times, 1)
            out.write(large, frame.time, frame.duration)
    return out.notes


def write(target: Path | str, frames: NDArray[Any], **options: Any) -> list[str]:
    height, width = frames.shape[1:3]
    with create_video(target, width=width, height=height, **options) as out:
        for index, one in enumerate(frames):
            out.write(one, Fraction(index, 24))
    return out.notes


def packets(file: Path, kind: str) -> list[tuple[float, bytes]]:
    with av.open(str(file)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        found = [packet for packet in container.demux(stream) if packet.size]
        return [(float((p.pts or 0) * p.time_base), bytes(p)) for p in found]


# --- frames, their times and their colours --------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
def test_frames_come_back_and_make_the_same_bytes(tmp_path: Path, name: str) -> None:
    target = f"{tmp_path}/{name}"
    seen, notes = [], []
    for _ in range(2):
        notes = write(target, moving(9), metadata={"seed": 3})
        files = sorted(Path(target).iterdir()) if Path(target).is_dir() else [Path(target)]
        seen.append([file.read_bytes() for file in files])
    assert seen[0] == seen[1]
    assert read_metadata(target) == {"seed": 3}
    clip = open_video(target)
    found = [*clip]
    assert len(found) == 9
    assert max(far(f.pixels, one) for f, one in zip(found, moving(9), strict=True)) < 3
    coarse = name in ("out.mkv", "out.webm")
    assert [frame.time for frame in found] == [
        Fraction(round(1000 * Fraction(index, 24)), 1000) if coarse else Fraction(index, 24)
        for index in range(9)
    ]
    assert any("times were rounded" in note for note in notes) == coarse
    assert os.listdir(tmp_path) == [Path(target).name]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 4000), max_size=7),
    st.integers(0, 100_000),
    st.sampled_from([90000, 24000, 12800, 277, 25, 1_200_000]),
)
def test_the_times_of_a_clip_are_kept_exactly(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], start: int, units: int
) -> None:
    folder = tmp_path_factory.mktemp("times")
    ticks = np.cumsum([start, *steps]).tolist()
    times = [Fraction(tick, units) for tick in ticks]
    exact = {"movie_timescale": str(units)}  # FFmpeg's own is milliseconds, for the start
    tick = Fraction(1, units)
    make(folder / "in.mp4", moving(len(times), 8, 8), times, tick=tick, container=exact)
    clip = open_video(folder / "in.mp4")
    assert rewrite(clip, folder / "out.mp4", 2) == []
    made = [*open_video(folder / "out.mp4")]
    assert [frame.time for frame in made] == times
    assert [frame.duration for frame in made[:-1]] == [frame.duration for frame in [*clip][:-1]]


@pytest.mark.parametrize(
    "colour", [(1, 2, 2, 6), (1, 1, 1, 1), (2, 1, 13, 1), (1, 5, 6, 5), (2, 9, 14, 9)]
)
@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_labels_and_colours_are_kept(
    tmp_path: Path, name: str, colour: tuple[int, int, int, int]
) -> None:
    flat = np.full((32, 48, 3), (200, 40, 90), np.uint8)
    clip = open_video(make(tmp_path / "in.mp4", [flat] * 3, colour=colour))
    rewrite(clip, tmp_path / name, 2, crf=4)
    made = open_video(tmp_path / name)
    assert tuple(made.colour) == colour
    for frame in made:
        assert np.abs(frame.pixels.astype(int) - (200, 40, 90)).max() <= 4


def test_full_range_where_the_coding_knows_none(tmp_path: Path) -> None:
    wanted = picture(32, 48, 4)
    options = {"crf": "4"}
    file = make(
        tmp_path / "in.webm",
        [wanted] * 2,
        codec="libvpx-vp9",
        form="yuva420p",
        options=options,
        colour=(2, 1, 1, 1),
    )
    clip = open_video(file)
    assert clip.colour.range == 2
    rewrite(clip, tmp_path / "out.mov")
    made = open_video(tmp_path / "out.mov")
    assert made.colour.range == 1
    assert far(next(iter(made)).pixels, wanted) < 2


def test_the_last_frame_lasts_as_long_as_it_did(tmp_path: Path) -> None:
    """Even where the announced average rate, as of a trimmed clip, is another."""
    with create_video(tmp_path / "a.mp4", width=48, height=32, rate=Fraction(30)) as out:
        for index, one in enumerate(moving(5)):
            out.write(one, Fraction(index, 10), Fraction(1, 10))
    made = [*open_video(tmp_path / "a.mp4")]
    assert [frame.duration for frame in made] == [Fraction(1, 10)] * 5


def test_no_number_of_the_machine_gets_into_the_file() -> None:
    """The bytes of x264 and x265 depend on how many threads there are, if not on more."""
    assert coding.choose("mp4", 64, 64, 8, False, 17).options == {
        "crf": "17", "threads": "4", "x264-params": "cpu-independent=1"
    }  # fmt: skip
    asked = coding.choose("mp4", 64, 64, 10, False, 17.5).options["x265-params"]
    assert {"pools=4", "frame-threads=1", "crf=17.5"} <= {*asked.split(":")}
    for form in ("mov", "webm"):
        assert coding.choose(form, 64, 64, 8, True, 17).options["threads"] == "4"


def test_an_unlabelled_clip_looks_the_same_when_it_is_large(tmp_path: Path) -> None:
    """Players guess by the size, which would be another guess for the larger one."""
    flat = np.full((36, 64, 3), (200, 40, 90), np.uint8)
    clip = open_video(make(tmp_path / "in.mp4", [flat], colour=(0, 2, 2, 2)))
    assert clip.colour.matrix == 2
    rewrite(clip, tmp_path / "out.mp4", 20)
    made = open_video(tmp_path / "out.mp4")
    assert (made.width, made.colour.matrix, made.colour.range) == (1280, 6, 1)


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 47), (33, 47), (1, 1), (2, 2)])
@pytest.mark.parametrize("name", FILES)
def test_every_size_is_exact(tmp_path: Path, name: str, height: int, width: int) -> None:
    notes = write(tmp_path / name, moving(3, height, width))
    found = [*open_video(tmp_path / name)]
    assert [frame.pixels.shape for frame in found] == [(height, width, 3)] * 3
    wanted = moving(3, height, width)
    near = 40 if height == 2 else 5  # one chroma for all four pixels
    assert max(far(f.pixels, one) for f, one in zip(found, wanted, strict=True)) < near
    told = any("odd side, which 4:2:0 does not know" in note for note in notes)
    assert told == (name != "out.webm" and (height % 2 or width % 2) == 1)
    with av.open(str(tmp_path / name)) as container:
        form = container.streams.video[0].codec_context.pix_fmt
        assert form == ("yuv444p" if told else "yuv420p")


def test_the_shape_of_pixels_is_kept(tmp_path: Path) -> None:
    file = make(tmp_path / "in.mp4", moving(2), aspect=Fraction(8, 9), turn=(90, False))
    clip = open_video(file)
    for name in FILES:
        notes = rewrite(clip, tmp_path / name)
        made = open_video(tmp_path / name)
        lost = any("the shape of pixels (9:8) was left out" in note for note in notes)
        assert lost == (name == "out.webm")
        assert (made.width, made.height) == (32, 48)
        assert made.aspect == (1 if lost else Fraction(9, 8))


@pytest.mark.parametrize("count", [1, 2])
def test_ten_bits_of_a_clip_shorter_than_the_delay_of_an_encoder(
    tmp_path: Path, count: int
) -> None:
    """Several times, since it went wrong by chance."""
    frames = np.full((count, 64, 96, 3), 30_000, np.uint16)
    for attempt in range(6):
        write(tmp_path / f"{attempt}.mp4", frames, depth=10)
        assert len([*open_video(tmp_path / f"{attempt}.mp4")]) == count


@pytest.mark.parametrize(
    ("name", "size", "codec", "depth"),
    [
        ("out.mp4", (64, 96), "hevc", 10),
        ("out.mkv", (64, 96), "hevc", 10),
        ("out.mp4", (65, 97), "hevc", 10),
        ("out.mp4", (3, 5), "h264", 10),
        ("out.webm", (64, 96), "vp9", 8),
        ("out", (64, 96), "png", 16),
    ],
)
def test_ten_bits(tmp_path: Path, name: str, size: tuple[int, int], codec: str, depth: int) -> None:
    frames = moving(3, *size).astype(np.uint16) * 257 + 97
    notes = write(tmp_path / name, frames, depth=10)
    clip = open_video(tmp_path / name)
    assert clip.depth == depth
    assert max(far(f.pixels, one) for f, one in zip(clip, frames, strict=True)) < 5
    assert any("10 bits a channel became 8" in note for note in notes) == (depth == 8)
    if name != "out":
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].codec_context.name == codec
            tag = container.streams.video[0].codec_context.codec_tag
            assert tag == "hvc1" or name != "out.mp4" or codec != "hevc"
    assert write(tmp_path / name, frames, depth=16)[:1] == (
        []
        if name == "out"
        else [
            "what is beyond 10 bits a channel was left out; write a folder of PNG files to keep it"
        ]
    )


@pytest.mark.parametrize("name", PLACES)
def test_alpha_is_kept_or_said_to_be_lost(tmp_path: Path, name: str) -> None:
    target = f"{tmp_path}/{name}"
    frames = np.stack([picture(32, 48, 4)] * 3)
    notes = write(target, frames, alpha=True)
    clip = open_video(target)
    if name == "out.mp4":
        assert "alpha was left out, frames are shown over black" in notes[0]
        shown = frames[..., :3] * (frames[..., 3:] / 255)
        assert max(np.abs(f.pixels - one).mean() for f, one in zip(clip, shown, strict=True)) < 3
    else:
        assert clip.alpha
        assert max(far(f.pixels, one) for f, one in zip(clip, frames, strict=True)) < 3
    write(target, frames[..., :3], alpha=True)  # frames without it are opaque
    assert far(next(iter(open_video(target))).pixels[..., :3], frames[0, ..., :3]) < 3


def test_names_of_pictures_are_kept(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("shot 10.jpg", "shot 9.png", "shot 9.jpg", "last.png"):
        Image.fromarray(picture()).save(tmp_path / "in" / name)
    clip = open_video(tmp_path / "in")
    rewrite(clip, tmp_path / "out", 2)
    assert open_video(tmp_path / "out").names == (
        "last.png.png", "shot 9.jpg.png", "shot 9.png.png", "shot 10.jpg.png"
    )  # fmt: skip
    (tmp_path / "in/shot 9.jpg").unlink()
    rewrite(open_video(tmp_path / "in"), tmp_path / "new")
    assert open_video(tmp_path / "new").names == ("last.png", "shot 9.png", "shot 10.png")


# --- what comes beside the frames -----------------------------------------------------------------


@pytest.mark.parametrize(("codec", "keeps"), [("aac", "mp4 mov mkv"), ("libopus", "mp4 mkv webm")])
@pytest.mark.parametrize("start", [-0.5, 0.0, 0.25])
@pytest.mark.parametrize("name", PLACES[:-1])
def test_sound_is_copied_in_step_or_said_to_be_lost(
    tmp_path: Path, name: str, start: float, codec: str, keeps: str
) -> None:
    """A negative start is one that an edit list cuts away, as phones' trimmed clips have it."""
    times = [Fraction(index, 24) for index in range(24)]
    late = [time + Fraction(1, 2) for time in times] if start < 0 else times
    file = tmp_path / ("in.mp4" if codec == "aac" else "in.mkv")
    make(file, moving(24), late, tick=Fraction(1, 24000), sound=(codec, max(start, 0), 1.5))
    clip = open_video(file)
    notes = rewrite(clip, tmp_path / name, 2)
    if name.removeprefix("out.") not in keeps.split():
        assert any(note.startswith("left out: the sound of") for note in notes)
        if name != "out":
            assert not open_video(tmp_path / name).tracks
        return
    before, after = packets(file, "audio"), packets(tmp_path / name, "audio")
    lost = len(before) - len(after)
    assert [data for _, data in after] == [data for _, data in before[lost:]]
    early = codec == "aac" and start <= 0  # and Matroska cannot say: not to be played
    assert lost == (early and name == "out.mkv")
    assert bool(lost) == any("from before the start" in note for note in notes)
    shown = [frame.time for frame in open_video(tmp_path / name)]
    for (was, _), (now, _) in zip(before[lost:], after, strict=True):
        assert abs(was - now) < 0.0015
    assert max(abs(a - b) for a, b in zip(shown, late, strict=True)) <= Fraction(1, 1000)


def test_sound_of_a_transport_stream(tmp_path: Path) -> None:
    file = make(tmp_path / "in.ts", moving(24), form="yuv420p", sound=("aac", 0, 1))
    clip = open_video(file)
    assert rewrite(clip, tmp_path / "out.mp4") == []
    assert [f.time for f in open_video(tmp_path / "out.mp4")] == [f.time for f in clip]
    before, after = packets(file, "audio"), packets(tmp_path / "out.mp4", "audio")
    assert len(before) == len(after)
    assert after[0][0] == pytest.approx(before[0][0] - float(clip.offset), abs=1e-4)


def test_sound_for_a_part_ends_with_it(tmp_path: Path) -> None:
    file = make(tmp_path / "in.mp4", moving(24), sound=("aac", 0, 1.0))
    clip = open_video(file)
    for whole in (True, False):
        with create_video(tmp_path / "out.mp4", clip, whole=whole) as out:
            for frame in [*clip][:12]:
                out.write(frame.pixels, frame.time, frame.duration)
        last = packets(tmp_path / "out.mp4", "audio")[-1][0]
        assert (last > 0.9) == whole
        assert last > 0.45


def test_subtitles_are_copied_or_said_to_be_lost(tmp_path: Path) -> None:
    clip = open_video(make(tmp_path / "in.mkv", moving(12), words="hello"))
    assert [track.codec for track in clip.subtitles] == ["srt"]
    rewrite(clip, tmp_path / "out.mkv")
    assert packets(tmp_path / "out.mkv", "subtitle") == [(0.1, b"hello")]
    (note,) = rewrite(clip, tmp_path / "out.mp4")
    assert note == (
        "left out: the subtitles of stream 1 (srt), which a file of the kind mp4 cannot hold; "
        "write .mkv to keep it"
    )


# --- whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("before", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(2, "of the block itself")])
def test_an_interruption_leaves_what_was_there(
    tmp_path: Path, name: str, before: bool, error: BaseException
) -> None:
    target = f"{tmp_path}/{name}"
    if before:
        write(target, moving(3))

    def stumble() -> None:
        with create_video(target, width=48, height=32) as out:
            for index, one in enumerate(moving(5)):
                out.write(one, Fraction(index, 24))
            raise error

    with pytest.raises(type(error)) as caught:
        stumble()
    assert caught.value is error
    assert len(os.listdir(tmp_path)) == before
    if before:
        assert len([*open_video(target)]) == 3


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: the same calls fail as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", PLACES[:-1])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), dtype=np.uint8)
    write(tmp_path / name, frames)
    file = tmp_path / name
    size = file.stat().st_size if file.is_file() else (file / "0003.png").stat().st_size
    for share in (0.05, 0.5, 0.95, 1):
        with at_most(round(share * size) - 1), pytest.raises(VideoError) as caught:
            write(file, frames)
        assert "cannot write" in str(caught.value)
        assert "File too large; free some space, or write to another place" in str(caught.value)
        assert os.listdir(tmp_path) == [name]
        assert len([*open_video(file)]) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.gif", r"cannot write .*a.gif frame by frame: .gif is none of .mp4, .m4v, .mov, .mkv"),
        ("none/a.mp4", "make the folder .*none first"),
        ("full", "exists and holds other things; give a new folder"),
        ("full.mp4", "it is a folder"),
        ("in.mp4", "it is the clip itself; give another name"),
    ],
)
def test_impossible_targets_are_refused(tmp_path: Path, name: str, message: str) -> None:
    clip = open_video(make(tmp_path / "in.mp4", moving(2)))
    for folder in ("full", "full.mp4"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture()).save(tmp_path / folder / "holiday.png")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(VideoError, match=message):
        check_video_target(tmp_path / name, clip)
    with pytest.raises(VideoError, match=message), create_video(tmp_path / name, clip):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", PLACES)
def test_frames_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    target = f"{tmp_path}/{name}"
    one = picture()

    def follow(frame: NDArray[Any], time: int) -> None:
        with create_video(target, width=48, height=32) as out:
            out.write(one, Fraction(0))
            out.write(frame, Fraction(time))

    for frame, time, message in (
        (one[:-1], 1, r"must be \(32, 48, 3 or 4\) of uint8 or uint16, got \(31, 48, 3\)"),
        (one.astype(np.float32), 1, "of float32"),
        (one, 0, "in the order of their times: frame 1 at 0 s follows one at 0 s"),
    ):
        with pytest.raises(VideoError, match=message):
            follow(frame, time)
    with (
        pytest.raises(VideoError, match="it was given no frames"),
        create_video(target, width=48, height=32),
    ):
        pass
    for options, message in (
        ({"width": 48}, "give the width and height"),
        ({"width": 48, "height": 32, "crf": 60}, r"crf must be 0 \(best\) to 51, got 60"),
        ({"width": 48, "height": 32, "rate": 0}, "more than 0, got 0"),
    ):
        with pytest.raises(VideoError, match=message), create_video(target, **options):  # type: ignore[arg-type]
            pass
    assert os.listdir(tmp_path) == []
