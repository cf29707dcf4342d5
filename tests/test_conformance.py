"""What every hook must do, here and later: every check on every case of `conformance.py`."""

import copy
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import elevator
from elevator.attach import attach
from elevator.hook import Hook, parts
from elevator.noise import KeyedNoise
from elevator.renoise import Renoise, rules
from tests.builders import (
    SHAPE,
    FakeDenoiser,
    ddim,
    drive,
    make_latent,
    make_run,
    make_step,
    sample,
    walk,
)
from tests.conformance import CASES, Case, Drift, Jitter, Trail


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=lambda case: case.name)


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def test_every_public_hook_and_rule_has_a_case() -> None:
    modules = [
        importlib.import_module(f"elevator.{name}") for name in ("filters", "preview", "samplers")
    ]
    public = {
        value
        for module in (elevator, *modules)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, (Hook, Renoise))
        if not inspect.isabstract(value)
    }
    made = [case.make() for case in CASES]
    shown = {type(part) for hook in made for part in (*parts(hook), *rules(hook))}
    assert public <= shown


def _names() -> dict[str, Any]:
    """What a user has imported who reads a `repr`."""
    modules = [
        importlib.import_module(f"elevator.{name}")
        for name in ("combine", "renoise", "filters", "samplers")
    ]
    public = {name: value for module in modules for name, value in vars(module).items()}
    ours = {cls.__name__: cls for cls in (Drift, Trail, Jitter, FakeDenoiser)}
    return {**public, **ours}


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_is_configuration(case: Case) -> None:
    """Frozen, final, hashable; equal when made equal; nothing is stored during a run."""
    hook, again = case.make(), case.make()
    for part in parts(hook):
        assert dataclasses.is_dataclass(part)
        assert type(part).__dataclass_params__.frozen, part
        assert getattr(type(part), "__final__", False), f"{type(part).__name__} lacks @final"
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.anything = 1
    assert hook == again
    assert hash(hook) == hash(again)
    assert hook != Drift(99.0)
    before = [dict(vars(part)) for part in parts(hook)]
    drive(hook, make_run())
    assert [dict(vars(part)) for part in parts(hook)] == before
    assert hook == again


def test_repr_reads_like_the_call(case: Case) -> None:
    hook = case.make()
    if case.speaks:
        assert eval(repr(hook), _names()) == hook
    else:
        assert "object at 0x" not in repr(hook)


def test_is_pure(case: Case) -> None:
    """Same inputs, same outputs; nothing that is given is written into."""
    hook, run = case.make(), make_run()
    state = hook.init(run)
    for index in range(len(run.schedule)):
        step = make_step(run, index)
        proposed = make_latent(run.shape, 400 + index)
        given = (step.predicted.clean, step.predicted.noise, step.noisy, proposed)
        versions = [tensor._version for tensor in given]
        kept = copy.deepcopy(state)
        clean, after = hook.update(step.predicted.clean, step, state)
        again, _ = hook.update(step.predicted.clean, step, state)
        from_copy, _ = hook.update(step.predicted.clean, step, kept)
        assert torch.equal(clean, again)
        assert torch.equal(clean, from_copy), "update wrote into its state"
        latent, state = hook.finish(clean, proposed, step, after)
        again, _ = hook.finish(clean, proposed, step, after)
        assert torch.equal(latent, again)
        assert [tensor._version for tensor in given] == versions, "an input was written into"


def test_keeps_shape_dtype_device(case: Case) -> None:
    for shape in (SHAPE, (1, 4, 1, 8, 6), (1, 4, 3, 5, 7), (2, 4, 4, 9, 9)):
        for latent in drive(case.make(), make_run(shape)):
            assert latent.shape == shape
            assert latent.dtype == torch.float32
            assert latent.device.type == "cpu"
            assert latent.isfinite().all()


def test_neutral_returns_the_same_object(case: Case) -> None:
    if case.neutral is None:
        pytest.skip("has no neutral parameters")
    hook, run = case.neutral(), make_run()
    state = hook.init(run)
    for index in range(len(run.schedule)):
        step = make_step(run, index)
        proposed = make_latent(run.shape)
        clean, state = hook.update(step.predicted.clean, step, state)
        assert clean is step.predicted.clean
        latent, state = hook.finish(clean, proposed, step, state)
        assert latent is proposed


def test_batch_of_two_is_two_batches_of_one(case: Case) -> None:
    start = make_latent((2, *SHAPE[1:]), 5)
    both = drive(case.make(), make_run((2, *SHAPE[1:]), noise=KeyedNoise((3, 9))), start=start)
    for row, seed in enumerate((3, 9)):
        alone = drive(
            case.make(), make_run(SHAPE, noise=KeyedNoise((seed,))), start=start[row : row + 1]
        )
        for together, single in zip(both, alone, strict=True):
            torch.testing.assert_close(together[row : row + 1], single, rtol=1e-4, atol=1e-5)


def test_same_seed_same_bits(case: Case) -> None:
    before = torch.get_rng_state()
    one = drive(case.make(), make_run(noise=KeyedNoise((1,))))
    assert _same(one, drive(case.make(), make_run(noise=KeyedNoise((1,)))))
    assert torch.equal(before, torch.get_rng_state()), "the global generator advanced"
    assert _same(one, drive(case.make(), make_run(noise=KeyedNoise((2,))))) is not case.draws


def test_runs_are_independent(case: Case) -> None:
    """Two runs of one hook object, step by step in turn, are the two runs one after the other."""

    hook = case.make()
    runs = [make_run(steps=6), make_run((1, 4, 3, 6, 6), steps=6)]
    alone = [drive(hook, run) for run in runs]
    turns = list(zip(*(walk(hook, run) for run in runs), strict=True))
    for position, expected in enumerate(alone):
        assert _same([turn[position] for turn in turns], expected)


def test_runs_dry(case: Case) -> None:
    """`plan` runs hooks on meta tensors."""
    for latent in drive(case.make(), make_run(device="meta")):
        assert latent.device.type == "meta"
        assert latent.shape == SHAPE


@functools.cache
def _pipeline(build: Callable[[], Any], *where: Any) -> Any:
    return build().to(*where) if where else build()


def test_a_host_of_any_device_and_dtype_stays_finite(
    case: Case, device: torch.device, dtype: torch.dtype
) -> None:
    """In half precision unless `--dtype` says otherwise."""
    pipeline = _pipeline(case.pipeline, device, dtype)
    pipeline.scheduler = ddim()
    with attach(pipeline, case.make(), frames=case.frames):
        latents = sample(pipeline, steps=6)
    assert latents.dtype == dtype
    assert latents.device.type == device.type
    assert latents.isfinite().all()


def _traces(pipeline: Any) -> dict[str, Any]:
    """Everything an attached hook could leave behind."""
    scheduler, network = pipeline.scheduler, pipeline.unet
    return {
        "class": type(scheduler),
        "scheduler": dict(vars(scheduler)),
        "pipeline": set(vars(pipeline)),
        "hooks": len(network._forward_hooks) + len(network._forward_pre_hooks),
        "processors": list(map(type, network.attn_processors.values())),
    }


def test_detaching_restores_the_pipeline(case: Case) -> None:
    pipeline = _pipeline(case.pipeline)
    pipeline.scheduler = ddim()
    before = _traces(pipeline)
    with attach(pipeline, case.make(), frames=case.frames):
        assert type(pipeline.scheduler) is not before["class"]
    _assert_same_traces(_traces(pipeline), before)

    sample(pipeline, steps=6)
    plain = _traces(pipeline)
    pipeline.scheduler = ddim()
    with attach(pipeline, case.make(), frames=case.frames):
        sample(pipeline, steps=6)
    _assert_same_traces(_traces(pipeline), plain)


def test_an_exception_restores_the_pipeline_too(case: Case) -> None:
    pipeline = _pipeline(case.pipeline)
    pipeline.scheduler = ddim()
    seen = 0

    def stop(*_: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt
        return {}

    # The same interruption with and without a hook must leave the same things behind.
    with pytest.raises(KeyboardInterrupt):
        sample(pipeline, steps=6, callback_on_step_end=stop)
    plain, seen = _traces(pipeline), 0
    pipeline.scheduler = ddim()
    with (
        pytest.raises(KeyboardInterrupt),
        attach(pipeline, case.make(), frames=case.frames),
    ):
        sample(pipeline, steps=6, callback_on_step_end=stop)
    _assert_same_traces(_traces(pipeline), plain)


def test_neutral_is_bitwise_invisible(case: Case) -> None:
    if case.neutral is None:
        pytest.skip("has no neutral parameters")
    pipeline = _pipeline(case.pipeline)
    pipeline.scheduler = ddim()
    plain = sample(pipeline, steps=6)
    with attach(pipeline, case.neutral(), frames=case.frames):
        assert torch.equal(sample(pipeline, steps=6), plain)


def _assert_same_traces(got: dict[str, Any], expected: dict[str, Any]) -> None:
    got, expected = dict(got), dict(expected)
    mine, theirs = got.pop("scheduler"), expected.pop("scheduler")
    assert got == expected
    assert list(mine) == list(theirs)
    for name, value in theirs.items():
        if isinstance(value, Tensor):
            assert torch.equal(mine[name], value), name
        else:
            assert mine[name] == value, name
