"""What is claimed of VideoElevator, in numbers, and whether it holds."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks._rows import Interval, Judge, Rows, bootstrap, cut, difference

__all__ = ["Claim", "claims", "relative_distance", "told"]

DRAWS = 200
"""Bootstrap draws of a Fréchet distance, which takes a while."""
DEFECTS = ("jitter", "change")
KINDS = ("colour", "shape", "texture")


class Claim(NamedTuple):
    """A sentence, what would make it true, what was found, and whether it holds."""

    sentence: str
    target: str
    found: Interval
    holds: bool


def told(claim: Claim) -> str:
    """A line with the verdict, the sentence, what would make it true and what was found."""
    found = claim.found
    interval = f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
    return f"{'yes' if claim.holds else 'NO':<5}{claim.sentence:<52}{claim.target:<20}{interval}"


def claims(rows: Mapping[str, Rows], judge: Judge) -> Iterator[Claim]:
    """All claims on the arrangements in `rows`."""
    ours, video, truth = (rows[name] for name in ("VideoElevator", "T2V", "truth"))
    moves = _of(video, "motion")
    yield Claim("T2V moves as told", "at least 0.85", moves, moves["value"] >= 0.85)
    kept = difference(ours, video, "motion")
    yield Claim("VideoElevator keeps that", "bound above -0.05", kept, kept["low"] >= -0.05)
    for name in DEFECTS:
        found, twice = _ratio(ours, video, name), _ratio(ours, truth, name)
        holds = found["value"] <= 1.1 or twice["value"] <= 2
        yield Claim(f"{name} as the T2V's", "ratio at most 1.1", found, holds)
        yield Claim(f"{name} as the truth's", "or ratio at most 2", twice, holds)
    for name in KINDS:
        better = difference(ours, video, name)
        yield Claim(f"{name} right more often than T2V", "above 0", better, better["low"] > 0)
    nearer = relative_distance(judge, ours, video)
    yield Claim("nearer to crisp stills than T2V", "at most -0.3", nearer, nearer["value"] <= -0.3)
    sharp = _ratio(ours, truth, "sharpness")
    yield Claim("sharpness of the truth", "ratio 0.8 to 1.2", sharp, 0.8 <= sharp["value"] <= 1.2)
    yield from _against_rivals(rows, judge)
    yield from _other_models(rows, judge)


def _against_rivals(rows: Mapping[str, Rows], judge: Judge) -> Iterator[Claim]:
    for rival in ("T2I frame by frame", "T2V + unsharp mask", "T2V + inflated image-to-image"):
        if rival not in rows:
            continue
        theirs = rows[rival]
        ours = cut(rows["VideoElevator"], slice(len(theirs["words"])))
        far = relative_distance(judge, ours, theirs)
        yield Claim(f"nearer to crisp stills than {rival}", "below 0", far, far["high"] < 0)
        for name, better in (("words", 1), ("motion", 1), ("jitter", -1), ("change", -1)):
            found = difference(ours, theirs, name)
            holds = found["low"] > 0 if better > 0 else found["high"] < 0
            target = "above 0" if better > 0 else "below 0"
            yield Claim(f"{name} against {rival}", target, found, holds)


def _other_models(rows: Mapping[str, Rows], judge: Judge) -> Iterator[Claim]:
    if "mild T2V" in rows:
        ours, video = rows["VideoElevator, mild T2V"], rows["mild T2V"]
        far = relative_distance(judge, ours, video)
        yield Claim("nearer than the mild T2V", "at most -0.3", far, far["value"] <= -0.3)
        kept = difference(ours, video, "motion")
        yield Claim("keeps its motion", "bound above -0.05", kept, kept["low"] >= -0.05)
    for style in ("ink", "mosaic"):
        if f"VideoElevator in {style}" in rows:
            styled = rows[f"VideoElevator in {style}"]
            there = _of(styled, style)
            yield Claim(f"looks like {style}", "at least 0.9", there, there["value"] >= 0.9)
            kept = difference(styled, rows["T2V"], "motion")
            yield Claim(f"keeps motion in {style}", "bound above -0.05", kept, kept["low"] >= -0.05)


def relative_distance(judge: Judge, ours: Rows, theirs: Rows) -> Interval:
    """How much farther our frames are from crisp stills, as a part of theirs; by clip."""
    count = min(len(ours["features"]), len(theirs["features"]))

    def relative(chosen: Any) -> float:
        return judge.distance(cut(ours, chosen)) / judge.distance(cut(theirs, chosen)) - 1

    return bootstrap(relative, count, draws=DRAWS)


def _of(rows: Rows, name: str) -> Interval:
    values = rows[name]
    return bootstrap(lambda chosen: float(values[chosen].mean()), len(values))


def _ratio(ours: Rows, theirs: Rows, name: str) -> Interval:
    """Ratio of the means, over the same captions."""
    a, b = ours[name], theirs[name]
    ratio: Callable[[Any], float] = lambda chosen: float(a[chosen].mean() / b[chosen].mean())  # noqa: E731
    return bootstrap(ratio, len(a))
