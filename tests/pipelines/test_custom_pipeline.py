"""VideoElevator through diffusers' own loader."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import elevator as el
import elevator.pipelines
from elevator import zoo
from elevator.recipes import Preset

QUICK = Preset(8, 4, (4, 3), 1, 0.4, 1.0, 1.0, 3.0, 2.0)
CUSTOM = {"custom_pipeline": elevator.pipelines.__path__[0], "trust_remote_code": True}


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """diffusers copies the code it is told to trust: not into the user's cache."""
    known = set(sys.modules)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - known:
        if name.startswith("diffusers_modules"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return el.VideoElevatorPipeline.from_pretrained(t2i=zoo.path("t2i"), t2v=zoo.path("t2v"))


@pytest.fixture(scope="module")
def saved(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    return folder


def run(pipe: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    made = pipe("a red ring", preset=QUICK, output_type="latent", generator=generator).frames
    assert isinstance(made, Tensor)
    return made


def test_a_saved_pipeline_is_loaded_by_diffusers(pipe: Any, saved: Path) -> None:
    again = DiffusionPipeline.from_pretrained(saved, **CUSTOM)
    assert type(again) is el.VideoElevatorPipeline
    assert torch.equal(run(again), run(pipe))
    half = DiffusionPipeline.from_pretrained(saved, dtype=torch.bfloat16, **CUSTOM)
    assert half.unet.dtype == half.video_unet.dtype == torch.bfloat16


def test_a_t2i_is_loaded_with_the_parts_of_a_t2v_beside_it(pipe: Any) -> None:
    parts = {f"video_{name}": part for name, part in zoo.load("t2v").components.items()}
    del parts["video_vae"]
    again = DiffusionPipeline.from_pretrained(
        zoo.path("t2i"), dtype=torch.float32, **CUSTOM, **parts
    )
    assert type(again) is el.VideoElevatorPipeline
    assert torch.equal(run(again), run(pipe))


def test_without_being_told_diffusers_does_not_find_or_run_it(saved: Path) -> None:
    with pytest.raises(AttributeError, match="no attribute VideoElevatorPipeline"):
        DiffusionPipeline.from_pretrained(saved)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(saved, custom_pipeline=CUSTOM["custom_pipeline"])
