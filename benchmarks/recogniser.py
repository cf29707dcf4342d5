"""How often the recogniser reads each word as told, per look, on held-out clips."""

import torch

from benchmarks._measure import arguments, save, table
from elevator import world, zoo
from elevator.zoo.recogniser import shares, words

LOOKS = {
    "crisp": (lambda clips: clips, "crisp"),
    "degraded": (lambda clips: world.degrade(world.lamp(clips)), "degraded"),
    "mildly degraded": (lambda clips: world.degrade(world.lamp(clips), world.MILD), "degraded"),
    "ink": (world.ink, "ink"),
    "mosaic": (world.mosaic, "mosaic"),
}
"""What is done to the clips, and what their look is called."""
CHUNK = 32


def main() -> None:
    """Measure, print and save."""
    options = arguments(__doc__ or "")
    torch.set_grad_enabled(False)
    count = options.prompts or (4 if options.tiny else 512)
    judge, scenes = zoo.load_recogniser(), world.draw(count, seed=options.seed, split="held-out")
    rows = {}
    for name, (look, known_as) in LOOKS.items():
        right: dict[str, list[float]] = {}
        for first in range(0, count, CHUNK):
            part = scenes[first : first + CHUNK]
            reading = judge(look(world.render(part, seed=options.seed + first)))
            for kind, values in shares(reading, part).items():
                right.setdefault(kind, []).extend(values.tolist())
            told = [float(word["look"] == known_as) for word in words(reading)]
            right.setdefault("look", []).extend(told)
        rows[name] = {kind: sum(values) / count for kind, values in right.items()}
    print(table(rows))
    if not options.tiny:
        command = f"python -m benchmarks.recogniser --prompts {count} --seed {options.seed}"
        save("recogniser", rows, command=command)


if __name__ == "__main__":
    main()
