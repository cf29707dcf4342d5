"""Hooks in another space: what is carried over, what is not, and what it may not be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
import torch

import elevator as el
from elevator.errors import HookError
from elevator.latent import Latent
from elevator.samplers import Known
from elevator.through import Other, Shape, through
from tests.builders import make_latent, make_run, make_step, tiny_sd
from tests.conformance import Drift


@dataclass(frozen=True)
class Double:
    """A space where everything is twice as large, in half the frames."""

    seen: list[str] = field(default_factory=list, compare=False)

    def across(self, latent: Latent) -> Other:
        self.seen.append("across")
        return 2 * latent[:, :, ::2]

    def back(self, latent: Latent) -> Other:
        self.seen.append("back")
        return latent.repeat_interleave(2, dim=2) / 2

    def shape_across(self, shape: Shape) -> Shape:
        b, c, f, h, w = shape
        return b, c, f // 2, h, w

    def pictures_across(self, pictures: int) -> int:
        return 2 * pictures

    def check(self, frames: int | None) -> Iterable[str]:
        if frames is not None and frames % 2:
            yield f"{frames} frames are odd; give an even number"


SHAPE = (1, 4, 4, 8, 8)
PAIRS = make_latent((1, 4, 2, 8, 8), 3).repeat_interleave(2, dim=2)


def test_the_hook_is_applied_there() -> None:
    way, run = Double(), make_run(SHAPE)
    hook = through(way, Drift(0.5))
    changed, _ = hook.update(PAIRS, make_step(run, 0), hook.init(run))
    torch.testing.assert_close(changed, PAIRS + 0.25)
    assert way.seen == ["across", "back"]


def test_nothing_crosses_where_the_hook_does_not_act_or_change() -> None:
    way, run = Double(), make_run(SHAPE)
    hook = through(way, el.at({2}, Drift()))
    changed, _ = hook.update(PAIRS, make_step(run, 0), hook.init(run))
    assert changed is PAIRS
    assert way.seen == []
    changed, _ = through(way, el.identity()).update(PAIRS, make_step(run, 0), ())
    assert changed is PAIRS
    changed, _ = through(way, Drift(0.0)).update(PAIRS, make_step(run, 0), ())
    assert changed is PAIRS
    assert "back" not in way.seen


def test_noise_there_has_the_shape_there() -> None:
    seen: list[tuple[int, ...]] = []

    def drawing(clean: Latent, step: el.Step) -> Latent:
        seen.append((step.run.pictures, *step.draw().shape))
        return clean + step.draw()

    run = make_run(SHAPE)
    hook = through(Double(), el.stateless(drawing))
    hook.update(PAIRS, make_step(run, 0), hook.init(run))
    assert seen == [(2, 1, 4, 2, 8, 8)]


def test_noise_does_not_cross() -> None:
    run = make_run(SHAPE)
    hook = through(Double(), el.stateless(lambda clean, step: clean + step.noisy))
    with pytest.raises((HookError, RuntimeError), match=r"does not cross|meta"):
        hook.update(PAIRS, make_step(run, 0), hook.init(run))


def test_rules_stay_outside() -> None:
    with pytest.raises(ValueError, match=r"renoise\(through\(bridge, hook\), rule\)"):
        through(Double(), el.renoise(Drift(), el.KeepNoise()))
    with pytest.raises(TypeError):
        through(Double(), lambda clean: clean)  # type: ignore[arg-type]


def test_checks_of_both_are_told() -> None:
    problems = el.check(tiny_sd(), through(Double(), Drift()), frames=3)
    assert problems == ("3 frames are odd; give an even number",)


def test_hooks_inside_are_checked_as_they_see_the_host() -> None:
    known = Known(make_latent((1, 4, 1, 8, 8)), frames=(1,))
    assert el.check(tiny_sd(), through(Double(), known), frames=4) == ()
    (problem,) = el.check(tiny_sd(), through(Double(), known), frames=2)
    assert "frames" in problem


def test_it_acts_where_its_hook_does() -> None:
    assert through(Double(), el.at({1, 3}, Drift())).acts_at(5) == {1, 3}
