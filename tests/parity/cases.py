"""Where recorded tensors lie, and how a folder of cases becomes one test per case.

A folder may hold any part of what is recorded: a missing file gives no cases. Only where all that
was asked for is missing does the run stop, in `require_cases`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

__all__ = [
    "COMMITTED",
    "cases_of",
    "folder_of",
    "keys_of",
    "model_of",
    "offer",
    "read_json",
    "read_tensors",
    "require_cases",
    "rows_of",
]

COMMITTED = Path(__file__).parents[1] / "data" / "goldens"
_OFFERED = pytest.StashKey[list[int]]()


def folder_of(config: pytest.Config, paper: str) -> Path:
    """The paper's folder under `--goldens DIR` (or DIR itself), or the small committed one."""
    chosen: Path | None = config.getoption("--goldens")
    if chosen is None:
        return COMMITTED / paper
    chosen = chosen.absolute()
    return chosen / paper if (chosen / paper).is_dir() else chosen


def model_of(folder: Path, name: str) -> Path | None:
    """A recorded network: the one in the paper's folder, else the committed one, else None."""
    for models in (folder / "models", COMMITTED / "videoelevator" / "models"):
        if (models / name).is_dir():
            return models / name
    return None


def cases_of(folder: Path) -> list[str]:
    """Names of the cases in a folder: every json that has tensors beside it."""
    found = (path.stem for path in folder.glob("*.json"))
    return sorted(name for name in found if (folder / f"{name}.safetensors").exists())


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a json, one per case; none where it or its tensors are missing."""
    rows: list[dict[str, Any]] = read_json(path) if path.name in cases_of(path.parent) else []
    return rows


def keys_of(path: Path) -> list[str]:
    """Names of the tensors in a file; none where it is missing."""
    file = path.with_name(f"{path.name}.safetensors")
    if not file.exists():
        return []
    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def read_json(path: Path) -> Any:
    return json.loads(path.with_name(f"{path.name}.json").read_text())


def read_tensors(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(path.with_name(f"{path.name}.safetensors"))
    return tensors


def offer(
    metafunc: pytest.Metafunc, name: str, cases: Sequence[Any], ids: Callable[[Any], str]
) -> None:
    """One test per case of `folder_of`; how many there are is remembered for `require_cases`."""
    metafunc.config.stash.setdefault(_OFFERED, []).append(len(cases))
    metafunc.parametrize(name, cases, ids=ids)


def require_cases(config: pytest.Config) -> None:
    """Stop where tests asked `--goldens DIR` for cases and it had none for any of them."""
    offered = config.stash.get(_OFFERED, [])
    if config.getoption("--goldens") is not None and offered and not sum(offered):
        raise pytest.UsageError(
            f"--goldens {config.getoption('--goldens')} has no case for any of the tests collected;"
            " expected DIR/videoelevator, or DIR itself, to hold some of e2e/*.json, filters.json,"
            " schedulers.json, mixed_latents.json (each with the .safetensors beside it),"
            " attention.safetensors, model_forwards.safetensors; or DIR/upscale_a_video, or DIR"
            " itself, some of 01_warp_consistency.safetensors and the files numbered on from it"
        )
