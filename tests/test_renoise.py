"""Re-noising rules: their formulas, when they run, and what they refuse."""

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, final

import pytest
import torch
from torch import Tensor

from elevator import combine
from elevator.attach import attach
from elevator.combine import at, blend, chain, stateless
from elevator.hook import Hook, Host, Run, Step
from elevator.latent import Latent
from elevator.noise import Key
from elevator.renoise import FreshNoise, KeepNoise, Renoise, renoise, renoise_conflicts, rules
from tests.builders import (
    SHAPE,
    drive,
    make_latent,
    make_run,
    make_step,
    sample,
    scheduler_of,
    tiny_sd,
)
from tests.conformance import Drift, Jitter, Trail

HOST = Host("DDIMScheduler", 1, "epsilon", steps=6)


@final
@dataclass(frozen=True)
class Witness(Renoise[int]):
    """Notes what it is given at every step; replaces the latent where its hook changed it."""

    seen: list[tuple[int, Tensor | None, int]] = field(default_factory=list, compare=False)
    complaint: str = ""

    def init(self, run: Run) -> int:
        return 0

    def update(
        self, clean: Latent | None, proposed: Latent, step: Step, state: int
    ) -> tuple[Latent, int]:
        self.seen.append((step.index, clean, state))
        return (proposed if clean is None else proposed + 1), state + 1

    def check(self, host: Host) -> Iterable[str]:
        if self.complaint:
            yield self.complaint


def at_which(witness: Witness) -> list[int]:
    """Steps at which the rule was told of a changed estimate."""
    return [index for index, clean, _ in witness.seen if clean is not None]


# --- the formulas ---------------------------------------------------------------------------------


def test_keep_noise_is_its_formula() -> None:
    step = make_step(make_run(), 2)
    clean, proposed = make_latent(SHAPE, 1), make_latent(SHAPE, 2)
    latent, _ = KeepNoise().update(clean, proposed, step, ())
    after = step.run.schedule[3]
    expected = after.alpha * clean + after.sigma * step.predicted.noise
    assert torch.equal(latent, expected)
    assert latent.dtype == torch.float32


def test_fresh_noise_is_its_formula_with_keyed_noise() -> None:
    step = replace(make_step(make_run(), 2), place=(4, 1))
    clean, proposed = make_latent(SHAPE, 1), make_latent(SHAPE, 2)
    latent, _ = FreshNoise().update(clean, proposed, step, ())
    after = step.run.schedule[3]
    drawn = step.run.noise(Key(2, (4, 1), "renoise"), SHAPE, torch.device("cpu"))
    assert torch.equal(latent, after.alpha * clean + after.sigma * drawn)


def test_fresh_noise_may_be_shared_by_frames() -> None:
    step = replace(make_step(make_run(), 2), place=(4,))
    clean, proposed = torch.zeros(SHAPE), make_latent(SHAPE, 2)
    noises = {
        a: FreshNoise(a).update(clean, proposed, step, ())[0] / step.next.sigma
        for a in (0.0, 2.0, math.inf)
    }
    own, mixed, still = noises.values()
    assert torch.equal(still[:, :, :1].expand(SHAPE), still)
    torch.testing.assert_close(mixed, (2 * still + own) / math.sqrt(5))
    later = replace(step, run=replace(step.run, first_frame=40))
    assert torch.equal(
        FreshNoise(math.inf).update(clean, proposed, later, ())[0], step.next.sigma * still
    )
    assert not torch.equal(
        FreshNoise().update(clean, proposed, later, ())[0], step.next.sigma * own
    )
    other = replace(step, index=3)
    assert not torch.allclose(
        FreshNoise(math.inf).update(clean, proposed, other, ())[0] / other.next.sigma, still
    )
    with pytest.raises(ValueError, match=r"shared=-1 is no weight; give a number from 0"):
        FreshNoise(-1)


def test_at_the_last_step_the_clean_estimate_remains() -> None:
    step = make_step(make_run(), 5)
    clean, proposed = make_latent(SHAPE, 1), make_latent(SHAPE, 2)
    for rule in (KeepNoise(), FreshNoise()):
        torch.testing.assert_close(rule.update(clean, proposed, step, ())[0], clean)


@pytest.mark.parametrize("rule", [KeepNoise(), FreshNoise()])
def test_without_a_change_the_solvers_latent_is_taken(rule: Renoise[Any]) -> None:
    proposed = make_latent(SHAPE)
    assert rule.update(None, proposed, make_step(make_run()), ())[0] is proposed


def test_a_run_is_the_loop_one_would_write() -> None:
    """`at({1, 3}, drift)` under KeepNoise inside DDIM, without any of our combinators."""
    run, start = make_run(), make_latent(SHAPE, 9)

    def denoise(noisy: Tensor, step: Step) -> Tensor:
        return 0.8 * noisy.sin()

    got = drive(renoise(at({1, 3}, Drift(0.5)), KeepNoise()), run, start=start, denoise=denoise)
    x = start
    for i in range(6):
        (alpha, sigma, _), (alpha_next, sigma_next, _) = run.schedule[i], run.schedule[i + 1]
        clean = 0.8 * x.sin()
        noise = (x - alpha.float() * clean) / sigma.float()
        if i in (1, 3):
            clean = clean + 0.5  # and the noise is kept; DDIM would derive it anew
        x = alpha_next.float() * clean + sigma_next.float() * noise
        torch.testing.assert_close(got[i + 1], x, rtol=1e-4, atol=1e-4)


def test_keeping_the_noise_is_not_what_the_solver_does() -> None:
    hook = at({2}, Drift(0.5))
    kept, solved = drive(renoise(hook, KeepNoise()), make_run()), drive(hook, make_run())
    assert not torch.allclose(kept[3], solved[3], atol=1e-2)


# --- when a rule runs -----------------------------------------------------------------------------


def test_a_rule_runs_at_every_step_and_is_told_where_its_hook_changed_something() -> None:
    witness = Witness()
    drive(renoise(at({1, 4}, Drift()), witness), make_run())
    assert [index for index, _, _ in witness.seen] == [0, 1, 2, 3, 4, 5]
    assert at_which(witness) == [1, 4]
    assert [state for _, _, state in witness.seen] == [0, 1, 2, 3, 4, 5], "its state is threaded"


@pytest.mark.parametrize("first", [True, False])
def test_a_hook_beside_a_rule_never_sets_it_off(first: bool) -> None:
    witness = Witness()
    ruled, beside = renoise(at({1, 4}, Drift()), witness), Drift(0.125)
    drive(chain(beside, ruled) if first else chain(ruled, beside), make_run())
    assert len(witness.seen) == 6
    assert at_which(witness) == [1, 4]


def test_a_rule_gets_the_estimate_after_all_hooks() -> None:
    witness, run = Witness(), make_run()
    hook = chain(renoise(at({1}, Drift(0.5)), witness), Drift(0.125))
    state = hook.init(run)
    step = make_step(run, 1)
    clean, state = hook.update(step.predicted.clean, step, state)
    hook.finish(clean, make_latent(SHAPE), step, state)
    assert witness.seen[0][1] is clean
    torch.testing.assert_close(clean, step.predicted.clean + 0.625)


@pytest.mark.parametrize(
    "around",
    [
        lambda hook: at({1, 4}, hook),
        lambda hook: combine.when(lambda step: step.index in (1, 4), hook),
        lambda hook: combine.every(3, hook, offset=1),
        lambda hook: blend(lambda step: 0.5 * (step.index in (1, 4)), hook),
    ],
)
def test_a_rule_inside_a_combinator_still_runs_at_every_step(around: Any) -> None:
    witness = Witness()
    drive(around(renoise(Drift(), witness)), make_run())
    assert [index for index, _, _ in witness.seen] == [0, 1, 2, 3, 4, 5]
    assert at_which(witness) == [1, 4]


def test_a_hook_that_returns_its_input_does_not_set_its_rule_off() -> None:
    witness = Witness()
    drive(renoise(stateless(lambda clean, step: clean), witness), make_run())
    assert at_which(witness) == []


def test_two_rules_serve_two_hooks() -> None:
    one, other = Witness(), Witness()
    drive(chain(renoise(at({1}, Drift()), one), renoise(at({4}, Drift()), other)), make_run())
    assert at_which(one) == [1]
    assert at_which(other) == [4]


def test_rules_at_two_places_draw_different_noise() -> None:
    run, proposed = make_run(), make_latent(SHAPE)
    step = make_step(run, 2)
    latents = []
    for hook in (
        chain(renoise(Drift(), FreshNoise()), Drift(0.0)),
        chain(Drift(0.0), renoise(Drift(), FreshNoise())),
    ):
        clean, state = hook.update(step.predicted.clean, step, hook.init(run))
        latents.append(hook.finish(clean, proposed, step, state)[0])
    assert not torch.equal(*latents)


def test_inside_a_pipeline_a_hook_beside_a_rule_does_not_set_it_off() -> None:
    pipeline, witness = tiny_sd(), Witness()
    hook = chain(renoise(at({2}, Drift(0.1)), witness), Drift(0.01))
    with attach(pipeline, hook, frames=3):
        sample(pipeline, steps=5)
    assert len(witness.seen) == 5
    assert at_which(witness) == [2]


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_a_solvers_history_is_forgotten_only_where_its_latent_was_replaced(name: str) -> None:
    pipeline = tiny_sd(scheduler_of(name))
    plain = sample(pipeline, steps=6)
    with attach(pipeline, renoise(at({2}, Drift(0.0)), KeepNoise()), frames=3):
        assert torch.equal(sample(pipeline, steps=6), plain)
    kept: list[list[bool]] = []

    def look(pipe: Any, index: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        kept.append([output is not None for output in pipe.scheduler.model_outputs])
        return {}

    with attach(pipeline, renoise(at({2}, Drift(0.1)), KeepNoise()), frames=3):
        sample(pipeline, steps=6, callback_on_step_end=look)
    assert kept == [[False, True], [True, True], [False, False], [False, True], *[[True, True]] * 2]


# --- what is refused ------------------------------------------------------------------------------


def test_two_claims_on_one_step_are_named() -> None:
    hook = chain(
        renoise(at({1, 2, 3}, Drift()), KeepNoise()), renoise(at({0, 2, 3}, Trail()), FreshNoise())
    )
    assert list(renoise_conflicts(hook, 6)) == [
        "KeepNoise and FreshNoise both re-noise at steps [2, 3]; only one may at a step: confine "
        "their hooks with at(...) or between(...), or chain the hooks under one rule"
    ]
    apart = chain(
        renoise(at({1}, Drift()), KeepNoise()), renoise(at({2}, Trail()), FreshNoise()), Jitter()
    )
    assert list(renoise_conflicts(apart, 6)) == []


def test_rules_confined_from_outside_do_not_conflict() -> None:
    hook = chain(at({1}, renoise(Drift(), KeepNoise())), at({2}, renoise(Trail(), FreshNoise())))
    assert list(renoise_conflicts(hook, 6)) == []


def test_a_rule_around_a_rule_is_refused() -> None:
    hook: Hook[Any] = renoise(chain(renoise(Drift(1.0), KeepNoise()), Trail()), FreshNoise())
    assert list(hook.check(HOST)) == [
        "renoise(chain(renoise(Drift(by=1.0), KeepNoise()), Trail(weight=0.5)), "
        "FreshNoise(shared=0.0)) puts "
        "a re-noising rule around a hook that has one already; bind each rule to its own hook and "
        "chain the results"
    ]


def test_a_solver_that_cannot_follow_is_named_with_the_line_to_paste() -> None:
    host = replace(HOST, solver="HeunDiscreteScheduler", order=2, renoisable=False)
    assert list(renoise(Drift(), KeepNoise()).check(host)) == [
        "KeepNoise replaces the latent after a step, which HeunDiscreteScheduler cannot follow (it "
        "keeps a history that cannot be reset, or steps in two halves); use a first-order or "
        "multistep solver: pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, "
        "clip_sample=False, set_alpha_to_one=False)"
    ]
    assert list(renoise(Drift(), KeepNoise()).check(HOST)) == []


def test_what_a_rule_says_is_passed_on() -> None:
    assert list(renoise(Drift(), Witness(complaint="no")).check(HOST)) == ["no"]


def test_renoise_says_what_it_takes() -> None:
    unchecked: Any = inspect.unwrap(renoise)  # users have no type checks
    with pytest.raises(TypeError, match="renoise takes") as error:
        unchecked(Drift(), Trail())
    assert str(error.value) == (
        "renoise takes a hook and a Renoise rule, got Trail(weight=0.5) as the rule"
    )


def test_rules_are_listed_outermost_first() -> None:
    hook = chain(renoise(Drift(), KeepNoise()), at({1}, renoise(Trail(), FreshNoise())))
    assert rules(hook) == (KeepNoise(), FreshNoise())
    assert rules(chain(Drift(), Trail())) == ()


def test_by_default_a_rule_claims_where_its_hook_acts() -> None:
    assert KeepNoise().claims(frozenset({1, 3}), 6) == {1, 3}
