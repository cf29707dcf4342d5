"""Keep what diffusers' caches remember of a network apart from calls that hooks make of it.

A cache (`enable_cache`, `apply_...`) takes every call of its network for the next step of one loop.
A call from inside a hook would be answered from that loop's memory and would overwrite it; here it
finds an empty memory, and the loop goes on as if there had been no call.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["apart_from", "memories_of"]


def memories_of(networks: Iterable[nn.Module]) -> list[Any]:
    """What caches keep of networks: each a hook with a `state`, or a table of states by context."""
    registries = (
        vars(module).get("_diffusers_hook") for network in networks for module in network.modules()
    )
    hooks = [
        hook
        for registry in registries
        if registry is not None
        for hook in registry.hooks.values()
        if hook._is_stateful
    ]
    tables = {
        id(value): value for hook in hooks for value in vars(hook).values() if _is_table(value)
    }
    return [
        *(hook for hook in hooks if hasattr(vars(hook).get("state"), "reset")),
        *tables.values(),
    ]


@contextmanager
def apart_from(memories: Sequence[Any]) -> Iterator[None]:
    """Give caches an empty memory within the `with` block; afterwards they have their own again."""
    before = []
    for memory in memories:
        empty = _empty(memory)
        before.append((memory, {name: vars(memory)[name] for name in empty}))
        vars(memory).update(empty)
    try:
        yield
    finally:
        for memory, own in before:
            vars(memory).update(own)


def _is_table(value: Any) -> bool:
    from diffusers.hooks.hooks import StateManager

    return isinstance(value, StateManager)


def _empty(memory: Any) -> dict[str, Any]:
    """The attributes a memory begins with."""
    from diffusers.hooks.hooks import CacheContext

    if _is_table(memory):
        return {"_state_cache": {}, "_context": CacheContext("elevator")}
    state = copy.copy(memory.state)
    state.reset()
    return {"state": state}
