"""Long runs: the same bytes after any interruption, nothing made twice, no memory for length."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import elevator
from elevator.errors import CheckError, ElevatorError
from elevator.upscale import Bicubic, Upscaler
from elevator.video import jobs
from elevator.video.io import VideoError
from elevator.video.jobs import Stage, forget, upscale_video
from elevator.video.parts import Parts
from elevator.video.pixels import as_float, as_pixels
from elevator.video.reader import open_video
from elevator.video.workplace import Workplace
from elevator.video.writer import create_video

ROOT = Path(__file__).parents[2]


def picture(index: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    """Frame `index` of a clip that moves."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(0.4 * x + 0.2 * index), np.cos(0.5 * y - 0.3 * index), np.sin(0.3 * (x + y))]
    return (127.5 + 120 * np.stack(waves, -1)).round().astype(np.uint8)


def clip_at(path: Path, frames: int = 9, rate: int = 25, **size: int) -> Path:
    first = picture(0, **size)
    with create_video(path, width=first.shape[1], height=first.shape[0], rate=rate) as out:
        for index in range(frames):
            out.write(picture(index, **size), Fraction(index, rate))
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clip_at(tmp_path / "in.mp4")


@dataclass
class Drifting:
    """Doubles frames, and adds what depends on the stretch: cross-fading then matters."""

    scale: int = 2
    reach: int = 0
    fade: int = 2
    amount: float = 0.05
    seen: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, frames: Tensor, first_frame: int) -> Tensor:
        self.seen.append((first_frame, len(frames)))
        shift = self.amount * (first_frame % 3 - 1)
        return Bicubic(self.scale)(frames, first_frame) + shift

    def identity(self) -> Mapping[str, object]:
        return {"method": "drifting", "amount": self.amount, "scale": self.scale}


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[tuple[Stage, int, int | None]] = []
        self.notes: list[str] = []
        self.stretches: list[tuple[int, int, int]] = []

    def progress(self, stage: Stage, done: int, total: int | None) -> None:
        self.stages.append((stage, done, total))

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def finished(self, first_frame: int, given: Sequence[Any], made: Sequence[Any]) -> None:
        self.stretches.append((first_frame, len(given), len(made)))


class Stopped(BaseException):
    """As Ctrl-C, at a chosen call."""


@dataclass
class Stopping(Drifting):
    """Stops at its call number `at`."""

    at: int = 2

    def __call__(self, frames: Tensor, first_frame: int) -> Tensor:
        if len(self.seen) == self.at:
            raise Stopped
        return super().__call__(frames, first_frame)


def pixels_of(path: Path) -> NDArray[Any]:
    with open_video(path) as made:
        return np.stack([frame.pixels for frame in made])


# --- what it makes --------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_as_many_frames_at_the_same_times(tmp_path: Path, frames: int, chunk: int | None) -> None:
    clip, out = clip_at(tmp_path / "in.mp4", frames), tmp_path / "out.mp4"
    done = upscale_video(clip, out, Bicubic(2), chunk=chunk)
    assert (done.frames, done.width, done.height) == (frames, 32, 24)
    assert done.computed == (-(-frames // chunk) if chunk else 1)
    with open_video(clip) as before, open_video(out) as after:
        assert (after.width, after.height) == (32, 24)
        given, made = list(before), list(after)
    assert [(one.time, one.duration) for one in made] == [(o.time, o.duration) for o in given]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_frames_alone_do_not_know_of_stretches(clip: Path, tmp_path: Path) -> None:
    """To PNG, which keeps them exactly; in one piece, by hand."""
    with open_video(clip) as given:
        whole = as_pixels(Bicubic(2)(as_float(np.stack([f.pixels for f in given])), 0))
    for chunk in (None, 1, 4):
        upscale_video(clip, tmp_path / "out", Bicubic(2), chunk=chunk)
        assert np.array_equal(pixels_of(tmp_path / "out"), whole)


def test_stretches_are_cross_faded(clip: Path, tmp_path: Path) -> None:
    upscaler = Drifting()
    upscale_video(clip, tmp_path / "out", upscaler, chunk=4)
    assert upscaler.seen == [(0, 4), (2, 4), (4, 4), (5, 4)]
    with open_video(clip) as given:
        plain = Bicubic(2)(as_float(np.stack([frame.pixels for frame in given])), 0)
    made = as_float(pixels_of(tmp_path / "out"))
    below, same, above = ((plain + shift).clamp(0, 1) for shift in (-0.05, 0.0, 0.05))
    wanted = {  # stretches at 0, 2 and 4 are shifted by -0.05, 0.05 and 0
        1: below[1],
        2: (2 * below[2] + above[2]) / 3,
        3: (below[3] + 2 * above[3]) / 3,
        8: above[8],  # of the one at 5 alone
    }
    assert not torch.equal(below, same)
    for index, frame in wanted.items():
        torch.testing.assert_close(made[index], frame, atol=1.01 / 255, rtol=0)


class Bands(Drifting):
    """Gives the same band by band, and not whole."""

    reach, fade = 1, 0
    rows = (1, 7, 16)

    def __call__(self, frames: Tensor, first_frame: int) -> Tensor:
        raise RuntimeError("the whole stretch at once")

    def bands(self, frames: Tensor, first_frame: int, keep: slice) -> Iterator[Tensor]:
        yield from Bicubic(2)(frames, first_frame)[keep].split(self.rows, 2)


def test_bands_make_the_same_as_the_whole(clip: Path, tmp_path: Path) -> None:
    """No more than a band is held as floats."""
    for upscaler in (Bicubic(2), Bands()):
        upscale_video(clip, tmp_path / type(upscaler).__name__, upscaler, chunk=4)
    made = pixels_of(tmp_path / "Bands")
    assert np.array_equal(made, pixels_of(tmp_path / "Bicubic"))
    assert made.shape == (9, 24, 32, 3)


def test_alpha_and_sixteen_bits_are_kept(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    colours = [picture(index).astype(np.uint16) * 200 for index in range(3)]
    with create_video(frames, width=16, height=12, depth=16, alpha=True) as out:
        for index, one in enumerate(colours):
            alpha = np.full_like(one[..., :1], 1000 * (index + 1))
            out.write(np.concatenate([one, alpha], -1), Fraction(index, 24))
    upscale_video(frames, tmp_path / "out", Bicubic(2), chunk=2)
    made = pixels_of(tmp_path / "out")
    assert made.dtype == np.uint16
    assert made.shape == (3, 24, 32, 4)
    assert [np.unique(one[..., 3]).tolist() for one in made] == [[1000], [2000], [3000]]
    wanted = as_pixels(Bicubic(2)(as_float(np.stack(colours)), 0), 16)
    assert np.array_equal(made[..., :3], wanted)


def test_the_speed_of_a_folder_of_pictures(clip: Path, tmp_path: Path) -> None:
    upscale_video(clip, tmp_path / "frames", Bicubic(1))
    upscale_video(tmp_path / "frames", tmp_path / "out.mp4", Bicubic(1), rate=10)
    with open_video(tmp_path / "out.mp4") as made:
        assert [frame.time for frame in made] == [Fraction(index, 10) for index in range(9)]


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 3])
def test_finished_stretches_are_not_made_again(clip: Path, tmp_path: Path, at: int) -> None:
    whole, out = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    upscale_video(clip, whole, Drifting(), chunk=4)
    with pytest.raises(Stopped):
        upscale_video(clip, out, Stopping(at=at), chunk=4)
    assert not out.exists()
    again = Drifting()
    done = upscale_video(clip, out, again, chunk=4)
    assert again.seen == [(0, 4), (2, 4), (4, 4), (5, 4)][at:]
    assert (done.computed, done.reused) == (4 - at, at)
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / ".elevator").exists()


def test_a_stretch_missing_in_between_is_made(clip: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    upscale_video(clip, whole, Drifting(), chunk=4)
    with pytest.raises(Stopped):
        upscale_video(clip, out, Stopping(at=3), chunk=4)
    _, second, third = sorted((tmp_path / ".elevator/out.mp4").glob("*/*.mkv"))
    second.write_bytes(second.read_bytes()[:-1])  # damaged since
    third.with_name(".aside.mkv.7.part").write_bytes(b"half")
    again = Drifting()
    assert upscale_video(clip, out, again, chunk=4).reused == 2
    assert again.seen == [(2, 4), (5, 4)]
    assert out.read_bytes() == whole.read_bytes()


KEYS: Mapping[str, dict[str, Any]] = {
    "settings": {"upscaler": Drifting(amount=0.1)},
    "stretches": {"chunk": 5},
    "clip": {"clip": 1},
}


@pytest.mark.parametrize("change", KEYS)
def test_other_settings_never_meet_old_stretches(clip: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "out.mp4"
    with pytest.raises(Stopped):
        upscale_video(clip, out, Stopping(at=2), chunk=4)
    (old,) = (path for path in (tmp_path / ".elevator/out.mp4").iterdir() if path.is_dir())
    other: dict[str, Any] = {"upscaler": Drifting(), "chunk": 4, **KEYS[change]}
    source = clip_at(tmp_path / "other.mp4", 8) if other.pop("clip", 0) else clip
    told = Told()
    assert upscale_video(source, out, watcher=told, **other).reused == 0
    assert [note for note in told.notes if str(old) in note and "--no-resume" in note]
    assert [*old.glob("*.mkv")], "it is told about, not taken away"
    resumed = upscale_video(clip, out, Drifting(), chunk=4)
    assert resumed.reused == 2
    assert not (tmp_path / ".elevator").exists()


def test_changed_code_never_meets_old_stretches(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        upscale_video(clip, tmp_path / "out.mp4", Stopping(), chunk=4)
    monkeypatch.setattr(jobs, "_code", lambda: {"elevator": "other"})
    assert upscale_video(clip, tmp_path / "out.mp4", Drifting(), chunk=4).reused == 0


def test_the_code_is_all_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash changes with any file; the links of a checkout are followed."""
    package, linked = tmp_path / "package", tmp_path / "filters"
    files = [package / "__init__.py", package / "video/jobs.py", linked / "deep/flow.py"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (package / "filters").symlink_to(linked)
    (package / "samplers").mkdir()
    monkeypatch.setattr(elevator, "__file__", str(files[0]))
    seen = []
    for changed in range(len(files) + 1):
        for file in files[:changed]:
            file.write_text("changed")
        jobs._code.cache_clear()
        seen.append(jobs._code()["elevator"])
    others = jobs._code().keys()
    jobs._code.cache_clear()  # what is computed from here on is of the true package
    assert len({*seen}) == 4
    assert {"torch", "av"} <= others


def test_a_crf_needs_no_new_stretches(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        upscale_video(clip, tmp_path / "out.mp4", Stopping(), chunk=4, crf=10)
    assert upscale_video(clip, tmp_path / "out.mp4", Drifting(), chunk=4, crf=30).reused == 2


def test_starting_anew(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    for amount in (0.1, 0.05):
        with pytest.raises(Stopped):
            upscale_video(clip, out, Stopping(amount=amount), chunk=4)
    told = Told()
    assert upscale_video(clip, out, Drifting(), chunk=4, resume=False, watcher=told).reused == 0
    assert told.notes == []
    assert not (tmp_path / ".elevator").exists()


def test_what_is_done_is_remembered_until_it_is_forgotten(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    first = upscale_video(clip, out, Drifting(), chunk=4, keep=True)
    again = Drifting()
    done = upscale_video(clip, out, again, chunk=4, keep=True)
    assert (done.computed, done.reused, done.found) == (0, first.computed, True)
    assert not first.found
    assert again.seen == []
    out.write_bytes(b"changed")
    assert upscale_video(clip, out, again, chunk=4, keep=True).computed == 4
    assert upscale_video(clip, out, again, chunk=4, crf=30, keep=True).computed == 4
    forget(out)
    assert not (tmp_path / ".elevator").exists()
    assert upscale_video(clip, out, again, chunk=4).computed == 4


# --- kill -9 --------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from elevator.upscale import Bicubic
from elevator.video.jobs import upscale_video

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
clip, folder = Path(sys.argv[1]), Path(sys.argv[2])
whole, out = folder / "whole.mp4", folder / "out.mp4"
upscale_video(clip, whole, Bicubic(2), chunk=4)
wanted = whole.read_bytes()

def run(kill_at=None):
    '''In a process of its own, killed before what it does to the disk for the n-th time.'''
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    count = 0
    def audit(event, args):
        nonlocal count
        if event in EVENTS and any(str(folder) in str(arg) for arg in args):
            if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(audit)
    try:
        upscale_video(clip, out, Bicubic(2), chunk=4)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)

for moment in range(1, 999):
    status = run(moment)
    assert out.exists() <= (out.exists() and out.read_bytes() == wanted), moment
    if not os.WIFSIGNALED(status):
        assert status == 0
        break
    assert run() == 0, moment
    assert out.read_bytes() == wanted, moment
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["out.mp4", "whole.mp4"], (moment, left)
    out.unlink()
print(moment - 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork, and no SIGKILL, on this system")
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(clip: Path, tmp_path: Path) -> None:
    """Before each change to the disk in turn, then run to the end."""
    (tmp_path / "work").mkdir()
    given = [sys.executable, "-c", KILLED, str(clip), str(tmp_path / "work")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(given, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


# --- one at a time --------------------------------------------------------------------------------


def test_two_processes_do_not_meet(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    hold = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from elevator.video.workplace import Workplace
        with Workplace(Path({str(out)!r})).locked():
            print("held", flush=True)
            sys.stdin.read()
        """
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(
        [sys.executable, "-c", hold],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for attempt in (lambda: upscale_video(clip, out, Bicubic(2)), lambda: forget(out)):
            with pytest.raises(VideoError, match=f"another process is making {out} at this moment"):
                attempt()
        upscale_video(clip, tmp_path / "elsewhere.mp4", Bicubic(2))
        other.kill()
    upscale_video(clip, out, Bicubic(2))
    assert not (tmp_path / ".elevator").exists()


def test_a_lock_that_was_taken_away_is_none(tmp_path: Path) -> None:
    """Who waited for a folder that is removed meanwhile makes a new one."""
    place = Workplace(tmp_path / "out.mp4")
    for _ in range(2):
        with place.locked():
            assert place.root.is_dir()
        assert not place.root.exists()


# --- what it tells --------------------------------------------------------------------------------


def test_progress_and_stretches(clip: Path, tmp_path: Path) -> None:
    told = Told()
    upscale_video(clip, tmp_path / "out.mp4", Drifting(), chunk=4, watcher=told)
    count = [(stage, done) for stage, done, _ in told.stages if stage == "counting"]
    assert count == [("counting", index) for index in range(1, 10)]
    assert [s for s in told.stages if s[0] == "upscaling"] == [
        ("upscaling", done, 9) for done in (0, 2, 4, 5, 9)
    ]
    assert [s for s in told.stages if s[0] == "encoding"] == [
        ("encoding", done, 9) for done in range(10)
    ]
    assert told.stretches == [(0, 4, 4), (2, 4, 4), (4, 4, 4), (5, 4, 4)]
    told, reaching = Told(), Drifting(reach=1, fade=0)
    upscale_video(clip, tmp_path / "out.mp4", reaching, chunk=4, watcher=told)
    assert told.stretches == [(0, 3, 3), (3, 2, 2), (5, 2, 2), (6, 3, 3)]


def test_a_truncated_clip_is_made_as_far_as_it_goes(tmp_path: Path) -> None:
    clip = clip_at(tmp_path / "in.mkv", 60, height=64, width=64)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    told = Told()
    with pytest.raises(Stopped):
        upscale_video(clip, tmp_path / "out.mp4", Stopping(at=1), chunk=4)
    done = upscale_video(clip, tmp_path / "out.mp4", Drifting(), chunk=4, watcher=told)
    assert 0 < done.frames < 60
    assert len(pixels_of(tmp_path / "out.mp4")) == done.frames
    assert done.damage, "known from the run that counted"
    assert set(done.damage) <= set(told.notes)


def test_what_the_file_cannot_hold_is_told(tmp_path: Path) -> None:
    clip, told = clip_at(tmp_path / "in.mp4", height=11, width=15), Told()
    upscale_video(clip, tmp_path / "out.mp4", Bicubic(1), watcher=told)
    assert [note for note in told.notes if "15x11 has an odd side" in note]


# --- what it refuses ------------------------------------------------------------------------------


class Broken(Drifting):
    """Fails as `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def __call__(self, frames: Tensor, first_frame: int) -> Tensor:
        match self.how:
            case "memory":
                raise RuntimeError("can't allocate memory: you tried to allocate 9 bytes")
            case "numbers":
                return Bicubic(2)(frames, 0) / 0
            case "shape":
                return frames
        raise RuntimeError(self.how)


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("memory", ElevatorError, "not enough memory for 9 frames of 16x12 at once"),
        ("numbers", VideoError, "not finite"),
        ("shape", ElevatorError, r"Broken gave frames of shape \(9, 3, 12, 16\), not \(9, 3, 24"),
        ("its own", RuntimeError, "its own"),
    ],
)
def test_an_upscaler_that_fails(
    clip: Path, tmp_path: Path, how: str, kind: type[Exception], said: str
) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"before")
    with pytest.raises(kind, match=said):
        upscale_video(clip, out, Broken(how))
    assert out.read_bytes() == b"before"


@pytest.mark.parametrize("upscaler", [Drifting(fade=4), Drifting(reach=2, fade=0)])
def test_stretches_must_be_longer_than_what_they_share(
    clip: Path, tmp_path: Path, upscaler: Upscaler
) -> None:
    with pytest.raises(CheckError, match="share 4 frames and must be longer than that, got 4"):
        upscale_video(clip, tmp_path / "out.mp4", upscaler, chunk=4)
    upscale_video(clip, tmp_path / "out.mp4", upscaler, chunk=5)


def test_frames_larger_than_any_video_are_refused_at_once(tmp_path: Path) -> None:
    clip = clip_at(tmp_path / "in.mp4", 1, height=96, width=160)
    with pytest.raises(CheckError, match="160x96 would become 32000x19200, larger than the 88 "):
        upscale_video(clip, tmp_path / "out.mp4", Bicubic(200))


def test_what_an_encoder_refuses_is_known_before_any_work(tmp_path: Path) -> None:
    """16448 pixels are more than H.264 takes in a row."""
    clip, upscaler = clip_at(tmp_path / "wide.mp4", 1, height=4, width=64), Drifting(scale=257)
    with pytest.raises(VideoError, match="cannot write"):
        upscale_video(clip, tmp_path / "out.mp4", upscaler)
    assert upscaler.seen == []


def test_large_frames_make_short_stretches() -> None:
    assert jobs._length(None, 0, 320 * 180) == jobs.CHUNK
    assert jobs._length(None, 0, 3840 * 2160) == 10
    assert jobs._length(None, 0, 2**27) == 1
    assert jobs._length(None, 8, 2**27) == 16


def test_no_room_on_the_disk(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.mp4"
    write = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name.startswith("000002"):
            raise OSError(28, "No space left on device")
        return write(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(VideoError, match="No space left on device; what is finished is kept"):
            upscale_video(clip, out, Drifting(), chunk=4)
    assert not out.exists()
    assert upscale_video(clip, out, Drifting(), chunk=4).reused == 2


def test_a_target_that_cannot_be_replaced(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    upscale_video(clip, out, Bicubic(1))
    before = pixels_of(out)
    write = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if target == out:
            raise OSError(1, "Operation not permitted")
        return write(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(VideoError, match=f"cannot write {out}: Operation not permitted"):
        upscale_video(clip, out, Bicubic(2))
    assert np.array_equal(pixels_of(out), before)


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 32)])
def test_parts_come_back_bit_for_bit(
    tmp_path: Path, kind: Any, channels: int, size: tuple[int, int]
) -> None:
    parts = Parts(tmp_path)
    draw = np.random.default_rng(0)
    most = np.iinfo(kind).max
    frames = [draw.integers(0, most + 1, (*size, channels)).astype(kind) for _ in range(3)]
    assert not parts.has(7)
    parts.write(7, frames)
    assert parts.has(7)
    assert not parts.has(0)
    for wanted, got in zip(frames, parts.read(7), strict=True):
        assert got.dtype == kind
        assert np.array_equal(got, wanted)


def test_parts_of_large_frames(tmp_path: Path) -> None:
    """More than FFV1 takes in four slices."""
    frame = np.arange(2160 * 3840 * 3, dtype=np.uint16).reshape(2160, 3840, 3)
    Parts(tmp_path).write(0, [frame])
    (got,) = Parts(tmp_path).read(0)
    assert np.array_equal(got, frame)


def test_a_part_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"part 3 in .* was removed or damaged"):
        next(Parts(tmp_path).read(3))


# --- memory ---------------------------------------------------------------------------------------

PEAK = """
import sys
from elevator.upscale import Bicubic
from elevator.video.jobs import upscale_video
from elevator.video.workplace import peak_memory
upscale_video(sys.argv[1], sys.argv[2], Bicubic(2))
print(peak_memory())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it does not tell its peak memory")
def test_memory_does_not_depend_on_length(tmp_path: Path) -> None:
    """5 and 20 seconds of 160x90, 12 frames a second: 2 stretches and 8."""
    peaks = []
    for seconds in (5, 20):
        clip = clip_at(tmp_path / f"{seconds}.mp4", 12 * seconds, 12, height=90, width=160)
        given = [sys.executable, "-c", PEAK, str(clip), str(tmp_path / "out.mp4")]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(given, env=env, capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout))
    assert max(peaks) < 1.05 * min(peaks), peaks


def test_a_run_tells_what_it_is(clip: Path, tmp_path: Path) -> None:
    """For people who find the folder."""
    with pytest.raises(Stopped):
        upscale_video(clip, tmp_path / "out.mp4", Stopping(), chunk=4)
    (file,) = (tmp_path / ".elevator/out.mp4").glob("*/run.json")
    told = json.loads(file.read_text())
    assert told["frames"] == 9
    assert told["settings"]["upscaler"]["method"] == "drifting"
