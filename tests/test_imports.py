"""Who may import whom, read from the sources; and what `import elevator` must not load."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# --- the table ------------------------------------------------------------------------------------
# A name stands for the module and everything below it; the longest name that fits a module is its
# line. A package may always import itself.

GROUND = (
    *("elevator.errors", "elevator.level", "elevator.schedule", "elevator.latent"),
    "elevator.papers",
)
CORE = (
    *GROUND,
    "elevator.noise",
    "elevator.denoise",
    "elevator.hook",
    "elevator.combine",
    "elevator.renoise",
    "elevator.through",
    "elevator.patch",
    "elevator.cite",
)
RUN = ("elevator.attach", "elevator.plan")  # the core's two doors to the hosts, opened lazily
PARTS = ("elevator.filters", "elevator.samplers", "elevator.models", "elevator.hosts")
EVERYTHING_BUT_CLI = (
    "elevator",
    *CORE,
    *RUN,
    *PARTS,
    "elevator.recipes",
    "elevator.pipelines",
    "elevator.preview",
    "elevator.upscale",
    "elevator.video",
    "elevator.world",
    "elevator.metrics",
    "elevator.zoo",
)

MAY_IMPORT: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(GROUND, GROUND),
    "elevator.noise": GROUND,
    "elevator.hook": (*GROUND, "elevator.noise"),
    "elevator.patch": (*GROUND, "elevator.denoise"),  # what a patch makes of a call
    "elevator.through": (*GROUND, "elevator.noise", "elevator.hook", "elevator.renoise"),
    "elevator.combine": (*GROUND, "elevator.noise", "elevator.hook"),
    "elevator.renoise": (*GROUND, "elevator.noise", "elevator.hook"),
    "elevator.denoise": GROUND,
    "elevator.cite": CORE,
    "elevator.attach": (*CORE, *RUN, "elevator.hosts"),
    "elevator.plan": (*CORE, *RUN, "elevator.hosts"),
    "elevator.filters": CORE,
    "elevator.samplers": CORE,
    "elevator.models": (*CORE, "elevator.video.windows"),  # one plan for long clips
    "elevator.models.raft": (*CORE, "elevator.models", "elevator.filters.flow"),  # what it gives
    "elevator.hosts": (*CORE, "elevator.samplers"),
    "elevator.hosts.called": (*CORE, "elevator.attach", "elevator.hosts"),
    "elevator.recipes": (*CORE, *RUN, *PARTS),
    "elevator.pipelines": (
        *CORE,
        *RUN,
        *PARTS,
        "elevator.recipes",
        "elevator.video",
    ),
    "elevator.preview": (*CORE, "elevator.video"),
    "elevator.upscale": (*CORE, *RUN, *PARTS, "elevator.pipelines", "elevator.video.windows"),
    "elevator.video": CORE,
    "elevator.video.jobs": EVERYTHING_BUT_CLI,
    "elevator.video.stretches": (*CORE, "elevator.upscale", "elevator.video"),
    "elevator.world": (*CORE, "elevator.filters"),
    "elevator.metrics": (*CORE, "elevator.filters", "elevator.world"),
    "elevator.zoo": EVERYTHING_BUT_CLI,
    "elevator": EVERYTHING_BUT_CLI,  # the public names; lazily where it costs
    "elevator.cli": (*EVERYTHING_BUT_CLI, "elevator.cli"),
    "elevator.__main__": ("elevator.cli",),
}

# These imports may only stand inside a function (or under TYPE_CHECKING).
LAZY = {
    ("elevator.attach", "elevator.hosts"),
    ("elevator.plan", "elevator.hosts"),
}

# --- reading --------------------------------------------------------------------------------------

Kind = Literal["module", "function", "typing"]


class Import(NamedTuple):
    source: str
    target: str
    line: int
    kind: Kind


def modules(root: Path) -> dict[str, Path]:
    """Every module of ours by the name it is imported under."""
    found = {}
    for folder, package in (
        (root / "elevator", "elevator"),
        (root / "samplers", "elevator.samplers"),
        (root / "filters", "elevator.filters"),
    ):
        for file in folder.rglob("*.py"):  # does not follow the symlinks
            parts = file.relative_to(folder).with_suffix("").parts
            if package == "elevator" and parts[0] in {"samplers", "filters"}:
                continue
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = file
    return found


def imports(name: str, file: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """What a module imports of ours, relative imports resolved."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]

    def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        base = node.module or ""
        if node.level:
            up = package.split(".")
            up = up[: len(up) - node.level + 1]
            base = ".".join([*up, base] if base else up)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in known else base

    def walk(node: ast.AST, kind: Kind) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets(node):
                if target.split(".")[0] in {"elevator", "samplers", "filters"}:
                    yield Import(name, target, node.lineno, kind)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for branch in node.body:
                yield from walk(branch, "typing")
            for branch in node.orelse:
                yield from walk(branch, kind)
        else:
            inner: Kind = kind
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and kind == "module":
                inner = "function"
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inner)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), "module")


def within(module: str, name: str) -> bool:
    """Whether `name` stands for `module`; the bare root stands for itself only."""
    return module == name or (name != "elevator" and module.startswith(name + "."))


def row(module: str) -> str | None:
    return max((name for name in MAY_IMPORT if within(module, name)), key=len, default=None)


def violations(root: Path) -> list[str]:
    known = modules(root)
    found = []
    for name, file in sorted(known.items()):
        own = row(name)
        if own is None:
            found.append(f"{name} has no line in the table of tests/test_imports.py: add one")
            continue
        for item in imports(name, file, known):
            where = f"{file.relative_to(root)}:{item.line}: {name} imports {item.target}"
            if not item.target.startswith("elevator"):
                found.append(f"{where}: write elevator.{item.target}")
            elif not any(within(item.target, other) for other in (own, *MAY_IMPORT[own])):
                found.append(f"{where}, which the table does not allow")
            elif item.kind == "module" and any(
                within(name, source) and within(item.target, target) for source, target in LAZY
            ):
                found.append(f"{where} at module level: move it into the function that needs it")
    return found


def cycle(root: Path) -> list[str]:
    """One circle of module-level imports, or nothing."""
    known = modules(root)
    graph = {
        name: sorted({i.target for i in imports(name, file, known) if i.kind == "module"} - {name})
        for name, file in known.items()
    }
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in graph.get(name, []):
            if circle := visit(target, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in graph if (circle := visit(name, []))), [])


# --- the rules hold -------------------------------------------------------------------------------


def test_imports_follow_the_table() -> None:
    assert not (found := violations(ROOT)), "\n" + "\n".join(found)


def test_no_circle_of_imports() -> None:
    assert not (circle := cycle(ROOT)), " -> ".join(circle)


def test_filters_and_samplers_know_neither_each_other_nor_models() -> None:
    for one, other in (
        ("elevator.filters", "elevator.samplers"),
        ("elevator.samplers", "elevator.filters"),
        ("elevator.filters", "elevator.models"),
        ("elevator.samplers", "elevator.models"),
    ):
        assert other not in MAY_IMPORT[one]


# --- and would be seen to break -------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tiny repository without a fault."""
    for file, text in {
        "elevator/__init__.py": "from elevator.level import Level as Level\n",
        "elevator/level.py": "import torch\n",
        "elevator/hook.py": "from .level import Level\n",
        "elevator/attach.py": "def attach():\n    from elevator.hosts import scheduler\n",
        "elevator/hosts/__init__.py": "",
        "elevator/hosts/scheduler.py": "from .. import hook\nfrom ..samplers import ddim\n",
        "elevator/models/__init__.py": "",
        "filters/__init__.py": "from . import lowpass\n",
        "filters/lowpass.py": "from ..hook import Hook\n",
        "samplers/__init__.py": "",
        "samplers/ddim.py": "from elevator.hook import Hook\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


def test_a_faultless_tree_passes(tree: Path) -> None:
    assert violations(tree) == []
    assert cycle(tree) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("filters/warp.py", "from elevator.samplers import ddim", "elevator.samplers.ddim"),
        ("filters/warp.py", "from elevator.samplers.ddim import f", "elevator.samplers.ddim"),
        ("filters/warp.py", "from ..samplers import ddim", "elevator.samplers.ddim"),
        ("filters/warp.py", "from .. import models", "elevator.models"),
        ("filters/warp.py", "import elevator.models", "elevator.models"),
        ("filters/warp.py", "import elevator", "imports elevator,"),
        ("filters/warp.py", "import samplers.ddim", "write elevator.samplers.ddim"),
        ("samplers/lcm.py", "def f():\n    from elevator import filters", "elevator.filters"),
        (
            "samplers/lcm.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from ..filters import lowpass",
            "samplers/lcm.py:3: elevator.samplers.lcm imports elevator.filters.lowpass",
        ),
        ("elevator/level.py", "from .hook import Hook", "elevator.hook"),
        ("elevator/attach.py", "from .hosts import scheduler", "at module level"),
        ("elevator/novelty.py", "", "elevator.novelty has no line in the table"),
    ],
)
def test_a_planted_violation_is_found(tree: Path, file: str, text: str, message: str) -> None:
    (tree / file).write_text(text)
    (found,) = violations(tree)
    assert message in found


def test_a_planted_circle_is_found(tree: Path) -> None:
    (tree / "elevator/level.py").write_text("from .hook import Hook\n")
    assert set(cycle(tree)) == {"elevator.level", "elevator.hook"}


# --- what `import elevator` loads -----------------------------------------------------------------

HEAVY = ("diffusers", "transformers", "peft", "accelerate", "av", "cv2")


def loaded(statement: str, *path: Path) -> list[str]:
    """Which of the heavy packages a statement loads in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*({{*sys.modules}} & {{*{HEAVY!r}}}))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))},
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(result.stdout.split())


def test_import_elevator_loads_no_diffusers() -> None:
    assert loaded("import elevator") == []


def test_a_heavy_import_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "diffusers.py").touch()  # stands in for the real one, which takes seconds
    assert loaded("import elevator, diffusers", tmp_path) == ["diffusers"]
