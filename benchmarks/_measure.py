"""What the benchmarks share: the command line, measures of world clips, results as JSON.

The world's scenes are known exactly, so a clip can be judged by plain arithmetic: most of a frame
is background, and the object is what differs from it most.
"""

import argparse
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import elevator
from elevator import metrics, world

__all__ = ["RESULTS", "arguments", "interval", "measure", "save", "table"]

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
    (RESULTS / f"{name}.json").write_text(json.dumps(_finite(record), indent=1) + "\n")


def _finite(record: Any) -> Any:
    """The same without infinite numbers, for which JSON has no word; null stands for them."""
    if isinstance(record, Mapping):
        return {name: _finite(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return [_finite(value) for value in record]
    return None if isinstance(record, float) and not math.isfinite(record) else record


def measure(
    clips: Float[Tensor, "b f c h w"], scenes: Sequence[world.Scene]
) -> dict[str, Float[np.ndarray[Any, Any], " b"]]:
    """Measures per clip, values in [0, 1] in.

    Returns:
        `sharpness`: mean absolute Laplacian. `flicker`: mean absolute difference of neighbouring
        frames. `motion`: 1 where the object goes the way the caption says, else 0. `jitter`: RMS
        second difference of the object's position, in pixels. `change`: mean absolute difference of
        neighbouring frames along the object's way. `colour`: distance between the object's mean
        colour and the one named.
    """
    found: dict[str, list[float]] = {
        name: [] for name in ("sharpness", "flicker", "motion", "jitter", "change", "colour")
    }
    for clip, scene in zip(clips, scenes, strict=True):
        weight, path = metrics.object_weights(clip), metrics.centres(clip)
        colour = (clip * weight[:, None]).sum((0, 2, 3)) / weight.sum().clamp_min(1e-6)
        named = torch.tensor(world.COLOURS[scene.colour])
        found["sharpness"].append(float(metrics.sharpness(clip).mean()))
        found["flicker"].append(float((clip[1:] - clip[:-1]).abs().mean()))
        found["motion"].append(float(metrics.heading(path) == scene.motion))
        found["jitter"].append(metrics.jitter(path))
        found["change"].append(metrics.appearance_change(clip))
        found["colour"].append(float((colour - named).square().sum().sqrt()))
    return {name: np.array(values) for name, values in found.items()}


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
    wide = max(26, *(len(name) + 1 for name in rows))
    lines = [" " * wide + "".join(f"{name:>12}" for name in columns)]
    for name, row in rows.items():
        lines.append(f"{name:<{wide}}" + "".join(f"{row[column]:>12.4g}" for column in columns))
    return "\n".join(lines)
