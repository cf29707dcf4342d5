"""Windows of frames: the blend against plain loops, what the network sees, what is left behind."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import elevator as el
from elevator.denoise import Call, count_calls
from elevator.errors import CheckError, LayoutError
from elevator.models import CrossFrameAttention, FrameWindows
from tests.builders import make_latent, sample, tiny_animatediff, tiny_sd, tiny_text_to_video

BUILDS = [tiny_text_to_video, tiny_animatediff]
FOUR = FrameWindows(4, stride=2)


@pytest.fixture(scope="module", params=BUILDS, ids=["unet3d", "motion"])
def pipe(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(params=BUILDS, ids=["unet3d", "motion"])
def fresh(request: pytest.FixtureRequest) -> Any:
    return request.param()


def call(unet: Any, frames: int, *, batch: int = 2, **more: Any) -> Tensor:
    """The network's output for different clips, told per frame where it wants to be."""
    x, text = make_latent((batch, 4, frames, 8, 8), 1), make_latent((batch, 5, 16), 2)
    if type(unet).__name__ == "UNetMotionModel":
        text = text.repeat_interleave(frames, 0)
    with torch.no_grad():
        return unet(x, torch.tensor(500), encoder_hidden_states=text, **more)[0]


@contextmanager
def frames_per_call(unet: nn.Module) -> Iterator[list[int]]:
    """Frames of every call, seen at `forward`."""
    seen: list[int] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["sample"]).shape[2])

    handle = unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _frame_by_frame(unet: nn.Module) -> None:
    """Take everything out of a video network by which frames see each other."""
    part: Any
    for part in unet.modules():
        kind = type(part).__name__
        if kind == "TemporalConvLayer":
            last = part.conv4[-1]  # what is added to its input
        elif kind in ("TransformerTemporalModel", "AnimateDiffTransformer3D"):
            last = part.proj_out
        else:
            continue
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


# --- the blend ------------------------------------------------------------------------------------


@given(frames=st.integers(1, 60), length=st.integers(1, 20), part=st.integers(1, 20))
def test_windows_cover_every_frame_and_no_more(frames: int, length: int, part: int) -> None:
    stride = min(part, length)
    spans = FrameWindows(length, stride=stride).spans(frames)
    assert sorted({frame for span in spans for frame in span}) == list(range(frames))
    assert {len(span) for span in spans} == {min(length, frames)}
    starts = [span.start for span in spans]
    assert starts == sorted(set(starts))
    assert all(after - before <= stride for before, after in pairwise(starts))
    assert len(spans) == max(0, -(-(frames - length) // stride)) + 1


@pytest.mark.parametrize("windows", [FOUR, FrameWindows(5, stride=3), FrameWindows(3, stride=1)])
def test_the_equation(pipe: Any, windows: FrameWindows) -> None:
    """Every window on its own, weighted by the distance to its middle, in plain loops."""
    frames, unet = 9, pipe.unet
    x, text = make_latent((2, 4, frames, 8, 8), 1), make_latent((2, 5, 16), 2)
    starts = [0]
    while starts[-1] + windows.frames < frames:
        starts.append(min(starts[-1] + windows.stride, frames - windows.frames))
    total, weights = torch.zeros(2, 4, frames, 8, 8), [0.0] * frames
    for start in starts:
        part = x[:, :, start : start + windows.frames]
        rows = text
        if type(unet).__name__ == "UNetMotionModel":
            rows = text.repeat_interleave(windows.frames, 0)
        with torch.no_grad():
            out = unet(part, torch.tensor(500), encoder_hidden_states=rows)[0]
        middle = start + (windows.frames - 1) / 2
        for place in range(windows.frames):
            weight = (windows.frames + 1) / 2 - abs(start + place - middle)
            total[:, :, start + place] += weight * out[:, :, place]
            weights[start + place] += weight
    wanted = total / torch.tensor(weights)[:, None, None]
    with windows.apply(unet):
        got = call(unet, frames)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert (got - call(unet, frames)).abs().max() > 1e-3, "frames see each other"


def test_a_network_of_single_frames_is_not_changed(fresh: Any) -> None:
    unet = fresh.unet
    _frame_by_frame(unet)
    plain = call(unet, 7)
    for windows in (FOUR, FrameWindows(3, stride=3), FrameWindows(1, stride=1)):
        with windows.apply(unet):
            torch.testing.assert_close(call(unet, 7), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_one_window_is_the_plain_network_bit_for_bit(pipe: Any, frames: int) -> None:
    plain = call(pipe.unet, frames)
    with FOUR.apply(pipe.unet):
        assert torch.equal(call(pipe.unet, frames), plain)


def test_every_form_of_output_and_dtype(pipe: Any) -> None:
    with FOUR.apply(pipe.unet):
        one, other = call(pipe.unet, 7), call(pipe.unet, 7, return_dict=False)
        assert torch.equal(one, other)
        x, text = make_latent((1, 4, 6, 8, 8)), make_latent((1, 5, 16))
        if type(pipe.unet).__name__ == "UNetMotionModel":
            text = text.repeat_interleave(6, 0)
        with torch.no_grad():
            named = pipe.unet(sample=x, timestep=3, encoder_hidden_states=text)
        assert named.sample.shape == x.shape
        assert type(named).__module__.startswith("diffusers.")


def test_half_precision_stays_half(fresh: Any) -> None:
    unet = fresh.unet.to(torch.bfloat16)
    x, text = make_latent((1, 4, 6, 8, 8)), make_latent((6, 5, 16))
    text = text if type(unet).__name__ == "UNetMotionModel" else text[:1]
    with FOUR.apply(unet), torch.no_grad():
        made = unet(x.bfloat16(), 3, encoder_hidden_states=text.bfloat16())[0]
    assert made.dtype == torch.bfloat16
    assert made.isfinite().all()


def test_what_has_a_row_per_frame_is_cut_along() -> None:
    """Different text in every frame: each window gets its own frames' rows."""
    unet = tiny_animatediff().unet
    _frame_by_frame(unet)
    x, text = make_latent((2, 4, 7, 8, 8), 1), make_latent((14, 5, 16), 2)
    sizes = ((16, 8, 8), (16, 8, 8), (16, 4, 4), (32, 4, 4))
    down = tuple(make_latent((14, *size), 3 + i) for i, size in enumerate(sizes))
    middle = make_latent((14, 32, 4, 4), 7)
    given: dict[str, Any] = {
        "encoder_hidden_states": text,
        "down_block_additional_residuals": down,
        "mid_block_additional_residual": middle,
    }
    with torch.no_grad():
        plain = unet(x, 3, **given)[0]
        with FOUR.apply(unet):
            torch.testing.assert_close(unet(x, 3, **given)[0], plain, atol=1e-5, rtol=1e-5)


# --- what the network sees ------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [5, 8, 13])
def test_never_more_frames_than_a_window(pipe: Any, frames: int) -> None:
    """Also with guidance, which doubles the batch and not the frames."""
    with frames_per_call(pipe.unet) as seen, FOUR.apply(pipe.unet):
        made = sample(pipe, frames=frames, steps=2)
    assert made.shape[2] == frames
    assert set(seen) == {4}
    assert len(seen) == 2 * len(FOUR.spans(frames))


def test_attached_to_a_pipeline(pipe: Any) -> None:
    with FOUR.apply(pipe.unet):
        wanted = sample(pipe, frames=7)
    with el.attach(pipe, el.identity(), [FOUR]):
        assert torch.equal(sample(pipe, frames=7), wanted)
    soften = el.stateless(lambda clean, step: clean * 0.9)
    with el.attach(pipe, soften, [FOUR]):
        assert not torch.equal(sample(pipe, frames=7), wanted)


def test_in_a_denoiser_with_its_plan(pipe: Any) -> None:
    text = make_latent((2, 5, 16), 7)
    given: dict[str, Any] = {"prompt_embeds": text[:1], "negative_prompt_embeds": text[1:]}
    plain = el.denoiser(pipe, guidance=2.0, **given)
    cut = el.denoiser(pipe, guidance=2.0, patches=[FOUR], **given)
    noisy, level = make_latent((1, 4, 7, 8, 8)), plain.schedule[500]
    with FOUR.apply(pipe.unet):
        wanted = plain(noisy, level)
    with frames_per_call(pipe.unet) as seen, count_calls() as calls:
        got = cut(noisy, level)
        assert calls == [Call(type(pipe.unet).__name__, 2, 4)] * 3
        cut(noisy.to("meta"), level)
    assert torch.equal(got.clean, wanted.clean)
    assert seen == [4, 4, 4]
    assert len(calls) == 6


def test_the_plan_of_a_host_on_windows(pipe: Any) -> None:
    name = type(pipe.unet).__name__
    planned = el.plan(pipe, el.identity(), steps=3, frames=7, patches=[FOUR])
    assert planned.total == Counter({Call(name, 2, 4): 9})
    whole = el.plan(pipe, el.identity(), steps=3, frames=7)
    assert whole.total == Counter({Call(name, 2, 7): 3})
    late = el.plan(pipe, el.identity(), steps=3, frames=7, start=2)
    assert late.total == Counter({Call(name, 2, 7): 1})


# --- what is left behind --------------------------------------------------------------------------


def _traces(unet: Any) -> tuple[Any, ...]:
    return type(unet), list(vars(unet)), len(unet._forward_hooks), len(unet._forward_pre_hooks)


def test_the_network_has_its_class_back(pipe: Any) -> None:
    before = _traces(pipe.unet)
    with FOUR.apply(pipe.unet):
        assert isinstance(pipe.unet, before[0])
        assert type(pipe.unet).__name__ == before[0].__name__
    assert _traces(pipe.unet) == before
    with pytest.raises(ZeroDivisionError), FOUR.apply(pipe.unet):
        raise ZeroDivisionError
    assert _traces(pipe.unet) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda unet: pickle.loads(pickle.dumps(unet))])
def test_copies_are_plain_networks(pipe: Any, copied: Callable[[Any], Any]) -> None:
    plain = call(pipe.unet, 7)
    with FOUR.apply(pipe.unet):
        other = copied(pipe.unet)
    assert type(other) is type(pipe.unet)
    assert torch.equal(call(other, 7), plain)


def test_offloading_keeps_the_windows(fresh: Any) -> None:
    """It puts its own hooks off and on between runs."""
    plain = fresh.unet
    with FOUR.apply(plain):
        wanted = sample(fresh, frames=7, steps=2)
    fresh.enable_model_cpu_offload(device="cpu")
    with FOUR.apply(fresh.unet):
        for _ in range(2):
            torch.testing.assert_close(sample(fresh, frames=7, steps=2), wanted)


class UNet3DConditionModel(nn.Module):
    """As much of a video network as compiles in a moment: frames see their clip's mean."""

    config = SimpleNamespace()

    def forward(self, sample: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (torch.tanh(sample) + sample.mean(2, keepdim=True),)


def test_compiled_networks() -> None:
    plain, x = UNet3DConditionModel(), make_latent((1, 4, 7, 8, 8))
    compiled: Any = torch.compile(plain, backend="eager")
    before = type(compiled), type(plain)
    with FOUR.apply(plain):
        wanted = plain(x)[0]
    assert not torch.allclose(wanted, plain(x)[0], atol=1e-2)
    with FOUR.apply(compiled):
        torch.testing.assert_close(compiled(x)[0], wanted, atol=1e-5, rtol=1e-5)
        assert type(copy.deepcopy(compiled)) is before[0]
    assert (type(compiled), type(plain)) == before


def test_the_same_windows_twice_are_once(pipe: Any) -> None:
    """A denoiser may share its network with the pipeline it is attached to."""
    with FOUR.apply(pipe.unet):
        wanted = call(pipe.unet, 7)
        with FrameWindows(4, stride=2).apply(pipe.unet):
            assert torch.equal(call(pipe.unet, 7), wanted)
        assert torch.equal(call(pipe.unet, 7), wanted)
        with (
            pytest.raises(CheckError, match=r"already called on FrameWindows\(frames=4, stride=2"),
            FrameWindows(3, stride=2).apply(pipe.unet),
        ):
            pass


def test_it_cites_its_papers() -> None:
    cited = el.cite(el.identity(), [FOUR])
    assert "2310.15169" in cited
    assert "2305.18264" in cited


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "stride"), [(4, 5), (4, 0), (0, 0)])
def test_windows_that_leave_frames_out(frames: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"got stride {stride} and frames {frames}"):
        FrameWindows(frames, stride=stride)


def test_networks_whose_frames_cannot_be_cut() -> None:
    pipe = tiny_sd()
    known = "UNet3DConditionModel, UNetMotionModel and TemporalUNet"
    sentence = f"FrameWindows cuts the frames of {known}, not of"
    with (
        pytest.raises(CheckError, match=f"{sentence} UNet2DConditionModel"),
        el.attach(pipe, el.identity(), [FOUR], frames=7),
    ):
        pass
    with pytest.raises(CheckError, match=sentence), FOUR.apply(nn.Linear(2, 2)):
        pass
    with pytest.raises(CheckError, match=sentence):
        el.denoiser(pipe, prompt_embeds=make_latent((1, 5, 16)), guidance=1, patches=[FOUR])
    with pytest.raises(CheckError, match=sentence):
        el.plan(pipe, el.identity(), frames=7, patches=[FOUR])
    assert not list(CrossFrameAttention().check(pipe.unet))


def test_windows_longer_than_the_motion_module_knows() -> None:
    unet = tiny_animatediff().unet
    with pytest.raises(CheckError, match="knows 16 frames at most, FrameWindows asks it for 24"):
        FrameWindows(24, stride=4).apply(unet).__enter__()


def test_latents_of_other_axes() -> None:
    unet = tiny_text_to_video().unet
    with FOUR.apply(unet), pytest.raises(LayoutError, match=r"b c f h w, got \(14, 4, 8, 8\)"):
        unet(make_latent((14, 4, 8, 8)), 3, encoder_hidden_states=make_latent((14, 5, 16)))
