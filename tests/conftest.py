"""Options and fixtures that every test may use.

Nothing of ours is imported at the top: the fixtures import what they need.
"""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

import pytest
import torch

import tests.typechecker  # noqa: F401  (found by name once it is imported; see pyproject.toml)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("elevator")
    group.addoption(
        "--device",
        default="cpu",
        help="device of the tests that run on any device and dtype (default: cpu)",
    )
    group.addoption(
        "--dtype",
        default="bfloat16",
        choices=["float16", "bfloat16", "float32", "float64"],
        help="dtype of the networks in those tests (default: bfloat16)",
    )
    group.addoption(
        "--goldens",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of recorded tensors to compare with, one subfolder per paper",
    )


def pytest_configure(config: pytest.Config) -> None:
    goldens = config.getoption("--goldens")
    if goldens is not None and not goldens.is_dir():
        raise pytest.UsageError(f"--goldens {goldens} is not a folder")
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    torch.set_num_threads(max(1, min(4, threads // workers)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep together, for `-n 2 --dist loadgroup`, what shares fixtures that are slow to make.

    That is the tests of a file, and where a file goes through many pipelines, those of each.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            given: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
            item.add_marker(pytest.mark.xdist_group(f"{item.path} {given.get('name', '')}"))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same global seed for every test, and no trace of it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(str(request.config.getoption("--device")))


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen = getattr(torch, str(request.config.getoption("--dtype")))
    assert isinstance(chosen, torch.dtype)
    return chosen
