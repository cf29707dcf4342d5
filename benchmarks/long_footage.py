"""Memory does not grow with a clip's length, and sound stays where it was.

Clips of 160x90 pixels and 24 frames a second, leaves that drift to and fro under a continuous tone,
are made four times as large by `elevator upscale` in a process of its own: one of two minutes by
regression, those of five and ten seconds by diffusion in two steps. Told are the peak of the
process's memory, its processor time, and whether every frame has the time and every packet of sound
the time and the bytes that it had. Whatever is not so ends the run with an error.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from benchmarks._measure import save, table
from elevator import world

WIDTH, HEIGHT, RATE = 160, 90, 24
SCALE = 4
DRAWN = 48
"""Frames that are drawn; longer clips show them to and fro."""
PITCH, SAMPLES = 440, 48_000
"""Of the tone, in hertz, and of its sampling."""
ALLOWED = 0.05
"""Part by which the peak memory of two lengths may differ."""


class Run(NamedTuple):
    """An upscaling.

    Attributes:
        seconds: of the clip.
        method: and further words of the command line.
    """

    seconds: float
    method: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.method[0]}, {self.seconds:g} s"


DIFFUSION = ("diffusion", "--steps", "2")
RUNS = (Run(5, DIFFUSION), Run(10, DIFFUSION), Run(120, ("regression",)))
TINY = (Run(0.25, ("regression",)), Run(0.5, ("regression",)))


def main() -> None:
    """Make the clips larger, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI")
    parser.add_argument("--threads", type=int, default=1, help="of the processes (default: 1)")
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for run in TINY if options.tiny else RUNS:
            source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
            _film(source, round(run.seconds * RATE))
            rows[run.name], problems = _upscaled(run, source, target, options.threads)
            wrong += problems
            print(table({run.name: rows[run.name]}), flush=True)
    peaks = [row["peak MiB"] for name, row in rows.items() if name.startswith("diffusion")]
    if peaks and max(peaks) > (1 + ALLOWED) * min(peaks):
        wrong.append(f"peak memory of diffusion grows with the length: {peaks} MiB")
    if wrong:
        raise SystemExit("\n".join(wrong))
    if not options.tiny:
        command = f"python -m benchmarks.long_footage --threads {options.threads}"
        save("long_footage", rows, command=command, size=[WIDTH, HEIGHT], scale=SCALE)


def _film(file: Path, frames: int) -> None:
    """A clip with a tone."""
    drawn = world.leaves(1, frames=DRAWN, size=(HEIGHT, WIDTH), seed=1)[0]
    pixels = (drawn * 255).round().byte().permute(1, 2, 3, 0).numpy()
    each = SAMPLES // RATE
    with av.open(str(file), "w") as container:
        picture = container.add_stream("libx264", rate=RATE, options={"crf": "18"})
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLES)
        for index in range(frames):
            place = index % (2 * DRAWN - 2)
            shown = pixels[min(place, 2 * DRAWN - 2 - place)]
            container.mux(picture.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            times = np.arange(index * each, (index + 1) * each) / SAMPLES
            wave = (0.2 * np.sin(2 * np.pi * PITCH * times)).astype(np.float32)
            tone = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = SAMPLES, index * each, Fraction(1, SAMPLES)
            container.mux(sound.encode(tone))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))


def _upscaled(
    run: Run, source: Path, target: Path, threads: int
) -> tuple[dict[str, float], Sequence[str]]:
    """What a run took, and what is not as it was."""
    words = ("upscale", str(source), "-o", str(target), "--quiet", "--scale", str(SCALE))
    told = [sys.executable, "-m", "elevator", *words, "--method", *run.method]
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    child = os.posix_spawn(sys.executable, told, surroundings)
    # A process's peak is never told to be below that of the one that started it, here some 500 MiB.
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{run.name}: {' '.join(told)} ended with {status}")
    before, after = _times(source), _times(target)
    heard = _packets(source)
    same_sound = heard == _packets(target)
    problems = []
    if before != after:
        problems.append(f"{run.name}: the times of {len(before)} frames have become {len(after)}")
    if not same_sound:
        problems.append(f"{run.name}: the sound's packets have moved")
    row = {
        "frames": float(len(after)),
        "packets": float(len(heard)),
        "CPU s": used.ru_utime + used.ru_stime,
        "peak MiB": used.ru_maxrss / 1024,
    }
    target.unlink()
    return row, problems


def _times(file: Path) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    with av.open(str(file)) as container:
        return [
            Fraction(frame.pts or 0) * (frame.time_base or 1) for frame in container.decode(video=0)
        ]


def _packets(file: Path) -> list[tuple[Fraction, bytes]]:
    """The sound's packets, and when each is heard, in seconds."""
    with av.open(str(file)) as container:
        return [
            (Fraction(packet.pts or 0) * packet.time_base, bytes(packet))
            for packet in container.demux(audio=0)
            if packet.size
        ]


if __name__ == "__main__":
    main()
