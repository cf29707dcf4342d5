"""What is claimed of Upscale-A-Video, in numbers, and whether it holds for the built-in models."""

from collections.abc import Iterator, Mapping

from benchmarks._claims import Claim
from benchmarks._rows import Interval, Rows, bootstrap, cut, difference

__all__ = ["claims", "growth"]


PROMPTS = {
    "without prompt": "+ propagation",
    "wrong prompt": "+ propagation",
    "guidance 6, without prompt": "guidance 6",
}
"""Ways whose prompt is missing or wrong, and what they are compared with."""


def claims(rows: Mapping[str, Rows]) -> Iterator[Claim]:
    """All claims on the arrangements in `rows`."""

    def compared(sentence: str, ours: str, theirs: str, measure: str, more: bool) -> Claim:
        return _compared(sentence, rows[ours], rows[theirs], measure, more=more)

    whole, still, alone = "+ propagation", "+ temporal attention", "frames alone"
    yield compared("propagation lowers the warping error", whole, still, "warping", False)
    yield compared("the mask keeps PSNR up", whole, "without the mask", "PSNR", True)
    grown = growth(rows)
    yield Claim("without it PSNR falls with the steps", "below 0 dB", grown, grown["high"] < 0)
    for measure in ("warping", "flicker"):
        told = f"3-D convolutions lower the {measure}"
        yield compared(told, "+ 3-D convolutions", alone, measure, False)
        told = f"temporal attention lowers the {measure}"
        yield compared(told, still, "+ 3-D convolutions", measure, False)
        yield compared(f"both lower the {measure}", still, alone, measure, False)
    told = "a window of 8 lowers the warping"
    yield compared(told, whole, "windows of one frame", "warping", False)
    captioned = {
        name: cut(row, row["captioned"] > 0)
        for name, row in rows.items()
        if name in (whole, "guidance 6", *PROMPTS)
    }
    for other, with_it in PROMPTS.items():
        ours, theirs = captioned[with_it], captioned[other]
        told = f"prompt, sharpness: {other}"
        yield _compared(told, ours, theirs, "sharpness", more=True)
        told = f"prompt, distance: {other}"
        yield _compared(told, ours, theirs, "distance", more=False)
    low, high = whole, "noise level 200"
    yield compared("noise level 20 is truer than 200", low, high, "PSNR", True)
    yield compared("noise level 200 is sharper than 20", high, low, "sharpness", True)
    yield compared("guidance 6 is sharper", "guidance 6", whole, "sharpness", True)
    yield compared("guidance 6 costs PSNR", "guidance 6", whole, "PSNR", False)
    yield compared("the conditioned VAE is truer", whole, "plain autoencoder", "PSNR", True)
    for colour in ("AdaIN colours", "wavelet colours"):
        yield compared(f"{colour} are truer", colour, whole, "PSNR", True)
    for measure, more in (("PSNR", True), ("distance", False), ("warping", False)):
        for name in (whole, "regression"):
            told = f"{measure} of {name} against bicubic"
            yield compared(told, name, "bicubic", measure, more)


def growth(rows: Mapping[str, Rows]) -> Interval:
    """What more steps of propagation cost in PSNR without the mask, less what they do with it."""
    few, every = (rows[name]["PSNR"] for name in ("+ propagation", "propagation at all steps"))
    bare, bare_every = (
        rows[name]["PSNR"] for name in ("without the mask", "at all steps, without the mask")
    )
    count = min(map(len, (few, every, bare, bare_every)))
    lost = (bare_every[:count] - bare[:count]) - (every[:count] - few[:count])
    return bootstrap(lambda chosen: float(lost[chosen].mean()), count)


def _compared(sentence: str, ours: Rows, theirs: Rows, measure: str, *, more: bool) -> Claim:
    """Whether one way has more or less of something, paired by clip."""
    found = difference(ours, theirs, measure)
    holds = found["low"] > 0 if more else found["high"] < 0
    return Claim(sentence, "above 0" if more else "below 0", found, holds)
