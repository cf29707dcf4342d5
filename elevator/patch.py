"""Patches: reversible changes inside a network (cross-frame attention, adapters)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import ClassVar

from torch import nn

__all__ = ["Patch"]


class Patch(ABC):
    """A change inside a network for the length of a `with` block; a frozen dataclass."""

    paper: ClassVar[str | None] = None

    @abstractmethod
    def apply(self, module: nn.Module) -> AbstractContextManager[None]:
        """Change `module` on entry and leave it exactly as it was on exit, also after an error."""

    def check(self, module: nn.Module) -> Iterable[str]:
        """Plain sentences, each with its remedy, on why this patch cannot change `module`."""
        return ()
