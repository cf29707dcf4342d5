"""Patches: reversible changes inside a network (cross-frame attention, adapters)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from torch import nn

from elevator.denoise import Call

__all__ = ["Patch", "calls_of"]


class Patch(ABC):
    """A change inside a network for the length of a `with` block; a frozen dataclass."""

    paper: ClassVar[str | None] = None

    @abstractmethod
    def apply(self, module: nn.Module) -> AbstractContextManager[None]:
        """Change `module` on entry and leave it exactly as it was on exit, also after an error."""

    def check(self, module: nn.Module) -> Iterable[str]:
        """Plain sentences, each with its remedy, on why this patch cannot change `module`."""
        return ()

    def calls(self, call: Call) -> Iterable[Call]:
        """What becomes of one call of the network, for `el.plan`; the call itself by default."""
        return (call,)


def calls_of(patches: Sequence[Patch], call: Call) -> list[Call]:
    """What patches, one inside the other, make of one call of the network."""
    calls = [call]
    for patch in patches:
        calls = [part for one in calls for part in patch.calls(one)]
    return calls
