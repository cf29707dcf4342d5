r"""Overlapping windows over frames and over pixels, and what they say blended into one.

A plan cuts an axis of $N$ into windows of $L$ that share at least $O$ with the next one, $L - O$
apart; the last one is moved back to end with the axis, so that every window has the length a
network was trained on wherever there is that much, and none is computed twice. What windows say of
a place $j$ is averaged by how near it is to the middle $c_i$ of each,

$$y_j = \sum_i \hat w_{ij}\, x^{(i)}_j, \qquad \hat w_{ij} = \frac{w_{ij}}{\sum_k w_{kj}}, \qquad
  w_{ij} = \frac{L + 1}{2} - \lvert j - c_i \rvert,$$

1, 2, ..., 2, 1 over a window (the weights of FreeNoise, Qiu et al. 2023, arXiv 2310.15169): a
linear cross-fade where two windows meet, and exactly 1 where one is alone. Weights depend on places
only, not on the order windows are computed in. Over height and width they are the product of both
axes'.

The plans of Upscale-A-Video's reference implementation (Zhou et al. 2023, arXiv 2312.06640) are
here under `published_...`, to compare with its recorded results; they repeat windows, weigh them by
the order they come in and cut tiles hard.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "PublishedTile",
    "Tile",
    "Tiles",
    "blend",
    "blend_tiles",
    "published_chunks",
    "published_tiles",
    "published_weights",
    "published_windows",
    "scaled",
    "seam_energy",
    "share",
    "spans",
    "tiles",
    "trimmed",
    "weights",
]

# --- plans ----------------------------------------------------------------------------------------


def spans(size: int, length: int, overlap: int) -> list[range]:
    """Windows over an axis, in order: all of `length`, or the whole axis where that is shorter.

    Args:
        size: what there is, N >= 1.
        length: of a window, L >= 1.
        overlap: what a window shares with the next one, 0 <= O < L; more between the last two.

    Returns:
        max(0, ceil((N - L) / (L - O))) + 1 windows.

    Raises:
        ValueError: a number out of range.
    """
    if size < 1 or not 0 <= overlap < length:
        raise ValueError(
            "windows take size >= 1 and 0 <= overlap < length; "
            f"got size {size}, length {length} and overlap {overlap}"
        )
    if size <= length:
        return [range(size)]
    last = size - length
    return [range(s, s + length) for s in (*range(0, last, length - overlap), last)]


def scaled(plan: Sequence[range], factor: int) -> list[range]:
    """The same windows on a grid `factor` times as fine, such as an upscaler's output."""
    return [range(span.start * factor, span.stop * factor) for span in plan]


def trimmed(plan: Sequence[range], margin: int) -> list[range]:
    """Windows without their outermost places, but at the ends of the axis.

    Where a network looks `margin` places around, what it says of the rest is what it would say of
    the whole axis: windows that overlap by twice as much leave no seam at all.

    Args:
        plan: windows in order, which overlap by at least `2 * margin`.
        margin: >= 0.
    """
    size = plan[-1].stop
    return [
        range(
            span.start + (margin if span.start > 0 else 0),
            span.stop - (margin if span.stop < size else 0),
        )
        for span in plan
    ]


class Tile(NamedTuple):
    """A rectangle of pixels: `image[..., tile.y.start : tile.y.stop, tile.x.start : tile.x.stop]`.

    Attributes:
        y: its rows.
        x: its columns.
    """

    y: range
    x: range

    def cut(self, image: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch y x"]:
        """The part of an image it covers, a view."""
        return image[..., self.y.start : self.y.stop, self.x.start : self.x.stop]


@final
@dataclass(frozen=True)
class Tiles:
    """Tiles over height and width: every row window with every column window, row by row.

    Attributes:
        rows: windows over the height.
        columns: windows over the width.
    """

    rows: tuple[range, ...]
    columns: tuple[range, ...]

    def __iter__(self) -> Iterator[Tile]:
        return (Tile(y, x) for y, x in product(self.rows, self.columns))

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def scaled(self, factor: int) -> "Tiles":
        """The same tiles on a grid `factor` times as fine."""
        return Tiles(tuple(scaled(self.rows, factor)), tuple(scaled(self.columns, factor)))

    def trimmed(self, margin: int) -> "Tiles":
        """The same tiles without their outermost pixels, but at the image's edges."""
        return Tiles(tuple(trimmed(self.rows, margin)), tuple(trimmed(self.columns, margin)))


def tiles(height: int, width: int, length: int, overlap: int) -> Tiles:
    """Square tiles over an image; `spans` along each side.

    Raises:
        ValueError: a number out of range.
    """
    return Tiles(*(tuple(spans(size, length, overlap)) for size in (height, width)))


# --- blending -------------------------------------------------------------------------------------


def weights(plan: Sequence[range]) -> Float[Tensor, "windows size"]:
    """The weight of every window at every place, 0 outside it; float64, columns sum to one.

    Args:
        plan: different windows, in any order, that leave no place out.
    """
    made = torch.zeros(len(plan), max(span.stop for span in plan), dtype=torch.float64)
    order = sorted(plan, key=lambda span: span.start)
    for row, span in zip(made, plan, strict=True):
        row[span.start : span.stop] = share(order.index(span), order)
    return made


def share(index: int, plan: Sequence[range]) -> Float[Tensor, " n"]:
    """The weights within one window of an ordered plan, its row of `weights`; float64.

    Only windows that reach into it are looked at, so that a long plan takes no longer.
    """
    span = plan[index]
    first = last = index
    while first > 0 and plan[first - 1].stop > span.start:
        first -= 1
    while last + 1 < len(plan) and plan[last + 1].start < span.stop:
        last += 1
    total = torch.zeros(len(span), dtype=torch.float64)
    for other in plan[first : last + 1]:
        start, stop = max(span.start, other.start), min(span.stop, other.stop)
        hat = _hat(other)[start - other.start : stop - other.start]
        total[start - span.start : stop - span.start] += hat
    return _hat(span) / total


def _hat(span: range) -> Float[Tensor, " n"]:
    """How near each place of a window is to its middle: 1, 2, ..., 2, 1."""
    near = torch.arange(1.0, len(span) + 1, dtype=torch.float64)
    return torch.minimum(near, near.flip(0))


def blend(
    parts: Iterable[Float[Tensor, "..."]], plan: Sequence[range], dim: int
) -> Iterator[Float[Tensor, "..."]]:
    """What windows say, blended, as soon as no later window has a say in it.

    No more than one window's worth of the axis is held at once. Sums are float32 at least and come
    back in the parts' dtype; where a window is alone its numbers stay bit for bit, and a plan of
    one window gives the very same tensor.

    Args:
        parts: what each window says, in the plan's order; taken one by one, as they are needed.
        plan: windows in order, as `spans` makes them.
        dim: the axis they lie along.

    Returns:
        Pieces that make up the whole axis, in order: `torch.cat([*blend(parts, plan, dim)], dim)`.

    Raises:
        ValueError: fewer or more parts than windows, or a part of another length.
    """
    given, held = iter(parts), None
    for index, span in enumerate(plan):
        # No zip, which would hold a part until the next one is there.
        part = next(given, None)
        if part is None:
            raise ValueError(f"the parts are shorter than the plan, {index} of {len(plan)} windows")
        if part.shape[dim] != len(span):
            raise ValueError(
                f"window {index} covers {len(span)} of axis {dim}, got {part.shape[dim]}"
            )
        if len(plan) == 1:
            yield part
            break
        wide = torch.promote_types(part.dtype, torch.float32)
        shape = [-1 if axis == dim % part.ndim else 1 for axis in range(part.ndim)]
        mine = part * share(index, plan).to(part.device, wide).view(shape)
        if held is not None:
            mine.narrow(dim, 0, held.shape[dim]).add_(held)
        done = (span.stop if index + 1 == len(plan) else plan[index + 1].start) - span.start
        held = mine.narrow(dim, done, len(span) - done).clone()
        finished = mine.narrow(dim, 0, done).to(part.dtype)
        del part, mine
        yield finished
        del finished  # before the next part is made
    if next(given, None) is not None:
        raise ValueError(f"the parts are longer than the plan of {len(plan)} windows")


def blend_tiles(
    parts: Iterable[Float[Tensor, "*batch y x"]], plan: Tiles
) -> Iterator[Float[Tensor, "*batch rows w"]]:
    """What tiles say, blended: `blend` along the width, and of such bands along the height.

    Args:
        parts: what each tile says, in the plan's order, row by row; taken one by one.
        plan: the tiles, on the parts' own grid.

    Returns:
        Bands of finished rows from the top: `torch.cat([*blend_tiles(parts, plan)], -2)`.

    Raises:
        ValueError: fewer or more parts than tiles, or a part of another size.
    """
    given = iter(parts)

    def bands() -> Iterator[Tensor]:
        for _ in plan.rows:
            row = islice(given, len(plan.columns))
            yield torch.cat([*blend(row, plan.columns, -1)], -1)
        if next(given, None) is not None:
            raise ValueError(f"there are more parts than the {len(plan)} tiles of the plan")

    return blend(bands(), plan.rows, -2)


# --- measuring ------------------------------------------------------------------------------------


def seam_energy(image: Float[Tensor, "..."], positions: Sequence[int], dim: int = -1) -> float:
    r"""Energy of differences across seams against that of all others along the axis.

    $$\frac{\operatorname{mean}_{p \in P} \lVert x_p - x_{p-1} \rVert^2}
           {\operatorname{mean}_{p \notin P} \lVert x_p - x_{p-1} \rVert^2}$$

    About 1 where a seam looks like any other place, well above where it can be seen.

    Args:
        image: any axes; for seams in time, the difference to the true frames is the better input,
            since motion covers seams.
        positions: the first place behind each seam, 1 to the axis' length less one.
        dim: the axis seams lie across.

    Raises:
        ValueError: no position, one out of range, or none left to compare with.
    """
    size = image.shape[dim]
    seams = sorted(set(positions))
    if not seams or seams[0] < 1 or seams[-1] >= size or len(seams) >= size - 1:
        raise ValueError(
            f"seams lie at 1 to {size - 1} of an axis of {size}, and some of it must be without; "
            f"got {list(positions)}"
        )
    steps = image.double().diff(dim=dim).square().movedim(dim, 0).flatten(1).mean(1)
    across = torch.zeros(size - 1, dtype=torch.bool, device=image.device)
    across[[seam - 1 for seam in seams]] = True
    return float(steps[across].mean() / steps[~across].mean())


# --- as published ---------------------------------------------------------------------------------


def published_windows(frames: int) -> list[range]:
    """Upscale-A-Video's windows of its U-Net, in the order they are computed.

    8 frames at 0, 6, 12, ..., moved back where they would pass the end, so that the last one comes
    twice for 13, 14, 19, 20, ... frames; a clip of at most 8 frames is one window.
    """
    if frames <= 8:
        return [range(frames)]
    starts = (min(start, frames - 8) for start in range(0, frames, 6))
    return [range(start, start + 8) for start in starts]


def published_weights(plan: Sequence[range]) -> Float[Tensor, "windows size"]:
    """Upscale-A-Video's weights: each window halves what was there and adds half of its own."""
    made = torch.zeros(len(plan), max(span.stop for span in plan), dtype=torch.float64)
    for index, span in enumerate(plan):
        inside = slice(span.start, span.stop)
        seen = made[:, inside].sum(0) > 0
        made[:index, inside] *= 0.5
        made[index, inside] = torch.where(seen, 0.5, 1.0).double()
    return made


def published_chunks(frames: int) -> list[range]:
    """Upscale-A-Video's decoding: 3 frames at a time, none twice, the last time what is left."""
    return [range(start, min(start + 3, frames)) for start in range(0, frames, 3)]


class PublishedTile(NamedTuple):
    """A tile of Upscale-A-Video: what the network sees of the clip, and what is kept of it.

    Attributes:
        seen: pixels of the clip that go in.
        kept: pixels of the clip whose upscaled values are written.
    """

    seen: Tile
    kept: Tile


def published_tiles(
    height: int, width: int, tile: int = 256, *, always: bool = False
) -> list[PublishedTile]:
    """Upscale-A-Video's tiles: a grid of squares, each seen with 64 pixels around it.

    An image of under 384 x 384 pixels in all is one tile, unless `always`. A last row or column of
    at most 64 pixels joins the one before; where there is none before, nothing is left to compute,
    as in the reference implementation.
    """
    if height * width < 384 * 384 and not always:
        whole = Tile(range(height), range(width))
        return [PublishedTile(whole, whole)]
    sides = [_published_sides(size, tile) for size in (height, width)]
    return [PublishedTile(Tile(y.seen, x.seen), Tile(y.kept, x.kept)) for y, x in product(*sides)]


class _Side(NamedTuple):
    seen: range
    kept: range


def _published_sides(size: int, tile: int) -> list[_Side]:
    around, count = 64, -(-size // tile)
    if (count - 1) * tile + around >= size:
        count -= 1
    made = []
    for index in range(count):
        start, stop = index * tile, min((index + 1) * tile, size)
        seen = range(max(0, start - around), min(size, stop + around))
        made.append(_Side(seen, range(start, size if index == count - 1 else stop)))
    return made
