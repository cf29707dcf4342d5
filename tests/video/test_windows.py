"""Windows and tiles: what a plan covers, what the blend keeps, and that seams would be seen."""

import random
import weakref
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from elevator.video.windows import (
    Tile,
    blend,
    blend_tiles,
    published_weights,
    published_windows,
    scaled,
    seam_energy,
    spans,
    tiles,
    trimmed,
    weights,
)
from tests.builders import make_latent


class Axis(NamedTuple):
    size: int
    length: int
    overlap: int

    @property
    def plan(self) -> list[range]:
        return spans(*self)


@st.composite
def axes(draw: st.DrawFn, size: int = 60) -> Axis:
    length = draw(st.integers(1, 20))
    return Axis(draw(st.integers(1, size)), length, draw(st.integers(0, length - 1)))


# --- the plan -------------------------------------------------------------------------------------


@given(axis=axes())
def test_a_plan_covers_everything_once_and_at_full_length(axis: Axis) -> None:
    plan, stride = axis.plan, axis.length - axis.overlap
    assert sorted({place for span in plan for place in span}) == list(range(axis.size))
    assert {len(span) for span in plan} == {min(axis.length, axis.size)}
    assert len(set(plan)) == len(plan)
    assert all(0 < after.start - before.start <= stride for before, after in pairwise(plan))
    assert len(plan) == max(0, -(-(axis.size - axis.length) // stride)) + 1


@pytest.mark.parametrize(
    ("size", "length", "overlap"), [(0, 4, 1), (9, 0, 0), (9, 4, 4), (9, 4, -1)]
)
def test_numbers_out_of_range_are_told(size: int, length: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"got size {size}, length {length} and overlap {overlap}"):
        spans(size, length, overlap)


@given(axis=axes(), factor=st.integers(1, 4))
def test_a_finer_grid_has_the_same_windows(axis: Axis, factor: int) -> None:
    fine = spans(axis.size * factor, axis.length * factor, axis.overlap * factor)
    assert scaled(axis.plan, factor) == fine


@given(axis=axes(), margin=st.integers(0, 9))
def test_trimmed_windows_still_leave_nothing_out(axis: Axis, margin: int) -> None:
    margin = min(margin, axis.overlap // 2)
    made = trimmed(axis.plan, margin)
    assert sorted({place for span in made for place in span}) == list(range(axis.size))
    for span, whole in zip(made, axis.plan, strict=True):
        around = range(max(0, span.start - margin), min(axis.size, span.stop + margin))
        assert around == whole, "all that is kept has its surroundings in the window"


# --- the weights ----------------------------------------------------------------------------------


@given(axis=axes())
def test_weights_sum_to_one_and_are_positive_just_where_a_window_is(axis: Axis) -> None:
    made = weights(axis.plan)
    torch.testing.assert_close(made.sum(0), torch.ones_like(made[0]), rtol=0, atol=1e-15)
    inside = torch.zeros_like(made, dtype=torch.bool)
    for row, span in zip(inside, axis.plan, strict=True):
        row[span.start : span.stop] = True
    assert torch.equal(made > 0, inside)
    assert (made[:, inside.sum(0) == 1].max(0).values == 1).all()


def test_two_windows_cross_fade_evenly() -> None:
    made = weights(spans(12, 8, 4))
    assert made[0, 4:8].tolist() == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_the_published_weights_depend_on_the_order_and_ours_do_not() -> None:
    plan = published_windows(15)
    assert len(set(plan)) == len(plan)
    back = list(reversed(plan))
    torch.testing.assert_close(weights(plan), weights(back).flip(0))
    assert not torch.equal(published_weights(plan), published_weights(back).flip(0))


# --- the blend ------------------------------------------------------------------------------------


@given(axis=axes(), dim=st.sampled_from([0, 2, -1, -2]), seed=st.integers(0, 99))
def test_the_equation_in_any_order(axis: Axis, dim: int, seed: int) -> None:
    """Windows of different values, summed up one value at a time in a random order."""
    plan = axis.plan
    shape = [2, 3, 2, 2]
    sizes = [(*shape[: dim % 4], len(span), *shape[dim % 4 + 1 :]) for span in plan]
    parts = [make_latent(size, i).double() for i, size in enumerate(sizes)]
    got = torch.cat([*blend(parts, plan, dim)], dim).movedim(dim, 0)
    order = list(range(len(plan)))
    random.Random(seed).shuffle(order)
    total, wanted = [0.0] * axis.size, torch.zeros_like(got)
    for index in order:
        span = plan[index]
        middle = (span.start + span.stop - 1) / 2
        for place in span:
            weight = (len(span) + 1) / 2 - abs(place - middle)
            wanted[place] += weight * parts[index].movedim(dim, 0)[place - span.start]
            total[place] += weight
    wanted /= torch.tensor(total, dtype=torch.float64).view(-1, 1, 1, 1)
    torch.testing.assert_close(got, wanted)


@given(axis=axes(), value=st.floats(-1, 1, width=32))
def test_constants_stay(axis: Axis, value: float) -> None:
    parts = [torch.full((2, len(span)), value) for span in axis.plan]
    made = torch.cat([*blend(parts, axis.plan, 1)], 1)
    torch.testing.assert_close(made, torch.full((2, axis.size), value), rtol=1e-6, atol=1e-7)


@given(axis=axes())
def test_what_one_window_alone_sees_stays_bit_for_bit(axis: Axis) -> None:
    truth = torch.randn(axis.size)
    parts = [truth[span.start : span.stop] for span in axis.plan]
    made = torch.cat([*blend(parts, axis.plan, 0)])
    alone = (weights(axis.plan) > 0).sum(0) == 1
    assert torch.equal(made[alone], truth[alone])
    torch.testing.assert_close(made, truth)


def test_one_window_is_the_very_same_tensor() -> None:
    part = torch.randn(3, 5)
    (made,) = blend([part], spans(5, 8, 2), 1)
    assert made is part


@given(axis=axes())
def test_finished_frames_are_released_before_the_next_window_is_asked_for(axis: Axis) -> None:
    plan, asked = axis.plan, [0]

    def parts() -> Iterator[Tensor]:
        for span in plan:
            asked[0] += 1
            yield torch.zeros(len(span))

    released = 0
    for piece in blend(parts(), plan, 0):
        released += len(piece)
        last = asked[0] == len(plan)
        assert released == (axis.size if last else plan[asked[0]].start)
    assert asked[0] == len(plan)


def test_half_precision_is_summed_in_float32() -> None:
    plan = spans(40, 16, 15)
    parts = [torch.full((16,), 1.0 + 2**-7, dtype=torch.bfloat16) for _ in plan]
    made = torch.cat([*blend(parts, plan, 0)])
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, torch.full((40,), 1.0 + 2**-7, dtype=torch.bfloat16))


def test_a_part_is_let_go_of_before_the_next_one_is_made() -> None:
    """Parts of large pictures are large."""
    made: list[weakref.ref[Tensor]] = []
    plan = spans(20, 8, 2)

    def parts() -> Iterator[Tensor]:
        for span in plan:
            assert all(part() is None for part in made)
            part = torch.ones(len(span))
            made.append(weakref.ref(part))
            yield part
            del part

    assert sum(len(piece) for piece in blend(parts(), plan, 0)) == 20
    assert len(made) == len(plan) > 2


def test_parts_that_do_not_fit_the_plan_are_told() -> None:
    plan = spans(9, 4, 1)
    with pytest.raises(ValueError, match="shorter"):
        list(blend([torch.zeros(4)] * 2, plan, 0))
    with pytest.raises(ValueError, match="longer"):
        list(blend([torch.zeros(4)] * 4, plan, 0))
    with pytest.raises(ValueError, match="window 1 covers 4 of axis 0, got 3"):
        list(blend([torch.zeros(4), torch.zeros(3), torch.zeros(4)], plan, 0))
    grid = tiles(4, 4, 3, 1)
    with pytest.raises(ValueError, match="shorter"):
        list(blend_tiles([torch.zeros(3, 3)] * 3, grid))
    with pytest.raises(ValueError, match="more parts than the 4 tiles"):
        list(blend_tiles([torch.zeros(3, 3)] * 5, grid))


# --- tiles ----------------------------------------------------------------------------------------


@given(height=st.integers(1, 24), width=st.integers(1, 24), axis=axes(1), scale=st.integers(1, 3))
def test_tiles_of_a_picture_make_the_picture(
    height: int, width: int, axis: Axis, scale: int
) -> None:
    plan = tiles(height, width, axis.length, axis.overlap).scaled(scale)
    picture = torch.randn(2, height * scale, width * scale, dtype=torch.float64)
    bands = [*blend_tiles((tile.cut(picture) for tile in plan), plan)]
    torch.testing.assert_close(torch.cat(bands, 1), picture)
    assert len(bands) == len(plan.rows)
    assert len([*plan]) == len(plan)


def test_tiles_that_disagree_are_weighed_along_both_axes() -> None:
    plan = tiles(7, 9, 4, 2)
    parts = torch.randn(len(plan), 4, 4, dtype=torch.float64)
    y, x = weights(plan.rows), weights(plan.columns)
    wanted = torch.zeros(7, 9, dtype=torch.float64)
    for index, (tile, part) in enumerate(zip(plan, parts, strict=True)):
        row, column = divmod(index, len(plan.columns))
        weight = y[row][:, None] * x[column]
        tile.cut(wanted).add_(tile.cut(weight) * part)
    torch.testing.assert_close(torch.cat([*blend_tiles(parts, plan)]), wanted)


def test_a_tile_cuts_a_view() -> None:
    image = torch.zeros(3, 5, 6)
    Tile(range(1, 3), range(2, 6)).cut(image).fill_(1)
    assert image.sum() == 3 * 2 * 4


# --- seams ----------------------------------------------------------------------------------------


def _noisy(seed: int, length: int) -> Tensor:
    """A window's own mistake: noise that changes slowly across the picture."""
    coarse = torch.randn(1, 1, 12, 3, generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, (96, length), mode="bicubic", align_corners=True)[0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_a_hard_cut_is_seen_and_a_blend_is_not(seed: int) -> None:
    plan = spans(96, 64, 32)
    halves = [_noisy(2 * seed + index, 64) for index in range(2)]
    cut = torch.cat([halves[0][:, :48], halves[1][:, 16:]], 1)
    assert seam_energy(cut, [48]) > 20
    blended = torch.cat([*blend(halves, plan, 1)], 1)
    assert seam_energy(blended, [32, 48, 64]) < 2
    assert seam_energy(halves[0], [20, 48]) < 2


def test_seam_energy_is_the_ratio_of_mean_squares() -> None:
    image = torch.tensor([[0.0, 1, 3, 3], [0.0, 1, 1, 1]])
    assert seam_energy(image, [2]) == pytest.approx(2 / ((1 + 0) / 2))
    assert seam_energy(image.T, [2], dim=0) == pytest.approx(4)


@pytest.mark.parametrize("positions", [[], [0], [4], [1, 2, 3]])
def test_seams_out_of_range_are_told(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="seams lie at 1 to 3 of an axis of 4"):
        seam_energy(torch.zeros(2, 4), positions)
