"""How frames are coded in each kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["ENDINGS", "Coding", "choose"]

ENDINGS: Mapping[str, str] = MappingProxyType(
    {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
)

_THREADS = "4"  # a number of its own, not the machine's: x264's bytes depend on it
_ADVICE = "write a folder of PNG files to keep"
_LEAST_HEVC = 64  # pixels of a side, which its encoder asks for


class Coding(NamedTuple):
    """An encoder and how it is asked.

    Attributes:
        codec: FFmpeg's name of the encoder.
        form: the pixel format.
        options: for the encoder.
        alpha: whether it keeps how opaque pixels are.
        depth: bits of a channel that it keeps.
        notes: sentences on what it does not keep, and on who cannot play it.
        tag: a FourCC, where the usual one is refused by players.
        full: whether it can say that its numbers span the full range.
    """

    codec: str
    form: str
    options: Mapping[str, str]
    alpha: bool
    depth: int
    notes: tuple[str, ...]
    tag: str | None = None
    full: bool = True


def choose(form: str, width: int, height: int, depth: int, alpha: bool, crf: float) -> Coding:
    """What to code frames with.

    8 bits are H.264, more are HEVC of 10; both in 4:2:0, which every player shows, and in 4:4:4
    where a side is odd, which they know no other way. WebM is VP9 of 8 bits. Alpha is ProRes 4444
    in .mov and VP9 in .webm and .mkv.

    Args:
        form: FFmpeg's name of the kind of file.
        width: in pixels.
        height: in pixels.
        depth: bits of a channel.
        alpha: whether frames have a fourth channel.
        crf: constant rate factor on x264's scale, 0 (best) to 51.
    """
    notes: list[str] = []
    if depth > 10:
        notes.append(f"what is beyond 10 bits a channel was left out; {_ADVICE} it")
        depth = 10
    if alpha and form == "mov":
        options = {"profile": "4444", "alpha_bits": "16", "vendor": "apl0", "threads": _THREADS}
        form = "yuva444p10le"
        return Coding("prores_ks", form, options, True, 10, tuple(notes), full=False)
    if alpha and form == "mp4":
        notes.append(
            "alpha was left out, frames are shown over black: .mp4 holds none; "
            "write .mov, .webm or a folder of PNG files to keep it"
        )
        alpha = False
    if alpha or form == "webm":
        if depth > 8:
            notes.append(f"10 bits a channel became 8, as VP9 holds here; {_ADVICE} them")
        layout = "yuva420p" if alpha else "yuv420p"
        crf_of_63 = str(round(crf * 63 / 51))
        options = {"crf": crf_of_63, "b": "0", "cpu-used": "2", "threads": _THREADS}
        return Coding("libvpx-vp9", layout, options, alpha, 8, tuple(notes))
    layout = "yuv420p"
    if width % 2 or height % 2:
        layout = "yuv444p"
        notes.append(
            f"{width}x{height} has an odd side, which 4:2:0 does not know: colours are stored in "
            "full (4:4:4); most players on computers show it, browsers and phones may not"
        )
    if depth > 8 and min(width, height) >= _LEAST_HEVC and _has("libx265"):
        # Threads of a number of its own, and one frame at a time: its bytes depend on both. Without
        # B-frames, since FFmpeg leaves the times of a clip shorter than their delay to chance.
        asked = f"log-level=none:pools={_THREADS}:frame-threads=1:bframes=0:crf={crf:g}"
        options = {"x265-params": asked}
        return Coding("libx265", f"{layout}10le", options, False, 10, tuple(notes), "hvc1")
    # Its fastest loops round by the processor, and one of them by what lies beside its memory.
    options = {"crf": f"{crf:g}", "threads": _THREADS, "x264-params": "cpu-independent=1"}
    if depth > 8:
        return Coding("libx264", f"{layout}10le", options, False, 10, tuple(notes))
    return Coding("libx264", layout, options, False, 8, tuple(notes))


def _has(encoder: str) -> bool:
    import av

    try:
        av.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
