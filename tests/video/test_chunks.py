"""Frames kept without any loss, and damage seen."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elevator.video.chunks import read_frames, write_frames
from elevator.video.io import VideoError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chunks")


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 70), st.sampled_from([3, 4])),
    st.sampled_from([np.uint8, np.uint16]),
    st.integers(0, 99),
)
def test_every_number_comes_back(
    folder: Path, shape: tuple[int, int, int, int], kind: type[np.generic], seed: int
) -> None:
    most = np.iinfo(kind).max  # type: ignore[type-var]
    frames = np.random.default_rng(seed).integers(0, most, shape, dtype=kind, endpoint=True)
    write_frames(folder / "a.chunk", frames)
    found = np.stack([*read_frames(folder / "a.chunk")])
    assert found.dtype == frames.dtype
    assert np.array_equal(found, frames)
    once = (folder / "a.chunk").read_bytes()
    write_frames(folder / "a.chunk", frames[:, ::1])
    assert (folder / "a.chunk").read_bytes() == once
    assert [file.name for file in folder.iterdir()] == ["a.chunk"]


def test_views_and_single_pixels(tmp_path: Path) -> None:
    frames = np.arange(2 * 6 * 8 * 3, dtype=np.uint16).reshape(2, 6, 8, 3)[:, ::-2, ::3]
    write_frames(tmp_path / "a", frames)
    assert np.array_equal(np.stack([*read_frames(tmp_path / "a")]), frames)
    write_frames(tmp_path / "a", frames[:1, :1, :1])
    assert np.array_equal(next(read_frames(tmp_path / "a")), frames[0, :1, :1])


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("hurt", ["flipped", "cut"])
def test_damage_is_seen(tmp_path: Path, place: float, hurt: str) -> None:
    file = tmp_path / "a.chunk"
    write_frames(file, np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), dtype=np.uint8))
    data = bytearray(file.read_bytes())
    at = int(place * len(data))
    if hurt == "cut":
        del data[at:]
    else:
        data[at] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(VideoError, match=r"a.chunk: it is not as it was written; remove it"):
        list(read_frames(file))


def test_what_is_refused(tmp_path: Path) -> None:
    for frames in (
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((2, 4, 4, 1), np.uint8),
    ):
        with pytest.raises(VideoError, match=r"must be \(F, H, W, 3 or 4\) of uint8 or uint16"):
            write_frames(tmp_path / "a", frames)
    with pytest.raises(VideoError, match=r"no file .*none: check the name"):
        next(read_frames(tmp_path / "none"))
    (tmp_path / "text").write_text("no chunk")
    with pytest.raises(VideoError, match="text: it is not as it was written"):
        next(read_frames(tmp_path / "text"))
    with pytest.raises(VideoError, match=r"cannot write .*missing/a: No such file"):
        write_frames(tmp_path / "missing/a", np.zeros((1, 4, 4, 3), np.uint8))
    assert [file.name for file in tmp_path.iterdir()] == ["text"]
