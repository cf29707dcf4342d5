"""What the benchmarks share: the command line, measures of world clips, results as JSON.

The world's scenes are known exactly, so a clip can be judged by plain arithmetic: most of a frame
is background, and the object is what differs from it most.
"""

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

import elevator
from elevator import world

__all__ = ["arguments", "interval", "measure", "save", "table"]

RESULTS = Path(__file__).parent / "results"


def arguments(question: str) -> argparse.Namespace:
    """`--tiny` for a run of seconds that only shows the benchmark works; `--prompts`, `--seed`."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI")
    parser.add_argument("--prompts", type=int, default=None, help="how many captions")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def save(name: str, rows: Any, **facts: Any) -> None:
    """Write `results/NAME.json` with the machine and the versions beside the numbers."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "elevator": elevator.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        **facts,
        "rows": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def measure(
    clips: Float[Tensor, "b f c h w"], scenes: Sequence[world.Scene]
) -> dict[str, Float[np.ndarray[Any, Any], " b"]]:
    """Measures per clip, values in [0, 1] in.

    Returns:
        `sharpness`: mean absolute Laplacian. `flicker`: mean absolute difference of neighbouring
        frames. `motion`: 1 where the object goes the way the caption says, else 0. `jitter`: RMS
        second difference of the object's position, in pixels. `colour`: distance between the
        object's mean colour and the one named.
    """
    found: dict[str, list[float]] = {
        name: [] for name in ("sharpness", "flicker", "motion", "jitter", "colour")
    }
    for clip, scene in zip(clips, scenes, strict=True):
        grey = clip.mean(1)
        laplacian = (
            4 * grey[:, 1:-1, 1:-1]
            - grey[:, :-2, 1:-1]
            - grey[:, 2:, 1:-1]
            - grey[:, 1:-1, :-2]
            - grey[:, 1:-1, 2:]
        )
        found["sharpness"].append(float(laplacian.abs().mean()))
        found["flicker"].append(float((clip[1:] - clip[:-1]).abs().mean()))
        weight = _object(clip)
        centre = _centre(weight)
        found["motion"].append(float(_heading(centre) == scene.motion))
        found["jitter"].append(
            float((centre[2:] - 2 * centre[1:-1] + centre[:-2]).square().mean() ** 0.5)
        )
        colour = (clip * weight[:, None]).sum((0, 2, 3)) / weight.sum().clamp_min(1e-6)
        named = torch.tensor(world.COLOURS[scene.colour])
        found["colour"].append(float((colour - named).square().sum().sqrt()))
    return {name: np.array(values) for name, values in found.items()}


def _object(clip: Float[Tensor, "f c h w"]) -> Float[Tensor, "f h w"]:
    """Weights that single out the object.

    It is the tenth of a frame that differs most from the median colour of the clip, after a blur
    that hides the joints of the background.
    """
    behind = clip.transpose(0, 1).flatten(1).median(1).values[None, :, None, None]
    away = (clip - behind).square().sum(1, keepdim=True).sqrt()
    away = avg_pool2d(away, 5, stride=1, padding=2)[:, 0]
    return (away - away.flatten(1).quantile(0.9, dim=1)[:, None, None]).clamp_min(0)


def _centre(weight: Float[Tensor, "f h w"]) -> Float[Tensor, "f 2"]:
    total = weight.sum((1, 2)).clamp_min(1e-6)
    x = (weight.sum(1) * torch.arange(weight.shape[2])).sum(1) / total
    y = (weight.sum(2) * torch.arange(weight.shape[1])).sum(1) / total
    return torch.stack([x, y], 1)


def _heading(centre: Float[Tensor, "f 2"]) -> str:
    """The motion whose direction the object's path takes; under half a pixel a frame is none."""
    times = torch.arange(len(centre), dtype=torch.float32)
    times = times - times.mean()
    slope = (times[:, None] * centre).sum(0) / times.square().sum()
    if float(slope.norm()) < 0.5:
        return "standing still"
    named = {word: torch.tensor(way, dtype=torch.float32) for word, way in world.MOTIONS.items()}
    return max(named, key=lambda word: float(slope @ named[word]))


def interval(
    values: Float[np.ndarray[Any, Any], " b"], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (draws, len(values))).mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Rows by name, columns by measure."""
    columns = list(next(iter(rows.values())))
    lines = [f"{'':<26}" + "".join(f"{name:>12}" for name in columns)]
    for name, row in rows.items():
        lines.append(f"{name:<26}" + "".join(f"{row[column]:>12.4g}" for column in columns))
    return "\n".join(lines)
