"""What Upscale-A-Video costs: the published arrangement and ours side by side, and few steps.

Network calls are counted and wall times taken in turns, in one run, on the same weights, clips and
noise. Ours should need no more calls for any length, and fewer where published windows come twice,
with results as good. Beside it: the same pipeline with DPM-Solver++ (Lu et al. 2022, arXiv
2211.01095), multistep, in fewer steps than the DDIM of the paper, and what the attention in the
middle of the published autoencoder takes of memory, on paper.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from jaxtyping import Float
from torch import Tensor

from benchmarks._measure import save, table
from benchmarks._rows import Interval, Rows, difference
from benchmarks._upscaling import NUMBERS, Judge, Trial, Upscalers, conversed
from elevator import metrics
from elevator.filters import DIS, Flow
from elevator.models.video_vae import SCORES

LENGTHS = (8, 13, 14, 20, 32)
ARRANGEMENTS = ("published", "smooth")
SAMPLERS: dict[str, tuple[Any, int]] = {
    "DDIM, 30 steps": (DDIMScheduler, 30),
    "DDIM, 10 steps": (DDIMScheduler, 10),
    "DDIM, 5 steps": (DDIMScheduler, 5),
    "DPM-Solver++, 10 steps": (DPMSolverMultistepScheduler, 10),
    "DPM-Solver++, 5 steps": (DPMSolverMultistepScheduler, 5),
}
COMPARED = ("PSNR", "SSIM", "distance", "warping", "sharpness")
SIDES, CHANNELS, FRAMES = (128, 256, 320), 512, 3
"""Sides of a low-resolution tile in pixels, the last the published one with its margin; channels of
the published autoencoder's middle, and frames it decodes at once."""


def main() -> None:
    """Count, time, compare, print and save."""
    options = _arguments()
    torch.set_grad_enabled(False)
    models = Upscalers()
    size, lengths = (64, (3, 9)) if options.tiny else (128, LENGTHS)
    arrangements = _arrangements(models, lengths, size, options)
    print(
        "network calls of a clip, seconds, and of them those of the processor; PSNR in dB against"
    )
    print("the truth and between the two;")
    print(f"warping in thousandths; {size // 4} -> {size} pixels, {_steps(options)} steps")
    print(table(arrangements))
    print("\nGiB of the attention in the middle of the published autoencoder, three frames:")
    print("of its scores as a matrix, and of all that ours holds")
    print(table(_memory()))
    samplers, fewer = _samplers(models, options)
    print(f"\nsamplers, {options.clips} clips; seconds of CPU of a clip\n{table(samplers)}")
    if options.tiny:
        return
    save(
        "speed_upscale",
        arrangements,
        command=f"python -m benchmarks.speed_upscale --clips {options.clips} "
        f"--repeats {options.repeats} --seed {options.seed}",
        inputs=Trial(options.seed).fingerprint(options.clips),
        samplers=samplers,
        less_ddim_10=fewer,
        attention_gib=_memory(),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI")
    parser.add_argument("--clips", type=int, default=16, help="clips for the samplers")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is timed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.tiny:
        options.clips, options.repeats = 2, 1
    return options


def _steps(options: argparse.Namespace) -> int:
    return 1 if options.tiny else NUMBERS.steps


@dataclass
class Counted:
    """Calls of the networks, and frames in them."""

    unet: int = 0
    unet_frames: int = 0
    text: int = 0
    decodes: int = 0
    decoded_frames: int = 0
    flow: int = 0

    def __call__(self, frames: Float[Tensor, "b 3 f h w"]) -> Flow:
        """DIS, which counts itself."""
        self.flow += 1
        return DIS()(frames)


@contextmanager
def counted(pipe: Any) -> Iterator[Counted]:
    """Count a pipeline's calls; the value is the estimator of flow to give it."""
    calls = Counted()

    def unet(network: Any, given: tuple[Tensor, ...]) -> None:
        calls.unet += 1
        calls.unet_frames += given[0].shape[0] * given[0].shape[2]

    def text(network: Any, given: tuple[Tensor, ...]) -> None:
        calls.text += 1

    def decoder(network: Any, given: tuple[Tensor, ...]) -> None:
        calls.decodes += 1
        calls.decoded_frames += given[0].shape[0] * given[0].shape[2]

    parts = ((pipe.unet, unet), (pipe.text_encoder, text), (pipe.vae.decoder, decoder))
    handles = [network.register_forward_pre_hook(count) for network, count in parts]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _arrangements(
    models: Upscalers, lengths: tuple[int, ...], size: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Calls, median seconds and quality of both arrangements by length, on one clip of leaves."""
    judge, steps, rows = Judge(), _steps(options), dict[str, dict[str, float]]()
    for length in lengths:
        sample = Trial(options.seed, length, size).sample(1)
        taken: dict[str, list[float]] = {name: [] for name in ARRANGEMENTS}
        busy: dict[str, list[float]] = {name: [] for name in ARRANGEMENTS}
        made, calls = dict[str, Tensor](), dict[str, Counted]()
        for _ in range(options.repeats):
            for name in ARRANGEMENTS:
                with counted(models.pipe) as calls[name]:
                    started, worked = time.perf_counter(), time.process_time()
                    made[name] = conversed(
                        models,
                        sample,
                        options.seed,
                        arrangement=name,
                        num_inference_steps=steps,
                        flow=calls[name],
                    )
                    taken[name].append(time.perf_counter() - started)
                    busy[name].append(time.process_time() - worked)
        between = metrics.psnr(*made.values())
        for name in ARRANGEMENTS:
            judged = judge.rows([made[name]], [sample])
            rows[f"{length} frames, {name}"] = {
                "U-Net calls": calls[name].unet,
                "its frames": calls[name].unet_frames,
                "text": calls[name].text,
                "decodes": calls[name].decodes,
                "its frames ": calls[name].decoded_frames,
                "flow": calls[name].flow,
                "seconds": statistics.median(taken[name]),
                "of CPU": statistics.median(busy[name]),
                "between": between,
                **{measure: float(judged[measure][0]) for measure in ("PSNR", "SSIM", "warping")},
            }
    return rows


def _samplers(
    models: Upscalers, options: argparse.Namespace
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Interval]]]:
    """Quality and seconds of samplers; and the quality less that of DDIM in ten steps, paired."""
    trial = Trial(options.seed, 3, 64) if options.tiny else Trial(options.seed)
    samples = [trial.sample(number) for number in range(options.clips)]
    pipe, judge = models.pipe, Judge()
    own, rows, seconds = pipe.scheduler, dict[str, Rows](), dict[str, float]()
    try:
        for name, (kind, steps) in SAMPLERS.items():
            pipe.scheduler = kind.from_config(own.config)
            taken, clips = [], []
            for number, sample in enumerate(samples):
                started = time.process_time()
                seed = options.seed + number
                few = min(steps, 2) if options.tiny else steps
                clips.append(conversed(models, sample, seed, num_inference_steps=few))
                taken.append(time.process_time() - started)
            rows[name], seconds[name] = judge.rows(clips, samples), statistics.median(taken)
    finally:
        pipe.scheduler = own
    means = {
        name: {"seconds": seconds[name]} | {m: float(row[m].mean()) for m in COMPARED}
        for name, row in rows.items()
    }
    base = rows["DDIM, 10 steps"]
    fewer = {name: {m: difference(row, base, m) for m in COMPARED} for name, row in rows.items()}
    return means, fewer


def _memory() -> dict[str, dict[str, float]]:
    """What the attention's scores take as a matrix, and all that ours holds, in GiB of float32.

    The scores of n pixels of f frames are 4 f n^2 bytes. Ours holds four arrays of n
    tokens, three times `SCORES` and the result of all frames; `tests/models/test_video_vae.py`
    measures that at a smaller size.
    """
    rows = {}
    for side in SIDES:
        pixels = side * side
        tokens = 4 * pixels * CHANNELS
        rows[f"{side}x{side} pixels"] = {
            "matrix": 4 * FRAMES * pixels**2 / 2**30,
            "ours": (4 * tokens + 3 * SCORES + FRAMES * tokens) / 2**30,
        }
    return rows


if __name__ == "__main__":
    main()
