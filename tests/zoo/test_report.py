"""The report: one page that needs nothing else, with every clip and plot in it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from elevator import world
from elevator.errors import CheckError, ElevatorError
from elevator.zoo.report import Point, _cost_plot, _refinements, write
from elevator.zoo.sampling import NUMBERS

SHORT = replace(NUMBERS, frames=2, steps=4, refine=(4, 3), t2v_steps=1, steady=(1,))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    file = write(folder / "new" / "r.html", 1, numbers=SHORT, progress=lambda told: None)
    assert [path.name for path in file.parent.iterdir()] == ["r.html"]
    return file.read_text(encoding="utf-8")


def test_every_caption_has_a_clip_of_every_arrangement(page: str) -> None:
    (scene,) = world.draw(1, seed=0, split="held-out")
    assert scene.caption() in page
    assert f'alt="T2V: {scene.caption()}"' in page
    assert re.search(r"averaged, [1-9]\d* of the\s+autoencoder", page)
    clips = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert len(clips) == len(set(clips)) == 5


def test_nothing_outside_the_page_is_asked_for(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="(\w+)', page)) <= {"data"}
    assert not re.findall(r"\$[a-z]", page)


def test_more_refinements_cost_more_and_inversions_too(page: str) -> None:
    rows = re.findall(r"<tr><th>([^<]+)</th><td>(\d+)</td><td>0\.", page)
    costs = {label: int(cost) for label, cost in rows}
    ways = ("shared noise", "inverted", "inverted fast")
    assert [*costs] == ["truth", "T2V", *(f"{count}, {way}" for way in ways for count in (1, 2, 3))]
    assert 0 == costs["truth"] < costs["T2V"]
    for way in ways:
        assert costs[f"1, {way}"] < costs[f"2, {way}"] < costs[f"3, {way}"]
    assert costs["3, shared noise"] < costs["3, inverted fast"] < costs["3, inverted"]
    assert page.count("<svg") == 2


def test_a_plot_is_the_same_every_time() -> None:
    points = [
        Point(label, 1, 2, 3, 1, 1) for label in ("truth", "T2V", "1, inverted", "1, shared noise")
    ]
    assert _cost_plot(points) == _cost_plot(points)


def test_refinement_points_follow_the_numbers() -> None:
    assert [*_refinements(replace(SHORT, refine=(23, 21, 19)))] == [
        (23,),
        (23, 21),
        (23, 21, 19),
        (23, 21, 19, 17),
    ]
    assert [*_refinements(replace(SHORT, refine=(1,)))] == [(1,)]


def test_what_cannot_be_written_is_refused_before_sampling(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ElevatorError, match=r"r\.html cannot be written"):
        write(tmp_path / "file" / "r.html")
    with pytest.raises(CheckError, match="prompts=0; it shows at least one"):
        write(tmp_path / "r.html", 0)


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ElevatorError, match=r"pip install 'elevator\[report\]'"):
        write(tmp_path / "report.html")
