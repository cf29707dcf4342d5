"""Where recorded tensors lie, and how a folder of cases becomes one test per case."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["cases_of", "folder_of", "read_json", "read_tensors"]

COMMITTED = Path(__file__).parents[1] / "data" / "goldens"


def folder_of(config: pytest.Config, paper: str) -> Path:
    """The paper's folder under `--goldens DIR`, or the small committed one."""
    chosen = config.getoption("--goldens")
    return (chosen if isinstance(chosen, Path) else COMMITTED) / paper


def cases_of(folder: Path) -> list[str]:
    """Names of the cases in a folder: every json that has tensors beside it."""
    found = (path.stem for path in folder.glob("*.json"))
    return sorted(name for name in found if (folder / f"{name}.safetensors").exists())


def read_json(path: Path) -> Any:
    return json.loads(path.with_suffix(".json").read_text())


def read_tensors(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(path.with_suffix(".safetensors"))
    return tensors
