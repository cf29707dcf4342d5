"""`elevator zoo`: the built-in models."""

from __future__ import annotations

import argparse
import sys

from elevator import zoo
from elevator.cli.doctor import require_device
from elevator.errors import CheckError

__all__ = ["run"]


def run(given: argparse.Namespace) -> int:
    """List, train or report."""
    if given.action == "list":
        _list()
    elif given.action == "report":
        _report(given)
    else:
        _train(given)
    return 0


def _list() -> None:
    for name in zoo.names():
        place = zoo.path(name)
        files = [file for file in (place, *place.rglob("*")) if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        state = f"{size / 1e6:.1f} MB" if size else f"no weights; elevator zoo train {name}"
        print(f"{name:10} {state:10} {place}")


def _report(given: argparse.Namespace) -> None:
    from elevator.zoo.report import write

    if not given.out.endswith(".html"):
        raise CheckError([f"the report is an .html file; {given.out} ends otherwise"])
    print(write(given.out, given.prompts, given.seed))


def _train(given: argparse.Namespace) -> None:
    from elevator.zoo.train import NAMES, train

    if given.name not in NAMES:
        raise CheckError(
            [f"there is no model {given.name!r} to train; choose one of {', '.join(NAMES)}"]
        )
    if given.device is not None:
        require_device(given.device)
    try:
        folder = train(
            given.name,
            given.steps,
            given.out,
            given.device,
            resume=not given.no_resume,
            seed=given.seed,
        )
    except KeyboardInterrupt:
        print("elevator: the same command goes on from the last checkpoint", file=sys.stderr)
        raise
    print(folder)
