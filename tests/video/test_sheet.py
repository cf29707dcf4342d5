"""Contact sheets: which frames are shown, and that they are shown as they are."""

import numpy as np
import pytest

from elevator.video.sheet import contact_sheet, enlarge, evenly


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, 3, [0, 4, 8]),
        (3, 8, [0, 1, 2]),
        (5, 1, [0]),
        (1, 8, [0]),
        (5, 0, [0]),
    ],
)
def test_frames_are_chosen_evenly(count: int, most: int, chosen: list[int]) -> None:
    assert evenly(count, most) == chosen


def test_enlarged_by_whole_factors_only() -> None:
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    assert enlarge(frames, 3) is not None
    assert enlarge(frames, 8).shape == (2, 6, 8, 3)
    assert (enlarge(frames, 8)[:, ::2, ::2] == frames).all()
    assert (enlarge(frames, 2) == frames).all()


def test_numbered_frames_are_all_shown() -> None:
    """However many there are, and under their own numbers."""
    strips = [(str(c), np.full((12, 4, 4, 3), c, dtype=np.uint8)) for c in (50, 150)]
    sheet = np.asarray(contact_sheet(strips, "title", numbers=range(0, 24, 2), least=4))
    for colour in (50, 150):
        assert (sheet == colour).all(-1).sum() >= 12 * 16
    other = np.asarray(contact_sheet(strips, "title", numbers=range(12), least=4))
    assert other.shape == sheet.shape
    assert (other != sheet).any()
