"""What attach promises and what it refuses, on a hand-written loop and tiny pipelines."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, final

import diffusers
import jaxtyping
import pytest
import torch
from torch import Tensor

import elevator as el
from elevator.errors import CheckError, HookError
from elevator.hook import Hook, Run, Step
from elevator.latent import Latent
from elevator.models import CrossFrameAttention
from elevator.patch import Patch
from elevator.renoise import Renoise
from tests.builders import ddim, make_latent, sample, scheduler_of, tiny_sd, tiny_text_to_video
from tests.conformance import Jitter
from tests.hosts.loops import FRAMES, Loop, looking, scheduler_for


@pytest.fixture
def _unchecked() -> Iterator[None]:
    """Without the type checks of the test suite, as users run it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


unchecked = pytest.mark.usefixtures("_unchecked")


@final
class Act(Hook[None]):
    """A hook made of any function of (clean, step), without the checks of the test suite."""

    def __init__(self, function: Callable[[Any, Step], Any]) -> None:
        self.function = function

    def __repr__(self) -> str:
        return "Act()"

    def init(self, run: Run) -> None:
        return None

    def update(self, clean: Any, step: Step, state: None) -> Any:
        return self.function(clean, step), state


def _loop() -> Loop:
    return Loop(scheduler_for("DDIMScheduler"))


def _add(clean: Latent, step: Step) -> Latent:
    return clean + 0.1


# --- the scheduler is given back ------------------------------------------------------------------


class Boom(Exception):
    pass


def _raise(*args: Any, **kwargs: Any) -> Any:
    raise Boom


def test_while_attached_it_is_the_same_to_whoever_asks() -> None:
    from diffusers import DDIMScheduler, SchedulerMixin

    loop = _loop()
    scheduler = loop.scheduler
    before = {name: inspect.signature(getattr(scheduler, name)) for name in ("step", "add_noise")}
    timesteps = inspect.signature(scheduler.set_timesteps)
    with el.attach(loop, el.identity(), frames=FRAMES):
        assert loop.scheduler is scheduler
        assert isinstance(scheduler, DDIMScheduler)
        assert isinstance(scheduler, SchedulerMixin)
        assert issubclass(type(scheduler), DDIMScheduler)
        assert type(scheduler) is not DDIMScheduler
        assert type(scheduler).__name__ == "DDIMScheduler"
        assert type(scheduler).__module__ == DDIMScheduler.__module__
        for name, signature in before.items():
            assert inspect.signature(getattr(scheduler, name)) == signature
        assert inspect.signature(scheduler.set_timesteps) == timesteps
    assert type(scheduler) is DDIMScheduler


@pytest.mark.parametrize("where", ["hook", "init", "model", "set_timesteps", "body", "check"])
def test_an_exception_anywhere_restores_class_and_attributes(where: str) -> None:
    plain, loop = _loop(), _loop()
    hook: Hook[Any] = el.identity()
    options: dict[str, Any] = {}
    if where in ("hook", "init"):
        hook = Act(_raise)
        if where == "init":
            hook.init = _raise  # type: ignore[method-assign]
    if where == "model":
        options["model"] = _raise
    if where == "check":
        hook = el.at({99}, el.stateless(_add))
    error = CheckError if where == "check" else Boom

    def run(one: Loop) -> None:
        if where == "body":
            raise Boom
        if where == "set_timesteps":
            with pytest.raises(ValueError, match="num_inference_steps"):
                one.scheduler.set_timesteps(5000)
            raise Boom
        one(4, **options)

    if where in ("model", "body", "set_timesteps"):
        with pytest.raises(Boom):
            run(plain)
    else:
        plain.scheduler.set_timesteps(4)
    with pytest.raises(error), el.attach(loop, hook, frames=FRAMES):
        run(loop)
    assert type(loop.scheduler) is type(plain.scheduler)
    assert list(vars(loop.scheduler)) == list(vars(plain.scheduler))
    for name, value in vars(plain.scheduler).items():
        mine = vars(loop.scheduler)[name]
        assert torch.equal(mine, value) if isinstance(value, Tensor) else mine == value, name
    with el.attach(loop, el.identity(), frames=FRAMES):  # and it can be attached to again
        loop(2)


def test_nested_attach_is_refused_and_leaves_the_first_in_place() -> None:
    loop, seen = _loop(), []
    hook = looking(lambda clean, step: seen.append(step.index))
    with el.attach(loop, hook, frames=FRAMES):
        with (
            pytest.raises(CheckError, match=r"already carries a hook.*chain the hooks"),
            el.attach(loop, el.identity(), frames=FRAMES),
        ):
            pass
        loop(2)
    assert seen == [0, 1]
    assert "_elevator_engine" not in vars(loop.scheduler)


def test_pipelines_that_share_a_scheduler() -> None:
    one, other = tiny_sd(), None
    other = type(one)(**one.components, requires_safety_checker=False)
    assert other.scheduler is one.scheduler
    with (
        el.attach(one, el.identity(), frames=3),
        pytest.raises(CheckError, match=r"from_pipe share one.*scheduler of its own"),
        el.attach(other, el.identity(), frames=3),
    ):
        pass


def test_replacing_the_scheduler_while_attached_is_an_error() -> None:
    loop = _loop()
    first = loop.scheduler
    with (
        pytest.raises(HookError, match=r"scheduler was replaced.*set the scheduler first"),
        el.attach(loop, el.identity(), frames=FRAMES),
    ):
        loop.scheduler = scheduler_for("DDIMScheduler")
    assert "_elevator_engine" not in vars(first)
    assert "Hooked" not in type(first).step.__qualname__


def test_a_run_without_a_step_is_an_error() -> None:
    loop = _loop()
    with (
        pytest.raises(HookError, match=r"Loop prepared a run but never called scheduler\.step"),
        el.attach(loop, el.identity(), frames=FRAMES),
    ):
        loop.scheduler.set_timesteps(3)
    with el.attach(loop, el.identity(), frames=FRAMES):
        pass  # no run at all is none


# --- hooks that break their contract --------------------------------------------------------------


def _write(clean: Tensor, step: Step) -> Tensor:
    return clean.mul_(2)


def _write_and_copy(clean: Tensor, step: Step) -> Tensor:
    clean[:, :, 0] = 0
    return clean.clone()


def _write_noisy(clean: Tensor, step: Step) -> Tensor:
    step.noisy.zero_()
    return clean


def _write_noise(clean: Tensor, step: Step) -> Tensor:
    step.predicted.noise.zero_()
    return clean


@pytest.mark.parametrize("write", [_write, _write_and_copy, _write_noisy, _write_noise])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_writing_in_place_is_caught(
    write: Callable[[Tensor, Step], Tensor], dtype: torch.dtype
) -> None:
    loop = _loop()
    with (
        pytest.raises(HookError, match=r"Act\(\) wrote into.*step 0.*return a new tensor"),
        el.attach(loop, Act(write), frames=FRAMES),
    ):
        loop(3, dtype=dtype)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda clean: clean[:, :, :1], r"shape \(2, 4, 1, 4, 6\).*expected.*\(2, 4, 3, 4, 6\)"),
        (lambda clean: clean.flatten(), "shape"),
        (lambda clean: clean.to("meta"), "meta.*expected.*cpu"),
        (lambda clean: clean.double(), "float64.*expected.*float32"),
        (lambda clean: clean.half(), "float16.*expected.*float32"),
        (lambda clean: None, "returned None"),
        (lambda clean: clean.numpy(), "returned"),
    ],
)
def test_returning_something_else_is_caught(spoil: Callable[[Tensor], Any], told: str) -> None:
    loop = _loop()
    with (
        pytest.raises(HookError, match=rf"Act\(\).*{told}"),
        el.attach(loop, Act(lambda clean, step: spoil(clean)), frames=FRAMES),
    ):
        loop(3)


@final
class Rule(Renoise[None]):
    """A rule made of any function of the proposed latent."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def init(self, run: Run) -> None:
        return None

    def update(self, clean: Any, proposed: Any, step: Step, state: None) -> Any:
        return self.function(proposed), state


@unchecked
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda proposed: proposed[:1], "shape"),
        (lambda proposed: proposed.double(), "float64.*expected.*float32"),
        (lambda proposed: proposed.mul_(0), "wrote into"),
        (lambda proposed: None, "returned None"),
    ],
)
def test_rules_are_held_to_the_same(spoil: Callable[[Tensor], Any], told: str) -> None:
    loop = _loop()
    hook = el.renoise(el.stateless(_add), Rule(spoil))
    with pytest.raises(HookError, match=told), el.attach(loop, hook, frames=FRAMES):
        loop(3)


@unchecked
def test_only_hooks_attach() -> None:
    with (
        pytest.raises(TypeError, match=r"attach takes a hook.*stateless\(fn\)"),
        el.attach(_loop(), _add, frames=FRAMES),  # type: ignore[arg-type]
    ):
        pass


def test_every_problem_is_told_at_once() -> None:
    pipe = tiny_sd(scheduler_of("PNDMScheduler"))
    problems = el.check(pipe, el.identity())
    assert len(problems) == 2
    assert "give frames=" in problems[0]
    assert "DDIMScheduler.from_config" in problems[1]
    with pytest.raises(CheckError) as caught, el.attach(pipe, el.identity()):
        pass
    assert caught.value.problems == problems


def test_something_without_a_scheduler() -> None:
    class Upscaler:
        pass

    (problem,) = el.check(Upscaler(), el.identity())
    assert "Upscaler has no scheduler" in problem


def test_patches_need_a_network() -> None:
    class Nothing(Patch):
        def apply(self, module: Any) -> Any:
            raise AssertionError

        def check(self, module: Any) -> Any:
            yield f"Nothing cannot patch a {type(module).__name__}"

    (problem,) = el.check(_loop(), el.identity(), [Nothing()], frames=FRAMES)
    assert "drop patches=" in problem
    (problem,) = el.check(tiny_sd(), el.identity(), [Nothing()], frames=FRAMES)
    assert problem == "Nothing cannot patch a UNet2DConditionModel"


def test_without_a_generator_every_run_draws_anew_and_a_seed_repeats_it() -> None:
    pipe = tiny_sd(ddim())
    latents = make_latent((3, 4, 8, 8))

    def run() -> Any:
        with el.attach(pipe, Jitter(), frames=3):
            return sample(pipe, steps=2, seed=None, latents=latents.clone())

    torch.manual_seed(5)
    first = run()
    torch.randn(1)
    second = run()
    torch.manual_seed(5)
    assert torch.equal(run(), first)
    assert not torch.equal(first, second)


def test_a_layout_with_frames_needs_no_number_of_them() -> None:
    assert "give frames=" in " ".join(el.check(tiny_sd(), el.identity()))
    assert el.check(tiny_sd(), el.identity(), layout="b c f h w") == ()


def test_check_looks_at_the_network_and_at_the_steps() -> None:
    (problem,) = el.check(tiny_text_to_video(), el.identity(), [CrossFrameAttention()])
    assert "already mixes frames" in problem
    late = el.at({7}, Jitter())
    assert el.check(tiny_sd(), late, frames=3) == ()
    (problem,) = el.check(tiny_sd(), late, frames=3, steps=5)
    assert "7" in problem


def test_the_line_to_paste_for_a_solver_that_cannot_be_renoised_works() -> None:
    hook = el.renoise(Jitter(), el.KeepNoise())
    for name in ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"):
        pipe = tiny_sd(getattr(diffusers, name)())
        (problem,) = el.check(pipe, hook, frames=3)
        line = problem[problem.index("pipe.scheduler") :]
        better = line.split(" = ")[1].split(".")[0]
        exec(line, {better: getattr(diffusers, better), "pipe": pipe})
        assert el.check(pipe, hook, frames=3) == ()
        assert ("FlowMatch" in name) == ("FlowMatch" in type(pipe.scheduler).__name__)
        assert not pipe.scheduler.config.get("clip_sample")
