"""How many frames a second the procedural world draws, alone and with what wears them down.

Every way makes the same clips of eight 64x64 frames, in batches; the fastest of a few rounds
counts, since whatever else the machine does only makes one slower.
"""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks._measure import arguments, save, table
from elevator import world

FRAMES, BATCH, ROUNDS = 8, 32, 5
WAYS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "drawn": lambda clips: clips,
    "and degraded": lambda clips: world.degrade(world.lamp(clips)),
    "and marked": world.watermark,
    "and in low resolution": lambda clips: world.low_resolution(clips, seed=0),
}
"""What is done to clips, by name."""
SCENES: Mapping[str, Callable[[int, int], list[world.Scene]]] = {
    "straight": lambda count, seed: world.draw(count, seed=seed),
    "turning, circling, growing": lambda count, seed: world.draw(
        count, seed=seed, motions=world.ACTIONS
    ),
    "one behind another": lambda count, seed: world.draw(count, seed=seed, pairs=True),
}
"""How scenes are drawn, by name."""


def main() -> None:
    """Measure, print and save."""
    options = arguments(__doc__ or "")
    batch, rounds = (2, 1) if options.tiny else (BATCH, ROUNDS)
    rows = {
        name: {
            way: max(_rate(draw(batch, options.seed), wear, options.seed) for _ in range(rounds))
            for way, wear in WAYS.items()
        }
        for name, draw in SCENES.items()
    }
    print("frames a second")
    print(table(rows))
    if not options.tiny:
        save("drawing", rows, command=f"python -m benchmarks.drawing --seed {options.seed}")


def _rate(scenes: list[world.Scene], wear: Callable[[Tensor], Tensor], seed: int) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        wear(world.render(scenes, frames=FRAMES, seed=seed))
    return len(scenes) * FRAMES / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
