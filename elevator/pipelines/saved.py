"""Loading what `save_pretrained` of one of our pipelines wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from elevator.errors import CheckpointError
from elevator.hosts.sources import failed, index_of, locate, require_weights

__all__ = ["load_saved"]


def load_saved(
    name: str,
    load: Callable[..., Any],
    source: str | Path,
    dtype: torch.dtype | dict[str, torch.dtype],
    hub: dict[str, Any],
    instead: str,
) -> Any:
    """A pipeline of ours from a folder or the hub; no pickle is opened.

    Args:
        name: the pipeline's class.
        load: diffusers' own `from_pretrained`, bound to it.
        source: the folder, or a hub id.
        dtype: of the weights; or of each part by its name, of others as `default`.
        hub: passed on to it.
        instead: what to give where the source is something else.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    found = locate(source, f"a folder that {name}.save_pretrained wrote")
    index = index_of(found, **hub)
    if index.get("_class_name") != name:
        raise CheckpointError(
            f"{source} holds a {index.get('_class_name', 'single network')}, not a saved {name}; "
            f"{instead}"
        )
    if isinstance(found, Path):
        require_weights(found, index, hub.get("variant"))
        hub = {**hub, "local_files_only": True}
    try:
        return load(found, dtype=dtype, use_safetensors=True, **hub)
    except Exception as error:  # safetensors, json, torch, diffusers, transformers, the hub
        raise failed(found, f"a {name}", error) from error
