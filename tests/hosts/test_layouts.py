"""The axes of a host's latents, and where hooks draw noise from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import elevator as el
from elevator.errors import CheckError, LayoutError
from elevator.hook import Step
from elevator.hosts.layouts import LAYOUTS, from_host, layout_of, to_host
from elevator.latent import Latent, current_frames
from tests.builders import (
    ddim,
    make_latent,
    sample,
    scheduler_of,
    tiny_animatediff,
    tiny_sd,
    tiny_text_to_video,
)
from tests.hosts.loops import FRAMES, Loop, looking, scheduler_for


def _loop() -> Loop:
    return Loop(scheduler_for("DDIMScheduler"))


# --- frames and layouts ---------------------------------------------------------------------------


@pytest.mark.parametrize("build", [tiny_text_to_video, tiny_animatediff])
def test_video_pipelines_tell_their_frames(build: Callable[[], Any]) -> None:
    pipe, seen = build(), []
    hook = looking(lambda clean, step: seen.append((clean.shape, current_frames())))
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
    both: dict[str, Any] = {"prompt_embeds": embeds, "negative_prompt_embeds": embeds.flip(0)}
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
    hook = looking(lambda clean, step: shapes.append(clean.shape))
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
    grid = {"f": 3, "h": 3, "w": 4} if "p" in pattern else {"f": 3, "h": 6, "w": 8}
    assert torch.equal(from_host(host, pattern, 3, grid), latent)


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


def test_packed_latents_need_their_sizes() -> None:
    class Unknown:
        pass

    with pytest.raises(LayoutError, match=r"3 axes.*layout=.*'b \(f h w\) c'"):
        layout_of(Unknown(), 3)
    tokens = make_latent((1, 24, 8))
    with pytest.raises(LayoutError, match=r"did not tell h and w"):
        from_host(tokens, "b (f h w) c", 3, {"f": 3})
    with pytest.raises(LayoutError, match=r"24 tokens, but a clip of f=3 x h=2 x w=2 has 12"):
        from_host(tokens, "b (f h w) c", 3, {"f": 3, "h": 2, "w": 2})
    with pytest.raises(LayoutError, match=r"hides the sizes of c f"):
        from_host(tokens, "b h (c f)", 3)


def test_patches_are_pixels_of_the_latent() -> None:
    """The order within a patch is diffusers' own: `FluxPipeline._pack_latents`."""
    from diffusers import FluxPipeline

    latent = make_latent((2, 4, 1, 6, 8))
    packed = FluxPipeline._pack_latents(latent[:, :, 0], 2, 4, 6, 8)
    assert torch.equal(to_host(latent, LAYOUTS["FluxPipeline"]), packed)


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
    hook = looking(lambda clean, step: drawn.append(step.draw()))
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
    hook = looking(lambda clean, step: drawn.append(step.draw()))
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
