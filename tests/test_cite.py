"""Citations of exactly what was composed."""

from dataclasses import dataclass
from typing import ClassVar, final

import elevator as el
from elevator.hook import Hook, Step
from elevator.latent import Latent
from elevator.samplers import DDIMInversion, SDEdit
from tests.builders import FakeDenoiser

ONE = "@article{one,\n  title={One},\n}"
TWO = "@article{two,\n  title={Two},\n}"


@final
@dataclass(frozen=True)
class Cited(Hook[tuple[()]]):
    """Implements two papers."""

    paper: ClassVar[str | None] = f"{ONE}\n\n\n{TWO}\n"

    def update(self, clean: Latent, step: Step, state: tuple[()]) -> tuple[Latent, tuple[()]]:
        return clean, state


def test_nothing_to_cite() -> None:
    assert el.cite(el.identity()) == ""
    assert el.cite(el.stateless(lambda clean, step: clean)) == ""


def test_every_entry_once_in_order_wherever_it_is() -> None:
    hook = el.chain(el.blend(0.5, el.at({1}, Cited())), el.every(2, Cited()))
    assert el.cite(hook) == f"{ONE}\n\n{TWO}"


def test_rules_are_cited_too() -> None:
    rule = DDIMInversion(FakeDenoiser())
    hook = el.chain(Cited(), el.renoise(el.at({1}, SDEdit(FakeDenoiser(), 1)), rule))
    keys = [line for line in el.cite(hook).splitlines() if line.startswith("@")]
    assert keys[:2] == ["@article{one,", "@article{two,"]
    assert "@inproceedings{meng2022sdedit," in keys
    assert "@inproceedings{song2021denoising," in keys
    assert len(keys) == len(set(keys))


def test_entries_are_whole() -> None:
    """Braces match and every entry ends: it can be pasted into a .bib file."""
    text = el.cite(el.renoise(SDEdit(FakeDenoiser(), 1), DDIMInversion(FakeDenoiser())))
    assert text.count("{") == text.count("}")
    for entry in text.split("\n\n"):
        assert entry.startswith("@")
        assert entry.endswith("}")


def test_videoelevator_cites_itself_and_what_it_is_made_of() -> None:
    from elevator.models.inflate import CrossFrameAttention

    hook = el.renoise(SDEdit(FakeDenoiser(), 1), DDIMInversion(FakeDenoiser()))
    keys = [
        line.split("{")[1].rstrip(",")
        for line in el.cite(hook, [CrossFrameAttention()]).splitlines()
        if line.startswith("@")
    ]
    assert keys.count("zhang2024videoelevator") == 1
    assert "khachatryan2023text2videozero" in keys
