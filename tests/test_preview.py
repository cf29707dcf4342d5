"""Previews: what they show, that they leave no trace in a run, and what becomes of errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import elevator as el
from elevator import world, zoo
from elevator.hook import Hook, Step
from elevator.latent import Latent
from elevator.preview import ContactSheet, Decode, Preview, decode_with, project_with
from tests.builders import make_latent, make_run, make_step, sample, tiny_animatediff, tiny_sd
from tests.conformance import Drift
from tests.tiny_pipelines import call, tiny


def plain_red(latents: Latent) -> Tensor:
    """Frames of one colour each, as red as the latents are large in the mean."""
    frames = torch.zeros(*latents.shape[::2][:2], 3, 16, 12)
    frames[:, :, 0] = latents.mean((1, 3, 4))[:, :, None, None]
    return frames


def where_red(file: Path, value: float) -> NDArray[Any]:
    """Rows and columns of a picture's pixels of that red."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return np.argwhere((pixels == (round(255 * value), 0, 0)).all(-1))


def walk(hook: Hook[Any], values: list[list[float]]) -> list[Any]:
    """Show a hook a step after another; each a value per frame. Every state."""
    run = make_run((1, 4, len(values[0]), 2, 2), steps=len(values))
    states = [hook.init(run)]
    for index, value in enumerate(values):
        clean = torch.tensor(value)[:, None, None].expand(run.shape).clone()
        got, state = hook.update(clean, make_step(run, index, clean=clean), states[-1])
        assert got is clean
        states.append(state)
    return states


# --- looking --------------------------------------------------------------------------------------


def test_it_is_shown_the_estimate_at_the_chosen_steps() -> None:
    seen: list[tuple[int, Tensor]] = []
    hook = el.chain(
        Drift(0.5), el.every(2, Preview(lambda clean, step: seen.append((step.index, clean))))
    )
    run = make_run(steps=5)
    state, estimates = hook.init(run), []
    for index in range(5):
        step = make_step(run, index)
        clean, state = hook.update(step.predicted.clean, step, state)
        estimates.append(clean)
    assert [index for index, _ in seen] == [0, 2, 4]
    for index, clean in seen:
        assert torch.equal(clean, estimates[index])
        assert clean is not estimates[index]


def test_whatever_looks_does_leaves_no_trace() -> None:
    def meddle(clean: Latent, step: Step) -> Latent:
        assert not torch.is_grad_enabled()
        torch.manual_seed(step.index)
        return clean.mul_(torch.rand(()))

    pipe = tiny_sd()
    for alone in (el.identity(), Drift()):  # where a step is the host's own, and where it is not
        made = []
        for hook in (alone, el.chain(alone, Preview(meddle))):
            torch.manual_seed(1)
            with el.attach(pipe, hook, frames=3):
                made.append((sample(pipe, seed=None), torch.get_rng_state()))
        (plain, before), (seen, after) = made
        assert torch.equal(seen, plain)
        assert torch.equal(after, before)


def test_nothing_is_shown_where_nothing_is_computed(tmp_path: Path) -> None:
    def never(clean: Latent, step: Step) -> None:
        raise AssertionError

    sheet = ContactSheet(tmp_path / "sheet.png", plain_red)
    planned = el.plan(tiny_sd(), el.chain(Preview(never), sheet), frames=3, steps=4)
    assert not planned.hooks
    assert not [*tmp_path.iterdir()]


# --- the contact sheet ----------------------------------------------------------------------------


def test_a_row_per_step_and_a_column_per_frame(tmp_path: Path) -> None:
    file = tmp_path / "sheet.png"
    values = [[0.2, 0.4], [0.6, 0.8]]
    states = walk(ContactSheet(file, plain_red, side=16), values)
    assert [len(state) for state in states] == [0, 1, 2]
    labels = [row.label for row in states[2]]
    assert labels == ["step 0, sigma / alpha = 32", "step 1, sigma / alpha = 0.031"]
    found = [where_red(file, value) for row in values for value in row]
    assert [len(one) for one in found] == 4 * [16 * 12]
    places = [tuple(one.mean(0)) for one in found]
    (a, b), (c, d) = places[:2], places[2:]
    assert a[0] == b[0] < c[0] == d[0], "steps go down"
    assert a[1] == c[1] < b[1] == d[1], "frames go right"


def test_it_grows_while_the_run_goes_on_and_the_next_run_starts_over(tmp_path: Path) -> None:
    file = tmp_path / "sheet.png"
    heights: list[int] = []

    def measure(clean: Latent, step: Step) -> None:
        with Image.open(file) as picture:
            heights.append(picture.height)

    pipe = tiny_sd()
    hook = el.chain(ContactSheet(file, decode_with(pipe.vae), side=16), Preview(measure))
    with el.attach(pipe, hook, frames=3):
        sample(pipe, steps=3)
        sample(pipe, steps=3)
    assert heights[0] < heights[1] < heights[2]
    assert heights[3:] == heights[:3]
    assert [*tmp_path.iterdir()] == [file], "nothing is left beside it"


def test_only_the_shown_frames_of_the_first_clip_are_decoded(tmp_path: Path) -> None:
    asked: list[Tensor] = []

    def decode(latents: Latent) -> Tensor:
        asked.append(latents)
        return plain_red(latents)

    hook = ContactSheet(tmp_path / "sheet.png", decode, columns=3)
    run = make_run((2, 4, 9, 2, 2))
    step = make_step(run)
    hook.update(step.predicted.clean, step, hook.init(run))
    assert torch.equal(asked[0], step.predicted.clean[:1, :, [0, 4, 8]])


@pytest.mark.parametrize(("side", "shown"), [(8, 8 * 6), (16, 16 * 12), (33, 32 * 24)])
def test_frames_are_shown_in_the_size_asked_for(tmp_path: Path, side: int, shown: int) -> None:
    """Larger ones are averaged down, smaller ones enlarged by whole factors."""
    file = tmp_path / "sheet.png"
    walk(ContactSheet(file, plain_red, side=side), [[0.3]])
    assert len(where_red(file, 0.3)) == shown


def test_a_place_that_cannot_be_written_to_is_told_before_the_run(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nowhere" / "sheet.png", "make the folder"),
        (tmp_path / "sheet.jpg", "an image must end in .png"),
    ):
        (problem,) = el.check(tiny_sd(), ContactSheet(path, plain_red), frames=3)
        assert message in problem


def test_bad_arguments(tmp_path: Path) -> None:
    for name in ("columns", "side"):
        given: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"takes {name} >= 1, got 0"):
            ContactSheet("sheet.png", plain_red, **given)


def test_reprs_name_what_looks() -> None:
    vae = tiny_sd().vae
    assert repr(Preview(print)) == "Preview(print)"
    assert repr(ContactSheet("a.png", decode_with(vae))) == (
        "ContactSheet('a.png', decode=decode_with(<AutoencoderKL>))"
    )
    assert repr(project_with(vae)) == "project_with(<AutoencoderKL>)"
    assert ContactSheet("a.png", decode_with(vae)) == ContactSheet("a.png", decode_with(vae))


# --- errors in what looks -------------------------------------------------------------------------


def test_an_error_is_told_and_the_run_goes_on_without_the_preview(tmp_path: Path) -> None:
    calls: list[int] = []

    def fail(clean: Latent, step: Step) -> None:
        calls.append(step.index)
        if step.index == 1:
            raise OSError("the disk is full")

    pipe = tiny_sd()
    plain = sample(pipe)
    message = r"Preview\(.*fail\) failed at step 1 and is left out .*goes on \(OSError: the disk is"
    with el.attach(pipe, Preview(fail), frames=3):
        with pytest.warns(RuntimeWarning, match=message):
            assert torch.equal(sample(pipe), plain)
        assert calls == [0, 1]
        with pytest.warns(RuntimeWarning, match=message):
            sample(pipe)
        assert calls == [0, 1, 0, 1], "the next run tries again"


def test_frames_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    file = tmp_path / "sheet.png"
    with pytest.warns(RuntimeWarning, match=r"failed at step 1 .*not finite; half precision"):
        states = walk(ContactSheet(file, plain_red, side=8), [[0.1], [torch.nan], [0.3]])
    assert states[2:] == [None, None]
    assert file.is_file(), "what was seen so far stays"


def test_an_interruption_is_no_error_of_a_preview() -> None:
    def stop(clean: Latent, step: Step) -> None:
        raise KeyboardInterrupt

    pipe = tiny_sd()
    with pytest.raises(KeyboardInterrupt), el.attach(pipe, Preview(stop), frames=3):
        sample(pipe)


# --- from latents to frames -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen() -> tuple[Any, Tensor, Latent]:
    """The built-in autoencoder, clips, and their latents."""
    vae = zoo.load("t2i").vae
    clips = world.render(world.draw(32, seed=0), frames=1)
    with torch.no_grad():
        rows = vae.encode(clips.flatten(0, 1) * 2 - 1).latent_dist.mean
    latents = rearrange(rows, "b c h w -> b c 1 h w") * vae.config.scaling_factor
    return vae, clips, latents


def test_decoded_frames_are_the_clips(seen: tuple[Any, Tensor, Latent]) -> None:
    vae, clips, latents = seen
    assert float((decode_with(vae)(latents) - clips).abs().mean()) < 0.03


def test_projected_colours_are_mostly_the_clips(seen: tuple[Any, Tensor, Latent]) -> None:
    vae, clips, latents = seen
    small = torch.nn.functional.adaptive_avg_pool2d(clips.flatten(0, 1), 16)
    small = small.unflatten(0, clips.shape[:2])
    got = project_with(vae)(latents)
    assert got.shape == small.shape
    spread = (small - small.mean((0, 1, 3, 4), keepdim=True)).square().mean()
    assert float((got - small).square().mean() / spread) < 0.15


@pytest.mark.parametrize("shift", [None, 0.3])
def test_scale_and_shift_are_undone(shift: float | None) -> None:
    vae = tiny_sd().vae
    vae.register_to_config(scaling_factor=0.5, shift_factor=shift)
    latents = make_latent((2, 4, 3, 4, 5))
    with torch.no_grad():
        rows = rearrange(latents, "b c f h w -> (b f) c h w") / 0.5 + (shift or 0)
        wanted = vae.decode(rows).sample / 2 + 0.5
    got = decode_with(vae)(latents)
    torch.testing.assert_close(got.flatten(0, 1), wanted, rtol=1e-4, atol=1e-5)
    assert got.shape[:2] == (2, 3)


def test_the_projection_is_the_best_affine_map_of_an_encoder_that_is_one() -> None:
    class Averages(torch.nn.Module):
        """Encodes 2x2 pixels as an affine mix of their mean colour."""

        config = tiny_sd().vae.config
        device, dtype = torch.device("cpu"), torch.float32
        mix = make_latent((4, 3), 3)

        def encode(self, pictures: Tensor) -> Any:
            mean = torch.nn.functional.avg_pool2d(pictures, 2)
            latents = torch.einsum("kc,nchw->nkhw", self.mix, mean) + 0.7
            return type("", (), {"latent_dist": type("", (), {"mean": latents})})

    Averages.__name__ = "AutoencoderKL"
    colours = torch.rand(1, 2, 3, 4, 4)
    latents = torch.einsum("kc,bfchw->bkfhw", Averages.mix, colours * 2 - 1) + 0.7
    latents = latents * Averages.config.scaling_factor
    got = project_with(Averages())(latents)
    torch.testing.assert_close(got, colours, rtol=1e-3, atol=1e-3)


def test_the_tiny_autoencoder_will_do() -> None:
    from diffusers import AutoencoderTiny

    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    assert decode_with(tiny)(make_latent((1, 4, 2, 4, 5))).shape == (1, 2, 3, 8, 10)
    with pytest.raises(ValueError, match=r"project_with knows AutoencoderKL, .* AutoencoderTiny;"):
        project_with(tiny)


@pytest.mark.parametrize("make", [decode_with, project_with])
def test_other_autoencoders_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"given a Linear; give decode=a function from latents"):
        make(torch.nn.Linear(1, 1))


def test_the_whole_clip_may_be_decoded_and_frames_be_chosen_from_it(tmp_path: Path) -> None:
    """Three latent frames of nine pictures, of which five are shown."""
    file = tmp_path / "sheet.png"

    def decode(latents: Latent) -> Tensor:
        assert latents.shape == (1, 4, 3, 2, 2)
        reds = torch.arange(20.0, 200, 20).view(1, 9, 1, 1, 1) / 255
        return torch.cat([reds, torch.zeros(1, 9, 2, 1, 1)], 2).expand(-1, -1, -1, 8, 6)

    walk(ContactSheet(file, decode, columns=5, side=8, whole=True), [[0.0, 0.0, 0.0]])
    shown = [len(where_red(file, 20 * (i + 1) / 255)) > 0 for i in range(9)]
    assert shown == [i % 2 == 0 for i in range(9)]


def test_in_a_pipeline_of_a_causal_autoencoder(tmp_path: Path) -> None:
    """Its latent frames need those before; the pipeline's own pictures are shown."""
    pipe, file, seen = tiny("wan"), tmp_path / "sheet.png", list[Tensor]()

    def decode(latents: Latent) -> Tensor:
        seen.append(el.codec(pipe).pictures(latents))
        return seen[-1]

    with torch.no_grad(), el.attach(pipe, ContactSheet(file, decode, whole=True)):
        made = pipe(**call("wan", output_type="pt")).frames
    assert file.is_file()
    torch.testing.assert_close(seen[-1].clamp(0, 1), made, atol=2e-3, rtol=0)


@pytest.mark.parametrize("way", [decode_with, project_with])
def test_in_a_video_pipeline_of_half_precision(way: Any, tmp_path: Path) -> None:
    pipe = tiny_animatediff().to(torch.bfloat16)
    decode: Decode = way(pipe.vae)
    file = tmp_path / "sheet.png"
    plain = sample(pipe)
    with el.attach(pipe, ContactSheet(file, decode)):
        assert torch.equal(sample(pipe), plain)
    assert file.is_file()
