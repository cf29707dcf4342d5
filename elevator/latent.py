"""The one layout every hook sees, and the frame count published to patched networks.

Axes: batch `b`, channels `c`, frames `f`, height `h`, width `w`. `t` is diffusion time and
never the frame axis.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

__all__ = ["Latent", "current_frames", "publish_frames"]

Latent: TypeAlias = Float[Tensor, "b c f h w"]

_frames: ContextVar[int | None] = ContextVar("elevator_frames", default=None)


def current_frames() -> int | None:
    """Number of consecutive batch rows of a network call that are frames sharing one anchor.

    A patched module sees only a batch; guidance doubles it and windows cut it. Whoever calls the
    network (an attached pipeline, a denoiser, a decoder) publishes the count. None: nobody did.
    """
    return _frames.get()


@contextmanager
def publish_frames(frames: int | None) -> Iterator[None]:
    """Make `current_frames()` return `frames` inside the `with` block."""
    token = _frames.set(frames)
    try:
        yield
    finally:
        _frames.reset(token)
