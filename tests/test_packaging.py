"""The package is what `pyproject.toml` says, under the names users import."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_version(pyproject: dict[str, Any]) -> None:
    import elevator

    version = pyproject["project"]["version"]
    assert elevator.__version__ == version
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_is_listed(pyproject: dict[str, Any]) -> None:
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "elevator").rglob("__init__.py")
    }
    found |= {"elevator.samplers", "elevator.filters"}
    assert set(pyproject["tool"]["setuptools"]["packages"]) == found


@pytest.mark.parametrize("name", ["samplers", "filters"])
def test_the_symlinks_lead_to_the_top_level_folders(name: str) -> None:
    link = ROOT / "elevator" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    file = importlib.import_module(f"elevator.{name}").__file__
    assert file is not None
    assert Path(file).resolve() == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", ["samplers", "filters"])
def test_the_guard_names_the_right_import(name: str) -> None:
    message = f"this folder is the package elevator.{name}; import it under that name"
    result = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.strip().endswith(f"ImportError: {message}")


def third_party(*folders: str) -> set[str]:
    """The foreign top-level packages that sources import."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    tops = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                tops.add(node.module.split(".")[0])
    ours = {"elevator", *(file.stem for file in files), *(file.parent.name for file in files)}
    return tops - ours - set(sys.stdlib_module_names)


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line, maxsplit=1)[0].lower() for line in requirements}


def undeclared(imported: set[str], declared: set[str]) -> set[str]:
    provided = packages_distributions()
    return {
        name
        for name in imported
        if not declared & {dist.lower() for dist in provided.get(name, [name])}
    }


def test_what_is_imported_is_declared(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    optional = [line for extra in ("xformers", "metrics", "report") for line in extras[extra]]
    declared = distributions([*project["dependencies"], *optional])
    assert not undeclared(third_party("elevator", "samplers", "filters"), declared)
    assert not undeclared(
        third_party("tests", "benchmarks"), declared | distributions(extras["test"])
    )


def test_an_undeclared_import_would_be_noticed() -> None:
    assert undeclared({"torch", "sympy"}, {"torch"}) == {"sympy"}


def test_shapes_are_checked_while_testing(tmp_path: Path) -> None:
    """The import hook reaches modules behind the symlinks too."""
    (tmp_path / "elevator").mkdir()
    for name in ("samplers", "filters"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / "elevator" / name).symlink_to(Path("..", name))
    (tmp_path / "elevator/__init__.py").touch()
    (tmp_path / "filters/__init__.py").write_text(
        "from jaxtyping import Float\n"
        "from torch import Tensor\n"
        'def same(x: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:\n'
        "    return x\n"
    )
    (tmp_path / "test_shapes.py").write_text(
        "import pytest\nimport torch\n"
        "def test_shapes():\n"
        "    from elevator.filters import same\n"
        "    same(torch.ones(2, 3))\n"
        "    with pytest.raises(Exception, match='same'):\n"
        "        same(torch.ones(2))\n"
    )
    for name in ("typechecker.py", "conftest.py"):
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / name).write_bytes((ROOT / "tests" / name).read_bytes())
    (tmp_path / "test_shapes.py").rename(tmp_path / "tests" / "test_shapes.py")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_shapes.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
