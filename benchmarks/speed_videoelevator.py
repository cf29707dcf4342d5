"""What VideoElevator costs: the published arrangement, the exact recipe and `fast`, side by side.

Network calls are counted, wall times taken in turns in one run, on the same weights and numbers.
The quality of `fast` against the exact recipe is measured on the clips that
`benchmarks.quality_videoelevator` keeps; that the exact recipe makes the published arrangement's
latents is what `tests/parity` checks.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks._arrangements import INVERSIONS, INVERTED, Models
from benchmarks._claims import Claim, relative_distance, told
from benchmarks._measure import save, table
from benchmarks._rows import Interval, Judge, Kept, difference
from elevator import world
from elevator.zoo.sampling import elevate, pair
from tests.reference.videoelevator_loop import record

PUBLISHED = {"zeroscope": 7248, "lavie": 5600, "animatelcm": 2800}
"""T2I frame-forwards of the method's published arrangement with its example settings."""
ARRANGEMENTS = {"exact": False, "fast": True}
COMPARED = ("motion", "words", "jitter", "change", "sharpness")


def main() -> None:
    """Count, time, compare, print and save."""
    options = _arguments()
    torch.set_grad_enabled(False)
    pipe = pair()
    times, calls = _times(pipe, 1 if options.tiny else options.repeats, 4 if options.tiny else None)
    costs = _costs(pipe, PUBLISHED if options.tiny else PUBLISHED | {"world-inverted": calls})
    print(table(costs))
    print(f"\nseconds per clip of the built-in models, {torch.get_num_threads()} threads")
    print(table(times))
    if options.tiny:
        return
    means, differences = _quality(Kept(options.kept, Models(), options.seed), options.prompts)
    print(f"\nquality, {options.prompts} captions\n{table(means)}")
    print("\nfast minus exact, paired, 95 % interval")
    print(table(differences))
    judged = list(_claims(costs, differences))
    print("\n".join(map(told, judged)))
    command = f"python -m benchmarks.speed_videoelevator --prompts {options.prompts}"
    save(
        "speed_videoelevator",
        costs,
        seconds=times,
        quality=means,
        fast_minus_exact=differences,
        claims=[claim._asdict() for claim in judged],
        command=f"{command} --seed {options.seed}",
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI")
    parser.add_argument("--prompts", type=int, default=64, help="how many captions")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path(".kept"), help="folder of clips")
    return parser.parse_args()


def _costs(pipe: Any, counted: dict[str, int]) -> dict[str, dict[str, float]]:
    """T2I frame-forwards per preset and arrangement; elevator's are planned, not run."""
    rows = {}
    for name, published in counted.items():
        row: dict[str, float] = {"published": published}
        for arrangement, fast in ARRANGEMENTS.items():
            planned = pipe.plan("", preset=name, fast=fast)
            row[arrangement] = planned.frame_forwards() - planned.frame_forwards("T2V")
            row[f"{arrangement} / pub"] = row[arrangement] / published
        rows[name] = row
    return rows


def _times(pipe: Any, repeats: int, steps: int | None) -> tuple[dict[str, dict[str, float]], int]:
    """Median seconds of a clip, `world-inverted`, in turns, after one run that is not counted.

    The published loop starts from ready embeddings and leaves its latents undecoded, but notes
    what it computes; both are small beside the networks.

    Returns:
        Seconds, also as part of the published arrangement's, and its T2I frame-forwards.
    """
    count = steps or INVERTED.steps
    settings = {
        "kind": "zeroscope",
        "num_inference_steps": count,
        "video_length": INVERTED.frames,
        "stable_steps": list(INVERTED.refine_at(count)),
        "stable_num": 1 if steps else INVERTED.t2v_steps,
        "filter": {"method": "gaussian", "d_s": 100.0, "d_t": INVERTED.temporal},
        "alpha": INVERTED.shared_noise,
        "guidance_scale": INVERTED.guidance,
        "video_guidance_scale": INVERTED.video_guidance,
        "height": 32,
        "width": 32,
        "extra": {},
    }
    changes: dict[str, Any] = {"num_inference_steps": count, "t2v_steps": settings["stable_num"]}
    caption = world.draw(1, seed=0, split="held-out")[0].caption()
    calls = 0

    def published() -> None:
        nonlocal calls
        with tempfile.TemporaryDirectory() as folder:
            record(Path(folder) / "case", settings, pipe.t2i, pipe.t2v)
            trace = json.loads((Path(folder) / "case.json").read_text())["trace"]
        calls = sum(event["batch"] for event in trace if event["op"] == "t2i_unet")

    runs: dict[str, Callable[[], object]] = {"published": published}
    for name, fast in ARRANGEMENTS.items():
        runs[name] = partial(elevate, pipe, caption, 0, numbers=INVERTED, fast=fast, **changes)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                taken[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    times = {
        name: {"seconds": median, "/ published": median / medians["published"]}
        for name, median in medians.items()
    }
    return times, calls


def _quality(kept: Kept, count: int) -> tuple[dict[str, dict[str, float]], dict[str, Interval]]:
    """Of the exact recipe and of `fast`; and `fast` minus the exact recipe, relative for distances.

    That of the published arrangement is the exact recipe's, whose latents are the same.
    """
    judge, name = Judge(), "VideoElevator, inverted"
    exact, fast = (
        judge.rows(kept.clips(way, INVERSIONS[way], count), kept.scenes(count))
        for way in (name, f"{name} fast")
    )
    means = {
        way: {column: float(rows[column].mean()) for column in COMPARED}
        | {"distance": judge.distance(rows)}
        for way, rows in (("exact", exact), ("fast", fast))
    }
    found = {column: difference(fast, exact, column) for column in COMPARED}
    found["distance, relative"] = relative_distance(judge, fast, exact)
    return means, found


def _claims(
    costs: Mapping[str, Mapping[str, float]], differences: Mapping[str, Interval]
) -> Iterator[Claim]:
    """What the exact recipe and `fast` are to save, and what `fast` may cost."""
    for arrangement, most in (("exact", 0.87), ("fast", 0.5)):
        parts = [row[f"{arrangement} / pub"] for row in costs.values()]
        span = {"low": min(parts), "value": max(parts), "high": max(parts)}
        sentence = f"{arrangement}: frame-forwards as a part of the published"
        yield Claim(sentence, f"at most {most}", span, max(parts) <= most)
    for column in ("motion", "words"):
        found = differences[column]
        yield Claim(f"fast: {column}", "bound above -0.02", found, found["low"] >= -0.02)
    far = differences["distance, relative"]
    yield Claim("fast: distance, relative", "bound below +0.05", far, far["high"] <= 0.05)


if __name__ == "__main__":
    main()
