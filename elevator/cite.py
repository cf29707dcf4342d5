"""BibTeX for exactly what was composed."""

from typing import Any

from elevator.hook import Hook, parts
from elevator.renoise import rules

__all__ = ["cite"]


def cite(hook: Hook[Any]) -> str:
    """BibTeX entries of the papers behind a composition, each once, in order of appearance."""
    entries: list[str] = []
    papers = [part.paper for part in parts(hook)] + [rule.paper for rule in rules(hook)]
    for paper in papers:
        for entry in (paper or "").split("\n\n"):
            if entry.strip() and entry.strip() not in entries:
                entries.append(entry.strip())
    return "\n\n".join(entries)
