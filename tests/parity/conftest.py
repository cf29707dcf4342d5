"""A folder given with `--goldens` must have something to compare with."""

import pytest

from tests.parity.cases import require_cases


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config) -> None:
    require_cases(config)
