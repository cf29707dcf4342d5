"""Every check of `conformance.py` on every hook."""

from collections.abc import Callable

import pytest

pytest.register_assert_rewrite("tests.conformance")

from tests.conformance import CASES, CHECKS, Case  # noqa: E402


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hook(case: Case, check: Callable[[Case], None]) -> None:
    check(case)


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
