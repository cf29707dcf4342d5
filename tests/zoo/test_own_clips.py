"""Temporal layers from clips of one's own: what is cut out, what learns, and that it goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elevator import zoo
from elevator.cli import main
from elevator.errors import CheckError
from elevator.zoo import pipelines
from elevator.zoo.loop import Progress
from elevator.zoo.own_clips import OwnClips, train_temporal


class StopError(Exception):
    """The power went out."""


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """Two folders of pictures, the first with a caption; the red of a pixel tells frame and row."""
    root = tmp_path / "footage"
    for name, frames in (("first", 4), ("second", 1)):
        (root / name).mkdir(parents=True)
        for frame in range(frames):
            picture = np.zeros((24, 40, 3), np.uint8)
            picture[..., 0] = 40 * frame + np.arange(24)[:, None]
            picture[..., 1] = 6 * np.arange(40)
            Image.fromarray(picture).save(root / name / f"{frame}.png")
    (root / "first.txt").write_text("a ramp\n", encoding="utf-8")
    return root


def test_cuts_are_parts_of_a_clip_in_time_and_space(footage: Path) -> None:
    clips = OwnClips.of(footage)
    assert [clip.name for clip in clips.clips] == ["first", "second"]
    made = clips(12, 2, 16, torch.Generator().manual_seed(0))
    assert made.sharp.shape == (12, 3, 2, 16, 16)
    assert made.small.shape == (12, 3, 2, 4, 4)
    assert set(made.captions) == {"a ramp", ""}
    for caption, cut in zip(made.captions, (made.sharp * 255).round(), strict=True):
        red, green = cut[0], cut[1]
        assert torch.equal(red[:, 1:] - red[:, :-1], torch.ones(2, 15, 16))
        assert set((green[:, :, 1:] - green[:, :, :-1]).flatten().tolist()) in ({6.0}, {-6.0})
        moved = 40 if caption else 0  # the one frame of the second clip stays
        assert torch.equal(red[1] - red[0], torch.full((16, 16), float(moved)))
    again = clips(12, 2, 16, torch.Generator().manual_seed(0))
    assert torch.equal(made.small, again.small)


def test_what_cannot_be_cut_is_told(footage: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"no folder .*nowhere"):
        OwnClips.of(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckError, match=r"no clip in .*empty; put files that end in \.mp4"):
        OwnClips.of(tmp_path / "empty")
    with pytest.raises(CheckError, match=r"second is 40x24, and 32x32 pixels .*--size"):
        OwnClips.of(footage / "second", 32)
    (footage / "broken.mp4").write_bytes(b"no clip")
    with pytest.raises(CheckError) as raised:
        train_temporal(footage, tmp_path, size=32)
    assert len(raised.value.problems) == 3
    assert "broken.mp4" in raised.value.problems[0]
    (footage / "broken.mp4").unlink()
    with pytest.raises(CheckError, match="multiple of 8, at least 8, got 20"):
        train_temporal(footage, tmp_path, size=20)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the U-Net in a pipeline folder."""
    state: dict[str, torch.Tensor] = pipelines.read_upscaler(folder).unet.state_dict()
    return state


def test_only_temporal_layers_learn_and_a_resumed_run_is_the_same(
    footage: Path, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise StopError

    def trained(out: str, **more: object) -> dict[str, torch.Tensor]:
        options = {"steps": 3, "size": 16, "frames": 2, "rate": 1e-2, "device": "cpu"}
        return weights(train_temporal(footage, tmp_path / out, **options, **more))  # type: ignore[arg-type]

    whole = trained("whole", save_every=60.0, progress=lambda _: None)
    with pytest.raises(StopError):
        trained("cut", save_every=0.0, progress=stop)
    resumed = trained("cut", save_every=0.0, progress=lambda _: None)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    start = weights(zoo.path("upscaler"))
    changed = {name for name in whole if not torch.equal(whole[name], start[name])}
    unet = pipelines.read_upscaler(zoo.path("upscaler")).unet
    assert changed
    assert changed <= {name for name, _ in unet.temporal_parameters()}


def test_the_command_trains_and_says_where_the_result_is(
    footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ["--steps", "1", "--size", "16", "--frames", "2", "--device", "cpu"]
    assert (
        main(["train", "temporal", "--data", str(footage), "--out", str(tmp_path), *numbers]) == 0
    )
    assert str(tmp_path / "upscaler") in capsys.readouterr().out
    assert (tmp_path / "upscaler" / "model_index.json").exists()
    assert main(["train", "temporal", "--data", str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err
