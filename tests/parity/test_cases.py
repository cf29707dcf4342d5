"""A folder of recordings may hold any part of them, and a case's json may leave things out."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.parity.cases import (
    COMMITTED,
    cases_of,
    folder_of,
    keys_of,
    model_of,
    offer,
    require_cases,
    rows_of,
)
from tests.parity.test_videoelevator_e2e import Reference


def config(goldens: Path | None) -> Any:
    return SimpleNamespace(getoption=lambda name: goldens, stash=pytest.Stash())


def test_the_folder_is_the_papers_or_the_one_around_it(tmp_path: Path) -> None:
    paper = tmp_path / "videoelevator"
    paper.mkdir()
    assert folder_of(config(None), "videoelevator") == COMMITTED / "videoelevator"
    assert folder_of(config(tmp_path), "videoelevator") == paper
    assert folder_of(config(paper), "videoelevator") == paper


def test_what_is_missing_gives_no_cases(tmp_path: Path) -> None:
    assert cases_of(tmp_path / "e2e") == []
    assert keys_of(tmp_path / "attention") == []
    (tmp_path / "filters.json").write_text("[{}]")
    assert rows_of(tmp_path / "filters") == []
    (tmp_path / "filters.safetensors").touch()
    assert rows_of(tmp_path / "filters") == [{}]


def test_networks_are_those_beside_the_cases_or_the_committed_ones(tmp_path: Path) -> None:
    (tmp_path / "models" / "vae").mkdir(parents=True)
    assert model_of(tmp_path, "vae") == tmp_path / "models" / "vae"
    assert model_of(tmp_path, "t2i_unet") == COMMITTED / "videoelevator" / "models" / "t2i_unet"
    assert model_of(tmp_path, "unheard_of") is None


@pytest.mark.parametrize(
    ("given", "counts", "stops"),
    [(True, [0, 0], True), (True, [0, 1], False), (True, [], False), (False, [0], False)],
)
def test_a_folder_without_any_case_stops_the_run(
    tmp_path: Path, given: bool, counts: list[int], stops: bool
) -> None:
    one: Any = SimpleNamespace(
        config=config(tmp_path if given else None), parametrize=lambda *args, **kwargs: None
    )
    for count in counts:
        offer(one, "case", ["it"] * count, str)
    if not stops:
        require_cases(one.config)
        return
    with pytest.raises(pytest.UsageError, match="has no case for any of the tests collected"):
        require_cases(one.config)


@pytest.mark.parametrize("name", ["animatelcm_like", "t2i_only"])
def test_draws_are_placed_without_what_a_json_may_leave_out(name: str, tmp_path: Path) -> None:
    case = COMMITTED / "videoelevator" / "e2e" / name
    (tmp_path / "e2e").mkdir()
    shutil.copy(f"{case}.safetensors", tmp_path / "e2e")
    settings = json.loads(Path(f"{case}.json").read_text())
    bare = {key: settings[key] for key in settings.keys() - {"counts", "filter"}} | {"extra": None}
    if not bare["stable_steps"]:
        del bare["stable_steps"]
    bare["trace"] = [
        {key: event[key] for key in event.keys() & {"op", "role"}} for event in settings["trace"]
    ]
    (tmp_path / "e2e" / f"{name}.json").write_text(json.dumps(bare))
    whole, left = Reference(case), Reference(tmp_path / "e2e" / name)
    assert left.hook_draws.keys() == whole.hook_draws.keys()
    assert all(left.hook_draws[key].equal(whole.hook_draws[key]) for key in whole.hook_draws)
    assert left.start().equal(whole.start())
    assert (left.refine, left.filtered) == (whole.refine, whole.filtered)
    assert left.filter() is not None
