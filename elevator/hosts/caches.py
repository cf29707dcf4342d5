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
    hooks = [
        hook
        for registry in _registries(networks)
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


def _registries(networks: Iterable[nn.Module]) -> list[Any]:
    """What holds the hooks of a module, of every module that has any, each once.

    Walks by hand: `Module.modules` makes up a name for each of a U-Net's thousand parts, and takes
    twice as long.
    """
    found, parts = {}, [*networks]
    while parts:
        own = vars(parts.pop())
        if "_diffusers_hook" in own:
            found[id(own)] = own["_diffusers_hook"]
        parts += [part for part in own["_modules"].values() if part is not None]
    return [*found.values()]


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
