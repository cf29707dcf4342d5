"""What the benchmarks share: the command line, measures of world clips, results as JSON.

The world's scenes are known exactly, so a clip can be judged by plain arithmetic: most of a frame
is background, and the object is what differs from it most.
"""

import argparse
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import elevator
from elevator import metrics, world

__all__ = ["RESULTS", "arguments", "measure", "save", "table"]

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("diffusers", "transformers", "numpy", "scipy", "opencv-python-headless")
"""What numbers depend on besides, with the versions saved beside them."""


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
        "commit": _commit(),
        "torch": torch.__version__,
        **{name: version(name) for name in PACKAGES if next(iter(distributions(name=name)), None)},
        "python": platform.python_version(),
        "machine": f"{_processor()}, {torch.get_num_threads()} threads",
        **facts,
        "rows": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(_finite(record), indent=1) + "\n")


def _commit() -> str:
    """The commit that was checked out, marked where files differ from it; empty without git."""
    told = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(told, cwd=RESULTS, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _processor() -> str:
    """The processor's name, or at least its kind."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


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
        frames. `heading`: 1 where the object goes the way the caption says, else 0. `jitter`: RMS
        second difference of the object's position, in pixels. `change`: mean absolute difference of
        neighbouring frames along the object's way. `colour_error`: distance between the object's
        mean colour and the one named.
    """
    found: dict[str, list[float]] = {
        name: [] for name in ("sharpness", "flicker", "heading", "jitter", "change", "colour_error")
    }
    for clip, scene in zip(clips, scenes, strict=True):
        weight, path = metrics.object_weights(clip), metrics.centres(clip)
        colour = (clip * weight[:, None]).sum((0, 2, 3)) / weight.sum().clamp_min(1e-6)
        named = torch.tensor(world.COLOURS[scene.colour])
        found["sharpness"].append(float(metrics.sharpness(clip).mean()))
        found["flicker"].append(float((clip[1:] - clip[:-1]).abs().mean()))
        found["heading"].append(float(metrics.heading(path) == scene.motion))
        found["jitter"].append(metrics.jitter(path))
        found["change"].append(metrics.appearance_change(clip))
        found["colour_error"].append(float((colour - named).square().sum().sqrt()))
    return {name: np.array(values) for name, values in found.items()}


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Rows by name, columns by measure."""
    columns = {name: max(12, len(name) + 2) for name in next(iter(rows.values()))}
    wide = max(26, *(len(name) + 1 for name in rows))
    lines = [" " * wide + "".join(f"{name:>{width}}" for name, width in columns.items())]
    for name, row in rows.items():
        cells = (f"{row[column]:>{width}.4g}" for column, width in columns.items())
        lines.append(f"{name:<{wide}}" + "".join(cells))
    return "\n".join(lines)
