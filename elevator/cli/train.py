"""`elevator train temporal`: an upscaler's temporal layers, from clips of one's own."""

from __future__ import annotations

import argparse
import os
import sys

from elevator.cli.doctor import require_device
from elevator.cli.record import resolve

__all__ = ["run"]


def run(given: argparse.Namespace) -> int:
    """Train, and say where the result is."""
    from torch import distributed

    from elevator.zoo.own_clips import train_temporal

    model = None if given.model is None else resolve(given.model)
    if given.device is not None:
        require_device(given.device)
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # of torchrun or accelerate launch
    if processes > 1 and not distributed.is_initialized():
        distributed.init_process_group()
    try:
        folder = train_temporal(
            given.data,
            given.out,
            model=model,
            steps=given.steps,
            batch=given.batch,
            frames=given.frames,
            size=given.size,
            rate=given.rate,
            shards=max(processes, given.shards),
            seed=given.seed,
            device=_device(given.device, processes),
            resume=not given.no_resume,
        )
    except KeyboardInterrupt:
        print("elevator: the same command goes on from the last checkpoint", file=sys.stderr)
        raise
    print(folder)
    return 0


def _device(asked: str | None, processes: int) -> str | None:
    """Every process has a GPU of its own, if they are many."""
    import torch

    if asked is None and processes > 1 and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return asked
