"""What attach promises and what it refuses, on a hand-written loop and tiny pipelines."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, final

import jaxtyping
import pytest
import torch
from torch import Tensor

import elevator as el
from elevator.errors import CheckError, HookError, LayoutError
from elevator.hook import Hook, Run, Step
from elevator.hosts.layouts import LAYOUTS, from_host, layout_of, to_host
from elevator.latent import Latent, current_frames
from elevator.level import Level
from elevator.patch import Patch
from elevator.renoise import Renoise
from tests.builders import ddim, make_latent, sample, scheduler_of, tiny_animatediff, tiny_sd
from tests.builders import tiny_text_to_video
from tests.hosts.loops import FRAMES, Loop, scheduler_for


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
    hook = el.stateless(lambda clean, step: seen.append(step.index) or clean)
    with el.attach(loop, hook, frames=FRAMES):
        with (
            pytest.raises(CheckError, match="already carries a hook.*chain the hooks"),
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
        pytest.raises(CheckError, match="from_pipe share one.*scheduler of its own"),
        el.attach(other, el.identity(), frames=3),
    ):
        pass


def test_replacing_the_scheduler_while_attached_is_an_error() -> None:
    loop = _loop()
    first = loop.scheduler
    with (
        pytest.raises(HookError, match="scheduler was replaced.*set the scheduler first"),
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

        def check(self, host: Any) -> Any:
            yield f"Nothing cannot patch {host.solver}"

    problems = el.check(_loop(), el.identity(), [Nothing()], frames=FRAMES)
    assert any("drop patches=" in problem for problem in problems)
    assert "Nothing cannot patch DDIMScheduler" in problems


# --- frames and layouts ---------------------------------------------------------------------------


@pytest.mark.parametrize("build", [tiny_text_to_video, tiny_animatediff])
def test_video_pipelines_tell_their_frames(build: Callable[[], Any]) -> None:
    pipe, seen = build(), []
    hook = el.stateless(lambda clean, step: seen.append((clean.shape, current_frames())) or clean)
    with el.attach(pipe, hook):
        sample(pipe, steps=2, frames=5)
        assert seen == [((1, 4, 5, 8, 12), 5)] * 2
        seen.clear()
        sample(pipe, steps=1, frames=3)
        assert seen == [((1, 4, 3, 8, 12), 3)]
    assert current_frames() is None


@pytest.mark.parametrize("build", [tiny_text_to_video, tiny_animatediff])
def test_a_hook_changes_the_frame_it_means(build: Callable[[], Any]) -> None:
    """Frames and clips are not mixed up: only the second frame of the first clip is forced."""
    pipe = build()

    def second(clean: Latent, step: Step) -> Latent:
        clean = clean.clone()
        clean[0, :, 1] = 0.375
        return clean

    embeds = make_latent((2, 5, 16), 7)
    both = {"prompt_embeds": embeds, "negative_prompt_embeds": embeds.flip(0)}
    plain = _bcfhw(sample(pipe, **both))
    with el.attach(pipe, el.stateless(second)):
        forced = _bcfhw(sample(pipe, **both))
    final = float(pipe.scheduler.final_alpha_cumprod) ** 0.5
    assert (forced[0, :, 1] - final * 0.375).abs().max() < 0.2
    assert (plain[0, :, 1] - final * 0.375).abs().max() > 0.3
    torch.testing.assert_close(forced[1], plain[1], rtol=0.0, atol=1e-4)


def _bcfhw(latents: Tensor) -> Tensor:
    assert latents.shape == (2, 4, 3, 8, 12)
    return latents


@pytest.mark.parametrize("frames", [4, 7, 12])
def test_frames_that_do_not_divide_the_batch(frames: int) -> None:
    pipe = tiny_sd()
    with (
        pytest.raises(LayoutError, match=rf"batch of 6.*clips of {frames} frames.*frames="),
        el.attach(pipe, el.identity(), frames=frames),
    ):
        sample(pipe, steps=1, frames=6)
    assert "prepare_latents" not in vars(pipe)


@pytest.mark.parametrize("frames", [0, -2])
def test_no_frames_at_all(frames: int) -> None:
    (problem,) = el.check(tiny_sd(), el.identity(), frames=frames)
    assert problem == f"frames={frames} is no number of frames; give 1 or more"


def test_frames_against_what_the_pipeline_says() -> None:
    pipe = tiny_text_to_video()
    with (
        pytest.raises(CheckError, match="given frames=2, but the clip has 4; drop frames="),
        el.attach(pipe, el.identity(), frames=2),
    ):
        sample(pipe, steps=1, frames=4)
    with el.attach(pipe, el.identity(), frames=4):
        sample(pipe, steps=1, frames=4)


def test_layout_may_be_given() -> None:
    """A pipeline elevator does not know, with channels last."""

    class Strange:
        def __init__(self) -> None:
            self.scheduler = ddim()

        def __call__(self) -> Tensor:
            latents = make_latent((2, 3, 6, 8, 4))  # b f h w c
            self.scheduler.set_timesteps(2)
            for timestep in self.scheduler.timesteps:
                latents = self.scheduler.step(latents * 0.1, timestep, latents).prev_sample
            return latents

    pipe, shapes = Strange(), []
    hook = el.stateless(lambda clean, step: shapes.append(clean.shape) or clean)
    with el.attach(pipe, hook, frames=3, layout="b f h w c"):
        pipe()
    assert shapes == [(2, 4, 3, 6, 8)] * 2
    with (
        pytest.raises(
            LayoutError, match=r"\(2, 3, 6, 8, 4\) do not fit the layout '\(b f\) c h w'"
        ),
        el.attach(pipe, hook, frames=3, layout="(b f) c h w"),
    ):
        pipe()


@pytest.mark.parametrize("pattern", [*sorted(set(LAYOUTS.values())), "(f b) c h w", "(b f) h w c"])
def test_layouts_go_there_and_back(pattern: str) -> None:
    latent = make_latent((2, 4, 3, 6, 8))
    host = to_host(latent, pattern)
    assert torch.equal(from_host(host, pattern, 3), latent)


@pytest.mark.parametrize(
    ("pipeline", "pattern"),
    [
        ("CogVideoXImageToVideoPipeline", "b f c h w"),
        ("CogVideoXVideoToVideoPipeline", "b f c h w"),
        ("CogVideoXFunControlPipeline", "b f c h w"),
        ("ConsisIDPipeline", "b f c h w"),
        ("Kandinsky5T2VPipeline", "b f h w c"),
        ("StableVideoDiffusionPipeline", "b f c h w"),
        ("WanPipeline", "b c f h w"),
        ("HunyuanVideoPipeline", "b c f h w"),
    ],
)
def test_five_axes_are_not_always_the_same(pipeline: str, pattern: str) -> None:
    kind = type(pipeline, (), {})
    assert layout_of(kind(), 5) == pattern
    assert layout_of(type("Mine", (kind,), {})(), 5) == pattern


def test_packed_latents_are_refused() -> None:
    class LTXPipeline:
        pass

    with pytest.raises(LayoutError, match="3 axes.*layout="):
        layout_of(LTXPipeline(), 3)
    with pytest.raises(LayoutError, match=r"hides.*h w"):
        from_host(make_latent((1, 24, 8)), "b (f h w) c", 3)


# --- noise ----------------------------------------------------------------------------------------


def _draws(loop: Any, runs: int = 1, **more: Any) -> list[Tensor]:
    drawn: list[Tensor] = []

    def hook(clean: Latent, step: Step) -> Latent:
        drawn.extend((step.draw("one"), step.draw("two")))
        return clean

    with el.attach(loop, el.stateless(hook), **more):
        for _ in range(runs):
            loop() if isinstance(loop, Loop) else sample(loop, steps=2)
    return drawn


def test_the_hosts_generator_does_not_advance() -> None:
    pipe, generator = tiny_sd(scheduler_of("EulerAncestralDiscreteScheduler")), torch.Generator()
    generator.manual_seed(3)
    plain = sample(pipe, generator=generator)
    state = generator.get_state()
    generator.manual_seed(3)
    globally = torch.get_rng_state()
    drawn: list[Tensor] = []

    def draw(clean: Latent, step: Step) -> Latent:
        drawn.append(step.draw())
        return clean

    with el.attach(pipe, el.stateless(draw), frames=3):
        assert torch.equal(sample(pipe, generator=generator), plain)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), globally)
    assert len(drawn) == 4


def test_noise_follows_the_generator_of_the_call() -> None:
    pipe, drawn = tiny_sd(), []
    hook = el.stateless(lambda clean, step: drawn.append(step.draw()) or clean)
    with el.attach(pipe, hook, frames=3):
        for seed in (1, 2, 1):
            sample(pipe, steps=1, seed=seed)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_without_a_generator_every_run_is_new_and_the_global_seed_decides() -> None:
    first = _draws(_loop(), runs=2, frames=FRAMES)
    again = _draws(_loop(), runs=2, frames=FRAMES)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[len(first) // 2])
    torch.manual_seed(5)
    assert not torch.equal(first[0], _draws(_loop(), frames=FRAMES)[0])


@pytest.mark.parametrize("build", [tiny_sd, tiny_text_to_video])
def test_one_generator_per_image_or_clip(build: Callable[[], Any]) -> None:
    """A clip draws the same noise alone as in a batch, whichever way the pipeline counts."""
    pipe, drawn = build(), []
    hook = el.stateless(lambda clean, step: drawn.append(step.draw()) or clean)
    image = build is tiny_sd
    seeds = [4, 5, 6, 7, 8, 9] if image else [4, 7]
    embeds = make_latent((1, 5, 16), 7)

    def run(chosen: list[int]) -> None:
        rows = embeds.repeat(len(chosen), 1, 1)
        generators = [torch.Generator().manual_seed(seed) for seed in chosen]
        sample(pipe, steps=1, generator=generators, prompt_embeds=rows, negative_prompt_embeds=rows)

    with el.attach(pipe, hook, frames=3 if image else None):
        run(seeds)
        run(seeds[: len(seeds) // 2])
        run(seeds[len(seeds) // 2 :])
    both, first, second = drawn
    assert torch.equal(both[:1], first)
    assert torch.equal(both[1:], second)


def test_a_generator_as_noise_streams_in_order() -> None:
    shape = (2 * FRAMES, 4, 4, 6)
    drawn = _draws(_loop(), frames=FRAMES, noise=torch.Generator().manual_seed(8))
    generator = torch.Generator().manual_seed(8)
    assert len(drawn) == 10
    for tensor in drawn:
        wanted = torch.randn(shape, generator=generator).unflatten(0, (2, FRAMES))
        assert torch.equal(tensor, wanted.transpose(1, 2))


def test_importing_and_checking_loads_no_pipeline() -> None:
    code = "import sys, elevator; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_level_is_part_of_the_public_names() -> None:
    assert el.Level is Level
