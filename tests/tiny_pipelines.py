"""Tiny offline versions of many diffusers pipelines, random weights from seed 0.

`data/tiny_pipelines.json` describes each: the class, its components with their configurations, the
arguments of a call (prompts are given as embeddings, so that no tokenizer is needed), and what
hooks find there:

    latents: channels, frames, rows and columns of the latents a hook sees;
    refused: instead of `latents`, a part of the sentence with which it is refused;
    end:     how far from the clean estimate the last latent is, where that is not nothing;
    kept:    first frames that are a condition, which no hook changes;
    beside:  what the README says of it;
    arguments: of the class, beside its components;
    blocks, without: of a modular pipeline, the class of its blocks and those left out.
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
from torch import Tensor

from tests.builders import awake

__all__ = ["NAMES", "Dummy", "call", "described", "latents_of", "tiny"]

_FILE = Path(__file__).parent / "data" / "tiny_pipelines.json"


@cache
def _all() -> dict[str, dict[str, Any]]:
    read: dict[str, dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return read


NAMES = tuple(_all())


class Dummy(torch.nn.Module):
    """A component that is never called."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self) -> None:
        raise AssertionError("a dummy was called")


def described(name: str) -> dict[str, Any]:
    """What the file says of a pipeline."""
    return _all()[name]


def tiny(name: str) -> Any:
    """A pipeline by name."""
    facts = described(name)
    made = {part: _component(**of) for part, of in facts["components"].items()}
    diffusers = importlib.import_module("diffusers")
    if "blocks" in facts:
        blocks = getattr(diffusers, facts["blocks"])()
        for part in facts["without"]:
            blocks.sub_blocks.pop(part)
        pipe = blocks.init_pipeline()
        pipe.update_components(**made)
    else:
        cls = getattr(diffusers, facts["pipeline"])
        wanted = inspect.signature(cls).parameters
        absent = {part: None for part, of in wanted.items() if of.default is of.empty}
        pipe = cls(**absent | made | facts.get("arguments", {}))
    assert type(pipe).__name__ == facts["pipeline"]
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _component(**facts: Any) -> Any:
    (library, _, name), config = facts["class"].rpartition("."), facts["config"]
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
    return awake(made) if isinstance(made, torch.nn.Module) else made


def call(name: str, **more: Any) -> dict[str, Any]:
    """Arguments for a call: as described, latents out, generator of seed 0, at least two steps."""
    generator = torch.Generator().manual_seed(0)
    facts = described(name)
    given = {key: _argument(value, generator) for key, value in facts["call"].items()}
    given |= {"output": "latents"} if "blocks" in facts else {"output_type": "latent"}
    given["generator"] = torch.Generator().manual_seed(0)
    return {"num_inference_steps": 2} | given | more


def latents_of(output: Any) -> Tensor:
    """The latents in what a call gave."""
    if isinstance(output, Tensor):
        return output
    first = output[0]
    return torch.as_tensor(first[0] if isinstance(first, list) else first)


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
