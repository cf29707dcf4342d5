"""Tiny offline versions of many diffusers pipelines, random weights from seed 0.

`data/tiny_pipelines.json` names the classes, configurations and call arguments: prompts are given
as embeddings, so that no tokenizer is needed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["NAMES", "call", "pipeline_of", "tiny"]

_FILE = Path(__file__).parent / "data" / "tiny_pipelines.json"


@cache
def _described() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return described


NAMES = tuple(_described())


class Dummy(torch.nn.Module):
    """A component that is never called."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self) -> None:
        raise AssertionError("a dummy was called")


def pipeline_of(name: str) -> str:
    """The class of a pipeline."""
    cls: str = _described()[name]["pipeline"]
    return cls


def tiny(name: str, **components: Any) -> Any:
    """A pipeline by name; `components` replace those described."""
    described = _described()[name]
    made = {
        part: _component(facts["class"], facts["config"])
        for part, facts in described["components"].items()
        if part not in components
    }
    cls = getattr(importlib.import_module("diffusers"), described["pipeline"])
    wanted = inspect.signature(cls).parameters
    given = {part: None for part, p in wanted.items() if p.default is p.empty} | made | components
    pipe = cls(**given)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _component(path: str, config: dict[str, Any] | None) -> Any:
    library, _, name = path.rpartition(".")
    if library == "tiny":
        return Dummy()
    cls = getattr(importlib.import_module(library), name)
    torch.manual_seed(0)
    if library == "transformers" and hasattr(cls, "config_class"):
        made = cls(cls.config_class(**(config or {})))
    elif hasattr(cls, "from_config"):
        made = cls.from_config(config or {})
    else:
        made = cls(**(config or {}))
    return made.eval() if isinstance(made, torch.nn.Module) else made


def call(name: str, **more: Any) -> dict[str, Any]:
    """Arguments for a call: as described, latents out, new generator of seed 0, three steps."""
    generator = torch.Generator().manual_seed(0)
    described = _described()[name]["call"]
    given = {key: _argument(value, generator) for key, value in described.items()}
    given |= {"num_inference_steps": 3, "output_type": "latent"}
    return given | {"generator": torch.Generator().manual_seed(0)} | more


def _argument(value: Any, generator: torch.Generator) -> Any:
    if not isinstance(value, str):
        return value
    sizes = [int(size) for size in re.findall(r"\d+", value.split("float")[0])]
    if value.startswith("mask"):
        return torch.ones(sizes, dtype=torch.long)
    if value.startswith("cumulative"):
        return torch.tensor(sizes, dtype=torch.int32)
    if value.startswith("tensor"):
        return torch.rand(sizes, generator=generator)
    from PIL import Image

    return Image.new("RGB", (sizes[0], sizes[1]), "teal")
