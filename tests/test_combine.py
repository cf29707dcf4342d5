"""The algebra of hooks: chain, identity, at, between, every, when, blend, stateless."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from elevator import combine
from elevator.combine import (
    Wrapper,
    at,
    between,
    blend,
    chain,
    every,
    identity,
    stateless,
    when,
)
from elevator.hook import Hook, Host, Run, Step, parts
from tests.builders import drive, make_latent, make_run, make_step, unvetted
from tests.conformance import Drift, Jitter, Trail

AnyHook = Hook[Any]
STEPS = 6
SHAPE = (1, 2, 2, 3, 2)

# --- every composition against a loop written by hand --------------------------------------------
# A composition is described by nested tuples; `build` makes it of combinators, `by_hand` says what
# it means.

Plan = tuple[Any, ...]

bounds = st.integers(0, STEPS) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
leaves = st.one_of(
    st.tuples(st.just("drift"), st.sampled_from([0.0, 0.5, -2.0])),
    st.tuples(st.just("trail"), st.sampled_from([0.25, 0.5])),
)


def _grow(inner: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    return st.one_of(
        st.tuples(st.just("chain"), st.lists(inner, max_size=3).map(tuple)),
        st.tuples(st.just("at"), st.frozensets(st.integers(0, STEPS - 1)), inner),
        st.tuples(st.just("between"), bounds, bounds, inner),
        st.tuples(st.just("every"), st.integers(1, 3), inner),
        st.tuples(st.just("when"), inner),
        st.tuples(st.just("blend"), st.sampled_from([0.0, 0.3, 1.0, 1.5]), inner),
    )


plans = st.recursive(leaves, _grow, max_leaves=6)


def odd(step: Step) -> bool:
    return step.index % 2 == 1


def build(plan: Plan) -> AnyHook:
    match plan:
        case "drift", by:
            return Drift(by)
        case "trail", weight:
            return Trail(weight)
        case "jitter", by:
            return Jitter(by)
        case "chain", inner:
            return chain(*map(build, inner))
        case "at", steps, inner:
            return at(steps, build(inner))
        case "between", start, stop, inner:
            return between(start, stop, build(inner))
        case "every", period, inner:
            return every(period, build(inner), offset=period - 1)
        case "when", inner:
            return when(odd, build(inner))
        case "blend", weight, inner:
            return blend(weight, build(inner))
    raise AssertionError(plan)


def by_hand(plan: Plan, x: Tensor, i: int, memory: dict[Any, Tensor], path: Any = ()) -> Tensor:
    match plan:
        case "drift", by:
            return x + by
        case "trail", weight:
            before = memory.get(path, x)
            memory[path] = x
            return (1 - weight) * x + weight * before
        case "chain", inner:
            for position, part in enumerate(inner):
                x = by_hand(part, x, i, memory, (*path, position))
            return x
        case "at", steps, inner:
            return by_hand(inner, x, i, memory, path) if i in steps else x
        case "between", start, stop, inner:
            first = start if isinstance(start, int) else round(start * STEPS)
            last = stop if isinstance(stop, int) else round(stop * STEPS)
            return by_hand(inner, x, i, memory, path) if first <= i < last else x
        case "every", period, inner:
            return by_hand(inner, x, i, memory, path) if (i + 1) % period == 0 else x
        case "when", inner:
            return by_hand(inner, x, i, memory, path) if i % 2 == 1 else x
        case "blend", weight, inner:
            if weight == 0:
                return x
            return x + weight * (by_hand(inner, x, i, memory, path) - x)
    raise AssertionError(plan)


@given(plans)
def test_a_composition_is_the_loop_one_would_write(plan: Plan) -> None:
    hook, run = build(plan), make_run(SHAPE, steps=STEPS)
    state: Any = hook.init(run)
    memory: dict[Any, Tensor] = {}
    for index in range(STEPS):
        step = make_step(run, index)
        clean, state = hook.update(step.predicted.clean, step, state)
        expected = by_hand(plan, step.predicted.clean, index, memory)
        torch.testing.assert_close(clean, expected, rtol=1e-4, atol=1e-4)


@given(plans)
def test_acts_at_names_every_step_that_changes(plan: Plan) -> None:
    hook, run = build(plan), make_run(SHAPE, steps=STEPS)
    state: Any = hook.init(run)
    changed = set()
    for index in range(STEPS):
        step = make_step(run, index)
        clean, state = hook.update(step.predicted.clean, step, state)
        if clean is not step.predicted.clean:
            changed.add(index)
    assert changed <= hook.acts_at(STEPS) <= set(range(STEPS))


@pytest.mark.parametrize(
    ("hook", "steps"),
    [
        (at({1, 4}, Drift()), {1, 4}),
        (between(2, 5, Drift()), {2, 3, 4}),
        (between(0.5, 1.0, Drift()), {3, 4, 5}),
        (between(4, 99, Drift()), {4, 5}),
        (between(3, 2, Drift()), set()),
        (every(2, Drift()), {0, 2, 4}),
        (every(3, Drift(), offset=1), {1, 4}),
        (blend(0.0, Drift()), set()),
        (at({0, 1, 2}, every(2, Drift())), {0, 2}),
        (blend(0.5, between(1, 3, Drift())), {1, 2}),
        (when(odd, at({3}, Drift())), {3}),
        (chain(at({0}, Drift()), at({5}, Drift())), {0, 5}),
        (identity(), set()),
    ],
    ids=repr,
)
def test_where_hooks_act(hook: AnyHook, steps: set[int]) -> None:
    assert hook.acts_at(STEPS) == steps


# --- chain ---------------------------------------------------------------------------------------

drawing = st.recursive(
    leaves | st.tuples(st.just("jitter"), st.sampled_from([0.1, 0.2])), _grow, max_leaves=4
)


@given(drawing, drawing, drawing)
def test_chain_is_associative_in_value_and_in_noise(one: Plan, two: Plan, three: Plan) -> None:
    a, b, c = build(one), build(two), build(three)
    left, right, flat = chain(chain(a, b), c), chain(a, chain(b, c)), chain(a, b, c)
    assert left == right == flat
    assert repr(left) == repr(right)
    run = make_run(SHAPE, steps=4)
    for x, y in zip(drive(left, run), drive(right, run), strict=True):
        assert torch.equal(x, y)


@given(drawing)
def test_identity_is_neutral(plan: Plan) -> None:
    hook = build(plan)
    assert chain(identity(), hook) == hook == chain(hook, identity())
    run = make_run(SHAPE, steps=4)
    for one, other in zip(drive(chain(identity(), hook), run), drive(hook, run), strict=True):
        assert torch.equal(one, other)


def test_a_chain_of_one_is_the_hook_itself() -> None:
    hook = Trail()
    assert chain(hook) is hook
    assert chain(identity(), hook) is hook
    assert chain() == identity()
    assert repr(chain()) == "identity()"


def test_a_chain_of_unchanged_hooks_returns_the_same_object() -> None:
    hook = chain(at({3}, Drift()), Drift(0.0), blend(0.0, Jitter()), stateless(lambda x, step: x))
    step = make_step(make_run(SHAPE), 0)
    assert hook.update(step.predicted.clean, step, hook.init(step.run))[0] is step.predicted.clean


def _noise_added(hook: AnyHook, step: Step) -> Tensor:
    """What `Jitter(1)` inside the hook adds to zero."""
    zero = torch.zeros(SHAPE)
    return hook.update(zero, step, hook.init(step.run))[0]


@pytest.mark.parametrize("other", [Drift(0.0), Jitter(0.0), chain(Jitter(0.0), Jitter(0.0))])
def test_noise_does_not_depend_on_what_other_hooks_do(other: AnyHook) -> None:
    step = make_step(make_run(SHAPE), 2)
    alone = _noise_added(chain(Jitter(1.0), Drift(0.0)), step)
    assert torch.equal(_noise_added(chain(Jitter(1.0), other), step), alone)
    assert torch.equal(_noise_added(at({2}, chain(Jitter(1.0), other)), step), alone)


def test_equal_hooks_at_two_places_draw_different_noise() -> None:
    step = make_step(make_run(SHAPE), 2)
    first = _noise_added(chain(Jitter(1.0), Jitter(0.0)), step)
    second = _noise_added(chain(Jitter(0.0), Jitter(1.0)), step)
    assert not torch.equal(first, second)
    nested = _noise_added(chain(Drift(0.0), at({2}, chain(Jitter(0.0), Jitter(1.0)))), step)
    assert not torch.equal(second, nested)


def test_noise_differs_from_step_to_step() -> None:
    run = make_run(SHAPE)
    one, other = (_noise_added(Jitter(1.0), make_step(run, index)) for index in (0, 1))
    assert not torch.equal(one, other)


def test_parts_are_listed_outermost_first() -> None:
    inner = chain(Drift(1.0), Trail())
    hook = at({1}, blend(0.5, inner))
    assert list(parts(hook)) == [hook, blend(0.5, inner), inner, Drift(1.0), Trail()]


# --- when a hook is not called -------------------------------------------------------------------


@pytest.mark.parametrize(
    "around",
    [
        lambda hook: at({1, 4}, hook),
        lambda hook: every(3, hook, offset=1),
        lambda hook: when(lambda step: step.index in (1, 4), hook),
        lambda hook: blend(lambda step: float(step.index in (1, 4)), hook),
    ],
)
def test_state_is_kept_over_the_steps_between(around: Callable[[AnyHook], AnyHook]) -> None:
    hook, run = around(Trail(1.0)), make_run(SHAPE, steps=STEPS)
    state = hook.init(run)
    cleans = []
    for index in range(STEPS):
        step = make_step(run, index)
        clean, state = hook.update(step.predicted.clean, step, state)
        cleans.append(clean)
    assert torch.equal(cleans[4], make_step(run, 1).predicted.clean)
    for index in (0, 1, 2, 3, 5):
        assert torch.equal(cleans[index], make_step(run, index).predicted.clean)


def test_a_blend_of_weight_zero_does_not_call_its_hook() -> None:
    def fail(clean: Tensor, step: Step) -> Tensor:
        raise AssertionError("called")

    hook = blend(0.0, stateless(fail))
    step = make_step(make_run(SHAPE))
    assert hook.update(step.predicted.clean, step, hook.init(step.run))[0] is step.predicted.clean


def test_a_blend_of_weight_one_is_the_hook_bit_for_bit() -> None:
    run = make_run(SHAPE)
    for one, other in zip(drive(blend(1.0, Jitter()), run), drive(Jitter(), run), strict=True):
        assert torch.equal(one, other)


@given(st.floats(-2, 3))
def test_a_blend_goes_part_of_the_way(weight: float) -> None:
    assume(weight not in (0, 1))
    x, y = make_latent(SHAPE, 1), make_latent(SHAPE, 2)
    step = make_step(make_run(SHAPE), 2)
    for given_weight in (weight, lambda step: weight * step.index / 2):
        hook = blend(given_weight, stateless(lambda clean, step: y))
        torch.testing.assert_close(
            hook.update(x, step, hook.init(step.run))[0], x + weight * (y - x)
        )


@final
@dataclass(frozen=True)
class Halved(Wrapper):
    def update(self, clean: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        changed, state = self.hook.update(clean, step, state)
        return (clean + changed) / 2, state


@final
@dataclass(frozen=True)
class Telling(Hook[str]):
    """A hook whose every answer can be told from a default one."""

    def init(self, run: Run) -> str:
        return "init"

    def update(self, clean: Tensor, step: Step, state: str) -> tuple[Tensor, str]:
        return clean + 2, f"{state}, update"

    def finish(self, clean: Tensor, proposed: Tensor, step: Step, state: str) -> tuple[Tensor, str]:
        return proposed - clean, f"{state}, finish"

    def acts_at(self, steps: int) -> frozenset[int]:
        return frozenset({1, 4})


def test_a_wrapper_changes_what_it_says_and_forwards_the_rest() -> None:
    halved = Halved(Telling())
    assert halved.inner() == (Telling(),)
    assert halved.acts_at(STEPS) == {1, 4}
    run, clean = make_run(SHAPE), make_latent(SHAPE)
    step = make_step(run)
    changed, state = halved.update(clean, step, halved.init(run))
    torch.testing.assert_close(changed, clean + 1)
    finished, state = halved.finish(clean, changed, step, state)
    torch.testing.assert_close(finished, changed - clean)
    assert state == "init, update, finish"


def test_a_wrapper_says_what_it_changes() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Wrapper(Telling())  # type: ignore[abstract]


def test_a_wrapper_takes_a_hook() -> None:
    with pytest.raises(TypeError, match=r"Halved takes hooks, got .*; lift a plain function with"):
        unvetted(Halved, hook=abs).__post_init__()


def test_stateless_sees_the_step() -> None:
    hook = stateless(lambda clean, step: clean * step.index)
    step = make_step(make_run(SHAPE), 3)
    assert torch.equal(hook.update(torch.ones(SHAPE), step, ())[0], torch.full(SHAPE, 3.0))


# --- reading --------------------------------------------------------------------------------------


def soften(clean: Tensor, step: Step) -> Tensor:
    return 0.9 * clean


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        (chain(Drift(1.0), Trail()), "chain(Drift(by=1.0), Trail(weight=0.5))"),
        (at({5, 1}, Drift(1.0)), "at({1, 5}, Drift(by=1.0))"),
        (at((), Drift(1.0)), "at(set(), Drift(by=1.0))"),
        (between(0, 0.5, Drift(1.0)), "between(0, 0.5, Drift(by=1.0))"),
        (every(2, Drift(1.0), offset=1), "every(2, Drift(by=1.0), offset=1)"),
        (when(odd, Drift(1.0)), "when(odd, Drift(by=1.0))"),
        (blend(0.5, Drift(1.0)), "blend(0.5, Drift(by=1.0))"),
        (blend(odd, Drift(1.0)), "blend(odd, Drift(by=1.0))"),
        (stateless(soften), "stateless(soften)"),
    ],
)
def test_repr_reads_like_the_call(hook: AnyHook, text: str) -> None:
    assert repr(hook) == text


# --- messages -------------------------------------------------------------------------------------


def unchecked(name: str) -> Any:
    """A function without the type checks of the test run, which users do not have."""
    return inspect.unwrap(getattr(combine, name))


def test_chain_says_how_to_lift_a_function() -> None:
    with pytest.raises(TypeError, match="chain takes") as error:
        unchecked("chain")(Drift(), 3)
    assert str(error.value) == "chain takes hooks, got 3; lift a plain function with stateless(fn)"


def test_stateless_says_what_it_takes() -> None:
    with pytest.raises(TypeError, match="stateless takes") as error:
        unchecked("stateless")(0.5)
    assert str(error.value) == "stateless takes a function (clean, step) -> clean, got 0.5"


def test_at_says_how_steps_are_counted() -> None:
    with pytest.raises(ValueError, match="at takes") as error:
        at({2, -1}, Drift())
    assert str(error.value) == "at takes step indices from 0 (noisiest) up, got [-1, 2]"


@pytest.mark.parametrize(("start", "stop", "shown"), [(-1, 3, "-1"), (0, 1.5, "1.5")])
def test_between_says_what_bounds_are(start: float, stop: float, shown: str) -> None:
    with pytest.raises(ValueError, match="between takes") as error:
        between(start, stop, Drift())
    assert str(error.value) == (
        "between takes step indices (int >= 0) or fractions (float in [0, 1]), got " + shown
    )


@pytest.mark.parametrize(("period", "offset"), [(0, 0), (2, 2), (2, -1)])
def test_every_says_its_range(period: int, offset: int) -> None:
    with pytest.raises(ValueError, match="every needs") as error:
        every(period, Drift(), offset)
    assert str(error.value) == (
        f"every needs period >= 1 and 0 <= offset < period, got {period}, {offset}"
    )


def test_at_reports_steps_the_run_does_not_have() -> None:
    host = Host("DDIMScheduler", 1, "epsilon", steps=4)
    assert list(at({1, 4, 9}, Drift()).check(host)) == [
        "at(...) names steps [4, 9], but the run has 4 (0 to 3); "
        "drop them or raise num_inference_steps"
    ]
    assert list(at({0, 3}, Drift()).check(host)) == []
    before_the_run = Host("DDIMScheduler", 1, "epsilon")
    assert list(at({9}, Drift()).check(before_the_run)) == []
