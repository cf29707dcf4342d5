"""Replacing the latent after a step: solver history, refusals, and whose rule is set off."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from torch import Tensor

import elevator as el
from elevator.errors import CheckError
from elevator.hook import Run, Step
from elevator.hosts import scheduler as seam
from elevator.hosts.coefficients import (
    family_of,
    level_of_call,
    position_of_call,
    run_schedule,
)
from elevator.latent import Latent
from elevator.level import Level, Parametrisation, Prediction, write_clean
from elevator.renoise import Renoise
from elevator.samplers import DDIMInversion
from elevator.schedule import Schedule
from tests.builders import make_latent, make_schedule
from tests.hosts.loops import FRAMES, LOOPED, RENOISABLE, Loop, scheduler_for

# KDPM2's own use of numpy, outside a pipeline's `no_grad`.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

STEPS, SWAP = 10, 4  # the latent is replaced after a step no single-step solver starts afresh from

MULTISTEP: list[tuple[str, dict[str, Any]]] = [
    *((name, {"solver_order": order}) for name in RENOISABLE for order in (2, 3)),
    ("UniPCMultistepScheduler", {"solver_type": "bh1"}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}),
]


@final
@dataclass(frozen=True)
class _Swap(Renoise[tuple[()]]):
    """Replaces the latent by something unrelated."""

    def update(
        self, clean: Latent | None, proposed: Latent, step: Step, state: tuple[()]
    ) -> tuple[Latent, tuple[()]]:
        return (proposed if clean is None else make_latent(tuple(proposed.shape), 9)), state


def _nudge(clean: Latent, step: Step) -> Latent:
    return clean + 0.01


def _oracle(scheduler: Any, before: float, after: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A network whose clean estimate is `before` up to the swap and `after` from then on."""
    position = -1

    def model(scaled: Tensor, timestep: Tensor) -> Tensor:
        nonlocal position
        position += 1
        here = position_of_call(scheduler, timestep)
        level = level_of_call(scheduler, here, timestep)
        target = torch.full_like(scaled, before if position <= SWAP else after)
        kind: Parametrisation = (
            "flow_prediction" if scheduler.config.get("use_flow_sigmas") else "epsilon"
        )
        return write_clean(target[None], scaled[None], level, kind)[0].float()

    return model


def _next_states(name: str, config: dict[str, Any]) -> tuple[list[Tensor], list[Level]]:
    """What the host makes of the replaced latent, step by step; and the levels."""
    loop = Loop(scheduler_for(name, **config))
    hook = el.renoise(el.at({SWAP}, el.stateless(_nudge)), _Swap())
    with el.attach(loop, hook, frames=FRAMES):
        latents = loop(STEPS, model=_oracle(loop.scheduler, -0.5, 0.75))
    schedule: Schedule = run_schedule(loop.scheduler)
    return latents[SWAP + 1 :], [schedule[i] for i in range(SWAP + 1, STEPS + 1)]


def _worst(states: list[Tensor], levels: list[Level]) -> float:
    """Largest difference from the exact solution, for a network that predicts a constant."""
    start, first = states[0], levels[0]
    noise = (start - first.alpha.float() * 0.75) / first.sigma.float()
    errors = [
        float((state - level.alpha.float() * 0.75 - level.sigma.float() * noise).abs().max())
        for state, level in zip(states, levels, strict=True)
    ]
    assert len(errors) == STEPS - SWAP
    return max(errors)


@pytest.mark.parametrize(("name", "config"), MULTISTEP)
def test_history_is_forgotten_after_a_re_noise(name: str, config: dict[str, Any]) -> None:
    assert _worst(*_next_states(name, config)) < 2e-5


@pytest.mark.parametrize(("name", "config"), MULTISTEP)
def test_without_forgetting_it_would_be_wrong(
    name: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seam, "forget_history", lambda scheduler: None)
    assert _worst(*_next_states(name, config)) > 1e-2


@pytest.mark.parametrize("name", LOOPED)
def test_a_rule_that_leaves_the_latent_leaves_the_history(name: str) -> None:
    """A rule that has nothing to say is invisible, to the last bit."""
    plain = Loop(scheduler_for(name))(6)
    loop = Loop(scheduler_for(name))
    renoisable = family_of(loop.scheduler).renoisable
    hook = el.renoise(el.when(lambda step: False, el.stateless(_nudge)), _Swap())
    if not renoisable:
        with (
            pytest.raises(CheckError, match=f"_Swap replaces the latent.*{name}.*pipe.scheduler ="),
            el.attach(loop, hook, frames=FRAMES),
        ):
            pass
        return
    with el.attach(loop, hook, frames=FRAMES):
        assert all(map(torch.equal, loop(6), plain))


@pytest.mark.parametrize(
    "name",
    [
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "LMSDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ],
)
def test_solvers_that_cannot_follow_are_refused(name: str) -> None:
    for rule in (el.KeepNoise(), el.FreshNoise()):
        problems = el.check(
            Loop(scheduler_for(name)), el.renoise(el.identity(), rule), frames=FRAMES
        )
        assert len(problems) == 1
        assert type(rule).__name__ in problems[0]
        assert name in problems[0]


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler"])
def test_the_replaced_latent_is_the_next_input(name: str) -> None:
    loop = Loop(scheduler_for(name))
    seen: list[tuple[Latent, Step]] = []
    noise = make_latent((2, 4, FRAMES, 4, 6), 5)

    def look(clean: Latent, step: Step) -> Latent:
        seen.append((clean, step))
        return clean

    hook = el.chain(
        el.renoise(el.at({SWAP}, el.stateless(_nudge)), el.FreshNoise()), el.stateless(look)
    )
    with el.attach(loop, hook, frames=FRAMES, noise=lambda key, shape, device: noise):
        loop(6)
    clean, step = seen[SWAP]
    wanted = step.next.alpha * clean + step.next.sigma * noise
    torch.testing.assert_close(seen[SWAP + 1][1].noisy, wanted, rtol=0.0, atol=1e-6)


class _Fake:
    """A denoiser that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.schedule = make_schedule(8)

    def walk(self, steps: int) -> Schedule:
        return make_schedule(steps)

    def __call__(self, noisy: Latent, level: Level) -> Prediction:
        self.calls += 1
        return Prediction(0.5 * noisy, 0.5 * noisy)


@pytest.mark.parametrize("place", ["before", "after", "around", "none"])
def test_an_extra_hook_never_sets_the_re_noising_off(place: str) -> None:
    """A sharpen hook at every step beside a refinement at two: inversion runs at those two."""
    fake, steps = _Fake(), 6
    refine = el.at({1, 3}, el.stateless(_nudge))
    sharpen = el.stateless(lambda clean, step: 1.01 * clean)
    rule = DDIMInversion(fake)
    bound = el.renoise(refine, rule)
    hook = {
        "before": lambda: el.chain(sharpen, bound),
        "after": lambda: el.chain(bound, sharpen),
        "around": lambda: el.chain(sharpen, el.blend(0.5, sharpen), bound, sharpen),
        "none": lambda: bound,
    }[place]()
    loop = Loop(scheduler_for("DDIMScheduler"))
    with el.attach(loop, hook, frames=FRAMES):
        loop(steps)
    assert fake.calls == (steps - 2) + (steps - 4)


def test_two_rules_on_one_step_are_refused_before_the_first_step() -> None:
    loop, calls = Loop(scheduler_for("DDIMScheduler")), []

    def model(scaled: Tensor, timestep: Tensor) -> Tensor:
        calls.append(1)
        return scaled

    one = el.renoise(el.at({1, 3}, el.stateless(_nudge)), el.KeepNoise())
    two = el.renoise(el.at({3}, el.stateless(_nudge)), el.FreshNoise())
    with (
        pytest.raises(CheckError, match=r"KeepNoise and FreshNoise both re-noise at steps \[3\]"),
        el.attach(loop, el.chain(one, two), frames=FRAMES),
    ):
        loop(6, model=model)
    assert not calls
    assert type(loop.scheduler).step.__qualname__.startswith("DDIMScheduler")
    assert "_elevator_engine" not in vars(loop.scheduler)


def test_keep_noise_is_the_line_it_says() -> None:
    loop, seen = Loop(scheduler_for("DPMSolverMultistepScheduler")), {}

    def double(clean: Latent, step: Step) -> Latent:
        seen[step.index] = step
        return clean * 2

    with el.attach(loop, el.renoise(el.stateless(double), el.KeepNoise()), frames=FRAMES):
        loop(4)
    for index in range(3):
        step: Step = seen[index]
        wanted = step.next.alpha * 2 * step.predicted.clean
        wanted = wanted + step.next.sigma * step.predicted.noise
        torch.testing.assert_close(seen[index + 1].noisy, wanted, rtol=0.0, atol=1e-6)
    assert isinstance(seen[0].run, Run)
