"""What the commands that load models ask of the machine and of the libraries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["be_repeatable", "quiet_libraries"]


def be_repeatable() -> None:
    """Let CUDA compute the same numbers every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' notices and loading bars to themselves, but not the hub's downloads."""
    import diffusers.utils.logging as diffusers
    import huggingface_hub.utils.logging as hub
    import transformers.utils.logging as transformers

    levels = [(library, library.get_verbosity()) for library in (diffusers, transformers, hub)]
    for library, _ in levels:
        library.set_verbosity_error()
    for loader in (diffusers, transformers):
        loader.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in levels:
            library.set_verbosity(level)
        for loader in (diffusers, transformers):
            loader.enable_progress_bar()
