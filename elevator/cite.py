"""BibTeX for exactly what was composed."""

from collections.abc import Sequence
from typing import Any

from elevator.hook import Hook, parts
from elevator.patch import Patch
from elevator.renoise import rules

__all__ = ["cite"]


def cite(hook: Hook[Any], patches: Sequence[Patch] = ()) -> str:
    """BibTeX entries of the papers behind a composition, each once, in order of appearance.

    Args:
        hook: the composition; the rules bound in it count.
        patches: changes inside the network that are applied with it.
    """
    entries: list[str] = []
    papers = [part.paper for part in parts(hook)] + [rule.paper for rule in rules(hook)]
    papers += [patch.paper for patch in patches]
    for paper in papers:
        for entry in (paper or "").split("\n\n"):
            if entry.strip() and entry.strip() not in entries:
                entries.append(entry.strip())
    return "\n\n".join(entries)
