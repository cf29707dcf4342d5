"""What is claimed of VideoElevator, in numbers, and whether it holds."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks._rows import Interval, Judge, Rows, bootstrap, cut, difference, jackknife

__all__ = ["Claim", "claims", "relative_distance", "told"]

DEFECTS = ("jitter", "change")
_INVERTED = "VideoElevator, inverted"
PARTS = (
    (_INVERTED, "inverted, without the T2V", "motion", 1),
    (_INVERTED, "inverted, without the T2V", "jitter", -1),
    (_INVERTED, "inverted, without the filter", "jitter", -1),
    (_INVERTED, "inverted, without the filter", "change", -1),
    ("inverted at the same points", "noise of every frame's own", "change", -1),
    (_INVERTED, "inverted, uncorrected", "change", -1),
    (_INVERTED, "inverted, uncorrected", "words", 1),
    (_INVERTED, "inverted, without inflation", "change", -1),
)
"""Arrangements, others that lack a part of theirs or have another in its place, and what that part
should make larger (1) or smaller (-1)."""
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
    return f"{'yes' if claim.holds else 'NO':<5}{claim.sentence:<74}{claim.target:<20}{interval}"


def claims(rows: Mapping[str, Rows], judge: Judge) -> Iterator[Claim]:
    """All claims on the arrangements in `rows`."""
    moves = _of(rows["T2V"], "motion")
    yield Claim("T2V moves as told", "at least 0.85", moves, moves["value"] >= 0.85)
    for name in ("VideoElevator", _INVERTED):
        yield from _core(name, rows, judge)
    yield from _parts(rows)
    yield from _against_rivals(rows, judge)
    yield from _other_models(rows, judge)


def _core(name: str, rows: Mapping[str, Rows], judge: Judge) -> Iterator[Claim]:
    """What is claimed of the method, of one arrangement of it."""
    ours, count = rows[name], len(rows[name]["words"])
    video, truth = (cut(rows[other], slice(count)) for other in ("T2V", "truth"))
    yield _kept(f"{name} keeps the T2V's motion", ours, video)
    yield _kept(f"{name} keeps the T2V's motion, by arithmetic", ours, video, "heading")
    for column in DEFECTS:
        found, twice = _ratio(ours, video, column), _ratio(ours, truth, column)
        holds = found["value"] <= 1.1
        yield Claim(f"{name}: {column}, part of the T2V's", "at most 1.1", found, holds)
        holds = holds or twice["value"] <= 2
        yield Claim(f"{name}: {column}, part of the truth's", "if not, at most 2", twice, holds)
    for column in KINDS:
        better = difference(ours, video, column)
        sentence = f"{name}: {column} right more often than the T2V's"
        yield Claim(sentence, "above 0", better, better["low"] > 0)
    yield _nearer(f"{name} nearer to crisp stills than the T2V", judge, ours, video)
    sharp = _ratio(ours, truth, "sharpness")
    sentence = f"{name}: sharpness, part of the truth's"
    yield Claim(sentence, "0.8 to 1.2", sharp, 0.8 <= sharp["value"] <= 1.2)


def _parts(rows: Mapping[str, Rows]) -> Iterator[Claim]:
    """What the published parts are for."""
    for name, without, column, better in PARTS:
        found = difference(rows[name], rows[without], column)
        yield _better(f"{name}: {column} against {without}", found, better)


def _against_rivals(rows: Mapping[str, Rows], judge: Judge) -> Iterator[Claim]:
    for rival in ("T2I frame by frame", "T2V + unsharp mask", "T2V + inflated image-to-image"):
        theirs = rows[rival]
        ours = cut(rows["VideoElevator"], slice(len(theirs["words"])))
        far = relative_distance(judge, ours, theirs)
        yield Claim(f"nearer to crisp stills than {rival}", "below 0", far, far["high"] < 0)
        for name, better in (("words", 1), ("motion", 1), ("jitter", -1), ("change", -1)):
            found = difference(ours, theirs, name)
            yield _better(f"{name} against {rival}", found, better)


def _kept(sentence: str, ours: Rows, theirs: Rows, column: str = "motion") -> Claim:
    """No more than five points of motion are lost."""
    found = difference(ours, theirs, column)
    return Claim(sentence, "bound above -0.05", found, found["low"] >= -0.05)


def _nearer(sentence: str, judge: Judge, ours: Rows, theirs: Rows) -> Claim:
    """The distance to crisp stills is lower by 30 % or more."""
    found = relative_distance(judge, ours, theirs)
    return Claim(sentence, "at most -0.3", found, found["value"] <= -0.3)


def _better(sentence: str, found: Interval, better: int) -> Claim:
    """A difference that should be above 0 (`better` 1) or below (-1)."""
    holds = found["low"] > 0 if better > 0 else found["high"] < 0
    return Claim(sentence, "above 0" if better > 0 else "below 0", found, holds)


def _other_models(rows: Mapping[str, Rows], judge: Judge) -> Iterator[Claim]:
    ours, video = rows["VideoElevator, mild T2V"], rows["mild T2V"]
    sentence = "VideoElevator, mild T2V nearer to crisp stills than the mild T2V"
    yield _nearer(sentence, judge, ours, video)
    yield _kept("VideoElevator, mild T2V keeps the mild T2V's motion", ours, video)
    for style in ("ink", "mosaic"):
        styled = rows[f"VideoElevator in {style}"]
        there = _of(styled, style)
        sentence = f"VideoElevator in {style} looks like {style}"
        yield Claim(sentence, "at least 0.9", there, there["value"] >= 0.9)
        yield _kept(f"VideoElevator in {style} keeps the T2V's motion", styled, rows["T2V"])


def relative_distance(judge: Judge, ours: Rows, theirs: Rows) -> Interval:
    """How much farther our frames are from crisp stills, as a part of theirs; by clip."""
    count = min(len(ours["features"]), len(theirs["features"]))

    def relative(chosen: Any) -> float:
        return judge.distance(cut(ours, chosen)) / judge.distance(cut(theirs, chosen)) - 1

    return jackknife(relative, count)


def _of(rows: Rows, name: str) -> Interval:
    values = rows[name]
    return bootstrap(lambda chosen: float(values[chosen].mean()), len(values))


def _ratio(ours: Rows, theirs: Rows, name: str) -> Interval:
    """Ratio of the means, over the same captions."""
    a, b = ours[name], theirs[name]
    ratio: Callable[[Any], float] = lambda chosen: float(a[chosen].mean() / b[chosen].mean())  # noqa: E731
    return bootstrap(ratio, len(a))
