"""What only a look through all parts of a network tells, looked up once a run.

A U-Net has a thousand parts. On a GPU such a look takes as long as a few of its layers, and hooks
call networks many times a step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from elevator.hosts.caches import memories_of

__all__ = ["Facts", "FactsById", "facts_of", "looked_up"]


@dataclass(frozen=True)
class Facts:
    """Facts of a network.

    Attributes:
        network: the network, kept so that no other takes its place in memory.
        dtype: what it computes in.
        memories: what caches keep of it (`memories_of`).
    """

    network: Any
    dtype: torch.dtype
    memories: list[Any]


FactsById: TypeAlias = dict[int, Facts]
"""Facts by the identity of their network."""

_known: ContextVar[FactsById | None] = ContextVar("elevator_facts", default=None)


def facts_of(network: Any) -> Facts:
    """Facts of a diffusers network; inside `looked_up` those found before, outside new ones."""
    known = _known.get()
    if known is None:
        return _look(network)
    if id(network) not in known:
        known[id(network)] = _look(network)
    return known[id(network)]


@contextmanager
def looked_up(known: FactsById) -> Iterator[None]:
    """Take facts from `known` within the `with` block, and put new ones there."""
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def _look(network: Any) -> Facts:
    return Facts(network, network.dtype, memories_of([network]))
