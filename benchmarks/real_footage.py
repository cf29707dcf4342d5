"""Does a network trained on drawn leaves, noise and shapes restore real footage?

The first frames of every clip of a folder, reduced by four and made as large again: PSNR, SSIM and
sharpness (mean absolute Laplacian) against the clip itself, and the warping error along the motion
that DIS finds in it. Then the clips as they are, made four times as large: there is no truth, so
only sharpness is told. Bicubic interpolation is what everybody has; Lanczos and an unsharp mask is
the strongest cheap rival.

`--clips FOLDER` names the footage, which is not part of this repository; with `--tiny` a drawn clip
stands in for it. `--sheet FILE` shows the middle of the first and last frames, restored and as they
were.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks._measure import save, table
from elevator import metrics, world, zoo
from elevator.filters import DIS
from elevator.upscale import Bicubic, Lanczos, Regression, Upscaler
from elevator.video.clips import read_video
from elevator.video.io import write_image
from elevator.video.sheet import contact_sheet

SCALE, FRAMES, CROP = 4, 16, 60
"""How much larger, frames of each clip, and side of a shown crop in pixels of the small frame."""
ALLOWED = 0.3
"""dB of PSNR the default may lose against bicubic interpolation."""


def main() -> None:
    """Measure, print, draw and save."""
    options = _arguments()
    torch.set_grad_enabled(False)
    ways = _ways()
    restored: dict[str, dict[str, float]] = {}
    enlarged: dict[str, dict[str, float]] = {}
    crops: dict[str, list[NDArray[np.uint8]]] = {way: [] for way in ("reduced", *ways, "itself")}
    for name, clip in _clips(options):
        truth = clip[..., : clip.shape[2] // SCALE * SCALE, : clip.shape[3] // SCALE * SCALE]
        small = interpolate(truth, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
        flow = DIS()((truth * 2 - 1).transpose(0, 1)[None])
        crops["reduced"].append(_shown(interpolate(small, scale_factor=SCALE).clamp(0, 1)))
        crops["itself"].append(_shown(truth))
        for label, upscale in ways.items():
            large = upscale(small.clamp(0, 1), 0).clamp(0, 1)
            restored[f"{name}, {label}"] = {
                "PSNR": metrics.psnr(large, truth),
                "SSIM": metrics.ssim(large, truth),
                "sharpness": _sharpness(large) / _sharpness(truth),
                "warping": 1e3 * metrics.warping_error(large, flow),
            }
            crops[label].append(_shown(large))
            larger = upscale(_middle(clip[:1], CROP), 0).clamp(0, 1)
            enlarged[f"{name}, {label}"] = {"sharpness": _sharpness(larger)}
    means = {label: _mean(restored, label) for label in ways}
    lost = means["bicubic"]["PSNR"] - means["regression"]["PSNR"]
    print(f"reduced by {SCALE} and restored; sharpness as a part of the clip's own")
    print(table(restored))
    print(f"\nmean over clips\n{table(means)}")
    print(f"\nas they are, {SCALE} times as large\n{table(enlarged)}")
    print(
        f"\n{'yes' if lost <= ALLOWED else 'NO'}   the default loses no more than {ALLOWED} dB "
        f"against bicubic interpolation: {-lost:+.2f} dB"
    )
    if options.sheet is not None:
        strips = [(label, np.concatenate(frames)) for label, frames in crops.items()]
        write_image(contact_sheet(strips, f"reduced by {SCALE} and restored"), options.sheet)
    if not options.tiny:
        rows = {"restored": restored, "mean": means, "enlarged": enlarged}
        command = f"python -m benchmarks.real_footage --clips {options.clips.name}"
        save("real_footage", rows, frames=FRAMES, command=command)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI")
    parser.add_argument("--clips", type=Path, help="folder of videos")
    parser.add_argument("--sheet", type=Path, help="where to write the crops, a PNG")
    options = parser.parse_args()
    if not options.tiny and options.clips is None:
        parser.error("give --clips FOLDER with the footage, or --tiny for a drawn clip")
    return options


def _ways() -> Mapping[str, Upscaler]:
    return {
        "bicubic": Bicubic(SCALE),
        "Lanczos, sharpened": Lanczos(SCALE),
        "regression": Regression.load(zoo.path(f"upscale-x{SCALE}")),
    }


def _clips(options: argparse.Namespace) -> Iterator[tuple[str, Float[Tensor, "f 3 h w"]]]:
    """Names and frames in [0, 1]."""
    if options.tiny:
        yield "drawn", world.leaves(1, frames=2, size=64, seed=0)[0].transpose(0, 1)
        return
    for file in sorted(options.clips.glob("*.mp4")):
        pixels = read_video(file, FRAMES)
        yield file.stem, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _middle(frames: Float[Tensor, "f c h w"], side: int) -> Float[Tensor, "f c y x"]:
    """The middle of frames, a square."""
    top, left = ((length - side) // 2 for length in frames.shape[2:])
    return frames[..., max(0, top) : max(0, top) + side, max(0, left) : max(0, left) + side]


def _sharpness(frames: Float[Tensor, "f c h w"]) -> float:
    return float(metrics.sharpness(frames).mean())


def _shown(frames: Float[Tensor, "f c h w"]) -> NDArray[np.uint8]:
    """The middle of the first and the last frame, `f h w c`."""
    ends = _middle(frames[:: max(1, len(frames) - 1)], CROP * SCALE)
    return (ends * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _mean(rows: Mapping[str, Mapping[str, float]], label: str) -> dict[str, float]:
    """The means of one way over the clips."""
    of_way = [row for name, row in rows.items() if name.endswith(f", {label}")]
    return {measure: float(np.mean([row[measure] for row in of_way])) for measure in of_way[0]}


if __name__ == "__main__":
    main()
