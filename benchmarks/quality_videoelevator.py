"""Do the claims of VideoElevator hold on the built-in models?

Every arrangement makes one clip per held-out caption, all from the same seeds; the recogniser and
`elevator.metrics` judge them. Clips are kept in `--kept`, so that a killed run goes on where it was
and a new arrangement costs only its own clips; `--make 0/2` and `--make 1/2` share the sampling out
between two processes, and a run without it judges. The curve, by which defaults are chosen, has
captions and noise of its own.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks._arrangements import (
    ABLATIONS,
    CURVE,
    INVERSIONS,
    MAIN,
    MATCHED,
    OTHERS,
    PUBLISHED,
    RESTYLED,
    RIVALS,
    Models,
    Way,
)
from benchmarks._claims import claims, told
from benchmarks._kept import share
from benchmarks._measure import RESULTS, save, table
from benchmarks._rows import Judge, Kept, Rows, cut, difference
from elevator import world

MEANS = ("motion", "heading", "colour", "shape", "texture", "jitter", "change", "sharpness")
COMPARED = ("motion", "heading", "words", "jitter", "change", "sharpness")


class Group(NamedTuple):
    """Arrangements that are shown together.

    Attributes:
        ways: what is made.
        share: of the captions, part that is tried; clips take seconds each.
        beside: arrangements of groups before that are shown with them, over the same captions.
        less: what is subtracted from them, caption by caption.
        own: captions and noise that no other group has.
    """

    ways: Mapping[str, Way]
    share: float = 1.0
    beside: tuple[str, ...] = ("truth", "T2V", "VideoElevator")
    less: str = "VideoElevator"
    own: bool = False


GROUPS: Mapping[str, Group] = {
    "main": Group(MAIN, beside=()),
    "matched": Group(MATCHED, 1 / 8),
    "inverted": Group(INVERSIONS, 1 / 4),
    "rivals": Group(RIVALS, 1 / 4),
    "removed": Group(ABLATIONS, 1 / 16),
    "removed, inverted": Group(
        PUBLISHED,
        1 / 16,
        beside=("truth", "T2V", "VideoElevator, inverted"),
        less="VideoElevator, inverted",
    ),
    "other models": Group(OTHERS, 1 / 4),
    "restyled": Group(
        RESTYLED,
        1 / 8,
        beside=("T2V", "VideoElevator in ink", "VideoElevator in mosaic"),
        less="T2V",
    ),
    "curve": Group(CURVE, 1 / 32, beside=(), own=True),
}
FEWEST = 64
"""Captions of which every group has two of its own."""
MARKS = {
    "VideoElevator": "*",
    "refined": "o",
    "T2V steps": "v",
    "T2I": "s",
    "shared": "x",
    "detail": "D",
    "averaged": "^",
    "image": "p",
    "unsharp": "h",
}
"""How points of the curve are drawn, by words in their names."""
STYLES = {"ink": world.ink, "mosaic": world.mosaic}


def main() -> None:
    """Make what is missing; then judge, print and save."""
    options = _arguments()
    torch.set_grad_enabled(False)
    if not options.tiny:
        return _run(options, Models())
    with tempfile.TemporaryDirectory() as folder:
        options.kept = Path(folder)
        return _run(options, Models(steps=4))


def _run(options: argparse.Namespace, models: Models) -> None:
    counts = {name: _count(options, group) for name, group in GROUPS.items()}
    common = Kept(options.kept, models, options.seed)
    own = replace(
        common, seed=options.seed + 1000, without=frozenset(common.scenes(options.prompts))
    )
    keepers = {name: own if group.own else common for name, group in GROUPS.items()}
    for group in options.groups:
        for name, way in GROUPS[group].ways.items():
            keepers[group].make(name, way, counts[group], options.make or (0, 1))
            print(f"made: {group}, {name}", flush=True)
    if options.make is not None:
        return
    judge = Judge(count=64) if options.tiny else Judge()
    rows = {
        group: {
            name: judge.rows(
                keepers[group].clips(name, way, counts[group]), keepers[group].scenes(counts[group])
            )
            for name, way in GROUPS[group].ways.items()
        }
        for group in options.groups
    }
    everything: dict[str, Rows] = {}
    tables, differences = {}, {}
    for group, shown in rows.items():
        beside = {n: cut(everything[n], slice(counts[group])) for n in GROUPS[group].beside}
        tables[group] = {name: _summary(judge, row) for name, row in (beside | shown).items()}
        print(f"\n{group}: {counts[group]} captions\n{table(tables[group])}")
        base = (beside | shown)[GROUPS[group].less]
        differences[group] = {
            name: {column: difference(row, base, column) for column in COMPARED}
            for name, row in shown.items()
            if name != GROUPS[group].less
        }
        if not GROUPS[group].own:
            everything |= shown
    styles = _style_distances(judge, rows)
    print(f"\nFréchet distance to stills in a style\n{table(styles)}")
    judged = list(claims(everything, judge))
    print("\nclaims, with 95 % intervals over captions")
    print("\n".join(map(told, judged)))
    if options.tiny:
        return _draw(tables["curve"], options.kept / "curve.png")
    _draw(tables["curve"], RESULTS / "curve.png")
    save(
        "quality_videoelevator",
        tables,
        command=f"python -m benchmarks.quality_videoelevator --prompts {options.prompts} "
        f"--seed {options.seed}",
        captions=counts,
        claims=[claim._asdict() for claim in judged],
        differences=differences,
        distance_to_style=styles,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI")
    parser.add_argument(
        "--prompts", type=int, default=256, help=f"how many captions ({FEWEST} or more)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path(".kept"), help="folder for clips")
    parser.add_argument("--make", type=share, help="I/N: make each Nth clip from the Ith, no more")
    parser.add_argument(
        "--groups", nargs="+", choices=GROUPS, default=[*GROUPS], help="with --make: only these"
    )
    options = parser.parse_args()
    if options.make is None and options.groups != [*GROUPS]:
        parser.error("--groups goes with --make; what is judged is judged as a whole")
    if options.tiny:
        options.prompts = 2
    elif options.prompts < FEWEST:
        parser.error(
            f"--prompts {options.prompts} is too few to compare parts; give {FEWEST} or more"
        )
    return options


def _count(options: argparse.Namespace, group: Group) -> int:
    return max(2, round(group.share * options.prompts))


def _summary(judge: Judge, rows: Rows) -> dict[str, float]:
    means = {name: float(rows[name].mean()) for name in MEANS}
    distances = {"Fréchet": judge.distance(rows), "kernel": judge.kernel_distance(rows)}
    return means | {style: float(rows[style].mean()) for style in STYLES} | distances


def _style_distances(
    judge: Judge, rows: Mapping[str, Mapping[str, Rows]]
) -> dict[str, dict[str, float]]:
    """How far clips are from stills in a style: the truth, the T2I alone, and what is elevated."""
    styled = rows["other models"]
    plain = cut(rows["main"]["VideoElevator"], slice(len(styled["truth in ink"]["words"])))
    return {
        style: {
            "truth": judge.distance(styled[f"truth in {style}"], look),
            "T2I alone": judge.distance(styled[f"{style} T2I frame by frame"], look),
            "elevated": judge.distance(styled[f"VideoElevator in {style}"], look),
            "plain": judge.distance(plain, look),
        }
        for style, look in STYLES.items()
    }


def _draw(rows: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Detail against steadiness, every arrangement a numbered point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, row) in enumerate(rows.items()):
        at = (row["change"], row["sharpness"])
        mark = next((mark for kind, mark in MARKS.items() if kind in name), "+")
        size = 14 if name == "VideoElevator" else 6
        axes.plot(*at, mark, markersize=size, label=f"{number}  {name}")
        axes.annotate(str(number), at, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.axhline(rows["truth"]["sharpness"], color="grey", linewidth=0.5)
    axes.set(
        xlabel="change along the object's way (less is steadier)",
        ylabel="sharpness (line: the truth's)",
    )
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
