"""Cross-frame attention against the equation, and what it leaves behind."""

import copy
import logging
import types
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    PAGIdentitySelfAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import Tensor, nn

import elevator as el
from elevator.errors import CheckError, HookError
from elevator.latent import publish_frames
from elevator.models.inflate import CrossFrameAttention
from tests.builders import make_latent, sample, tiny_animatediff, tiny_sd, tiny_unet
from tests.reference.cross_frame import cross_frame_attention

KEYS = ["first", "first+previous", "first+own"]


class Layers(nn.Module):
    """A network of one attention layer, as far as a patch can see."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.attn = Attention(**{"query_dim": 16, "heads": 2, "dim_head": 8, **config})
        for parameter in self.attn.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.eval().requires_grad_(False)

    @property
    def attn_processors(self) -> dict[str, Any]:
        return {"attn.processor": self.attn.processor}

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.attn(*args, **kwargs)


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet()


@pytest.fixture
def fresh_unet() -> Any:
    return tiny_unet()


def call(unet: Any, rows: int = 6, frames: int | None = None, **more: Any) -> Tensor:
    """The network's output for `rows` different rows, under a published number of frames."""
    x, text = make_latent((rows, 4, 8, 8), 1), make_latent((rows, 5, 16), 2)
    with torch.no_grad(), publish_frames(frames):
        x, text = (tensor.to(unet.device, unet.dtype) for tensor in (x, text))
        return unet(x, 401, text, return_dict=False, **more)[0]


def self_attention(unet: Any) -> dict[str, Any]:
    return {name: part for name, part in unet.named_modules() if name.endswith(".attn1")}


# --- the equation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize(
    ("guidance", "prompts", "frames"), [(1, 1, 1), (1, 1, 5), (2, 1, 3), (2, 3, 2), (3, 2, 1)]
)
def test_a_layer_is_the_equation(keys: Any, guidance: int, prompts: int, frames: int) -> None:
    net, x = Layers(), make_latent((guidance * prompts * frames, 9, 16))
    with CrossFrameAttention(keys).apply(net), publish_frames(frames):
        out = net(x)
    torch.testing.assert_close(out, cross_frame_attention(net.attn, x, frames, keys))


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize(
    "config",
    [
        {"residual_connection": True, "rescale_output_factor": 1.7},
        {"norm_num_groups": 4, "bias": True},
        {"qk_norm": "layer_norm"},
        {"qk_norm": "rms_norm"},
        {"scale_qk": False},
        {"out_dim": 16, "heads": 5},
    ],
    ids=lambda config: next(iter(config)),
)
@pytest.mark.parametrize("ndim", [3, 4])
def test_every_option_of_a_layer_is_kept(keys: Any, config: dict[str, Any], ndim: int) -> None:
    net = Layers(**config)
    x = make_latent((6, 9, 16) if ndim == 3 else (6, 16, 3, 5))
    with CrossFrameAttention(keys).apply(net), publish_frames(3):
        out = net(x)
    torch.testing.assert_close(out, cross_frame_attention(net.attn, x, 3, keys))
    torch.testing.assert_close(out[0], net(x)[0])
    assert (out[1] - net(x)[1]).abs().max() > 1e-3


def test_a_spatial_norm_sees_every_frame_with_its_own_map() -> None:
    net = Layers(query_dim=32, spatial_norm_dim=4, residual_connection=True)
    x, temb = make_latent((4, 32, 4, 4)), make_latent((1, 4, 2, 2))
    with CrossFrameAttention().apply(net), publish_frames(2):
        out = net(x, temb=temb.expand(4, -1, -1, -1))
    expected = cross_frame_attention(net.attn, x, 2, "first", temb)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [2, 3, 6])
def test_frame_0_of_every_clip_is_unchanged_and_others_are_not(unet: Any, frames: int) -> None:
    plain = call(unet)
    for keys in KEYS:
        with CrossFrameAttention(keys).apply(unet):  # type: ignore[arg-type]
            change = (call(unet, frames=frames) - plain).abs().flatten(1).amax(1)
        first = torch.arange(6) % frames == 0
        assert change[first].max() < 1e-5
        assert change[~first].min() > 1e-3


@pytest.mark.parametrize("keys", KEYS)
def test_one_frame_is_the_plain_network(unet: Any, keys: Any) -> None:
    plain = call(unet)
    with CrossFrameAttention(keys).apply(unet):
        torch.testing.assert_close(call(unet, frames=1), plain, atol=1e-5, rtol=1e-5)


def test_clips_of_a_batch_do_not_see_each_other(unet: Any) -> None:
    with CrossFrameAttention("first+previous").apply(unet):
        whole = call(unet, rows=6, frames=3)
        torch.testing.assert_close(whole[:3], call(unet, rows=3, frames=3), atol=1e-5, rtol=1e-5)


def test_cross_attention_is_left_alone(fresh_unet: Any) -> None:
    before = fresh_unet.attn_processors
    with CrossFrameAttention().apply(fresh_unet):
        changed = {n for n, p in fresh_unet.attn_processors.items() if p is not before[n]}
    assert changed == {f"{name}.processor" for name in self_attention(fresh_unet)}
    assert len(changed) == len(before) // 2


@pytest.mark.parametrize(("keys", "rows"), [("first", 2), ("first+previous", 6), ("first+own", 8)])
def test_keys_and_values_are_projected_for_attended_frames_only(keys: Any, rows: int) -> None:
    net, seen = Layers(), []
    for projection in (net.attn.to_k, net.attn.to_v):
        assert projection is not None
        projection.register_forward_hook(lambda m, args, out: seen.append(out.numel() // (9 * 16)))
    with CrossFrameAttention(keys).apply(net), publish_frames(4):
        net(make_latent((8, 9, 16)))
    assert seen == [rows, rows]


# --- what it leaves behind ------------------------------------------------------------------------


def anatomy(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Everything kept in any part of a network, by identity where it is not a container."""
    return {
        name: {
            key: sorted(value) if isinstance(value, dict) else id(value)
            for key, value in vars(part).items()
        }
        for name, part in module.named_modules()
    }


def test_leaving_the_block_restores_the_very_same_processors(fresh_unet: Any) -> None:
    fresh_unet.set_attn_processor({n: AttnProcessor() for n in fresh_unet.attn_processors})
    before, parts = fresh_unet.attn_processors, anatomy(fresh_unet)
    with CrossFrameAttention().apply(fresh_unet):
        assert anatomy(fresh_unet) != parts
    assert anatomy(fresh_unet) == parts
    after = fresh_unet.attn_processors
    assert all(after[name] is before[name] for name in before)


def test_an_exception_restores_too(fresh_unet: Any) -> None:
    parts = anatomy(fresh_unet)
    with pytest.raises(KeyError), CrossFrameAttention().apply(fresh_unet):
        raise KeyError
    assert anatomy(fresh_unet) == parts


REPLACEMENTS: dict[str, Callable[[Any], None]] = {
    "slicing": lambda unet: unet.set_attention_slice("auto"),
    "fusing": lambda unet: unet.fuse_qkv_projections(),
    "setting": lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
    # what enabling xformers comes to on a GPU
    "xformers": lambda unet: unet.set_attn_processor(XFormersAttnProcessor()),
}


@pytest.mark.parametrize("replace", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_replacing_processors_inside_the_block_is_said_aloud(
    fresh_unet: Any, replace: Callable[[Any], None]
) -> None:
    before = fresh_unet.attn_processors
    with CrossFrameAttention().apply(fresh_unet):
        replace(fresh_unet)
        with pytest.raises(HookError, match=r"attn1 was replaced by \w+ .* before attaching"):
            call(fresh_unet, frames=3)
    after = fresh_unet.attn_processors
    assert all(after[name] is before[name] for name in before)


def test_unfusing_after_the_block_does_not_bring_the_patch_back(fresh_unet: Any) -> None:
    with CrossFrameAttention().apply(fresh_unet):
        fresh_unet.fuse_qkv_projections()
    fresh_unet.unfuse_qkv_projections()
    assert {type(p) for p in fresh_unet.attn_processors.values()} == {AttnProcessor2_0}
    call(fresh_unet)


# --- what was switched on before ------------------------------------------------------------------


@pytest.mark.parametrize("keys", KEYS)
def test_fused_projections_and_slices_give_the_same_result(fresh_unet: Any, keys: Any) -> None:
    with CrossFrameAttention(keys).apply(fresh_unet):
        expected = call(fresh_unet, frames=3)
    for before in (
        lambda: fresh_unet.set_attention_slice("max"),
        lambda: fresh_unet.set_attention_slice("auto"),
        lambda: fresh_unet.fuse_qkv_projections(),
        lambda: fresh_unet.set_attn_processor(AttnProcessor()),
    ):
        before()
        processors = fresh_unet.attn_processors
        with CrossFrameAttention(keys).apply(fresh_unet):
            torch.testing.assert_close(call(fresh_unet, frames=3), expected, atol=1e-5, rtol=1e-5)
        assert fresh_unet.attn_processors == processors


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_slicing_computes_no_more_heads_of_a_frame_at_once(
    monkeypatch: pytest.MonkeyPatch, keys: Any, size: int
) -> None:
    net, x, seen = Layers(query_dim=24, heads=3), make_latent((6, 9, 24)), []
    net.attn.set_processor(SlicedAttnProcessor(size))
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append((q.shape[0] * q.shape[1], q.shape[2]))
        return attend(q, k, v, **options)

    monkeypatch.setattr("elevator.models.inflate.scaled_dot_product_attention", spy)
    with CrossFrameAttention(keys).apply(net), publish_frames(3):
        out = net(x)
    torch.testing.assert_close(out, cross_frame_attention(net.attn, x, 3, keys))
    assert max(seen) == (size, 9)


def test_other_kernels_stand_aside_with_a_message(
    fresh_unet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with CrossFrameAttention().apply(fresh_unet):
        expected = call(fresh_unet, frames=3)
    assert not caplog.records
    kernel = type("AttnProcessorNPU", (AttnProcessor2_0,), {})
    processors = {f"{name}.processor": kernel() for name in self_attention(fresh_unet)}
    fresh_unet.set_attn_processor({**fresh_unet.attn_processors, **processors})
    with caplog.at_level(logging.WARNING), CrossFrameAttention().apply(fresh_unet):
        torch.testing.assert_close(call(fresh_unet, frames=3), expected)
    assert "AttnProcessorNPU of UNet2DConditionModel stands aside" in caplog.text
    assert fresh_unet.attn_processors.items() >= processors.items()


# --- kernels --------------------------------------------------------------------------------------

KERNELS = ["xformers", "flash", "sage"]
PACKAGES = {"xformers": "xformers", "flash": "flash-attn", "sage": "sageattention"}
INSTALLED = {
    "xformers": "is_xformers_available",
    "flash": "is_flash_attn_available",
    "sage": "is_sageattention_available",
}


class Stub:
    """Stands for a kernel: counts its calls, computes `(rows, n, heads, d)`, or gives up."""

    def __init__(self, gives_up: Exception | None = None) -> None:
        self.calls = 0
        self.gives_up = gives_up

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *more: Any, **options: Any) -> Tensor:
        self.calls += 1
        if self.gives_up is not None:
            raise self.gives_up
        (scale,) = more[2:] or (options[n] for n in ("softmax_scale", "sm_scale") if n in options)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        weights = (scale * q @ k.transpose(-1, -2)).softmax(-1)
        return (weights @ v).transpose(1, 2)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stub]:
    """Puts a stub in the place of a kernel, and forgets what was found unusable."""
    monkeypatch.setattr("elevator.models.inflate._unusable", {})

    def put(name: str, gives_up: Exception | None = None) -> Stub:
        stub, dispatch = Stub(gives_up), "diffusers.models.attention_dispatch"
        monkeypatch.setattr(f"diffusers.utils.{INSTALLED[name]}", lambda: True)
        monkeypatch.setattr(f"{dispatch}._check_attention_backend_requirements", lambda name: None)
        if name == "xformers":
            ops = types.SimpleNamespace(memory_efficient_attention=stub)
            monkeypatch.setattr(f"{dispatch}.xops", ops)
        else:
            function = {"flash": "flash_attn_func", "sage": "sageattn"}[name]
            monkeypatch.setattr(f"{dispatch}.{function}", stub)
        return stub

    return put


def active() -> Any:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    return _AttentionBackendRegistry.get_active_backend()[0]


@pytest.fixture(autouse=True)
def _same_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' own `set_attention_backend` leaves its choice in the process."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", active())


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("keys", KEYS)
def test_a_kernel_that_is_asked_for_gives_the_same(
    unet: Any, kernel: Callable[..., Stub], name: Any, keys: Any
) -> None:
    with CrossFrameAttention(keys, "native").apply(unet):
        expected = call(unet, frames=3)
    stub, before = kernel(name), active()
    with CrossFrameAttention(keys, name).apply(unet):
        got = call(unet, frames=3)
    assert stub.calls == len(self_attention(unet))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert active() is before


@pytest.mark.parametrize("size", [1, 2])
def test_slices_run_by_the_kernel_too(kernel: Callable[..., Stub], size: int) -> None:
    net, x, stub = Layers(), make_latent((4, 9, 16)), kernel("flash")
    net.attn.set_processor(SlicedAttnProcessor(size))
    with CrossFrameAttention(backend="flash").apply(net), publish_frames(2):
        out = net(x)
    assert stub.calls == 2 * 2 * 2 // size  # clips, frames, heads
    torch.testing.assert_close(out, cross_frame_attention(net.attn, x, 2, "first"))


def test_the_kernel_of_xformers_goes_on_where_it_ran(
    fresh_unet: Any, kernel: Callable[..., Stub]
) -> None:
    with CrossFrameAttention().apply(fresh_unet):
        expected = call(fresh_unet, frames=3)
    some = list(self_attention(fresh_unet))[:2]
    processors = {f"{name}.processor": XFormersAttnProcessor() for name in some}
    fresh_unet.set_attn_processor({**fresh_unet.attn_processors, **processors})
    stub = kernel("xformers")
    with CrossFrameAttention().apply(fresh_unet):
        torch.testing.assert_close(call(fresh_unet, frames=3), expected, atol=1e-5, rtol=1e-5)
    assert stub.calls == len(some)
    with CrossFrameAttention(backend="native").apply(fresh_unet):
        call(fresh_unet, frames=3)
    assert stub.calls == len(some)
    assert fresh_unet.attn_processors.items() >= processors.items()


def test_what_diffusers_chose_is_read_at_every_call(
    fresh_unet: Any, kernel: Callable[..., Stub]
) -> None:
    stub, layers = kernel("sage"), len(self_attention(fresh_unet))
    with CrossFrameAttention().apply(fresh_unet):
        with attention_backend("sage"):
            call(fresh_unet, frames=3)
        assert stub.calls == layers
        call(fresh_unet, frames=3)
        assert stub.calls == layers
    fresh_unet.set_attention_backend("sage")  # before: only diffusers' global choice changes
    with CrossFrameAttention().apply(fresh_unet):
        call(fresh_unet, frames=3)
        assert stub.calls == 2 * layers
    with CrossFrameAttention(backend="native").apply(fresh_unet):
        call(fresh_unet, frames=3)
    assert stub.calls == 2 * layers


def test_a_backend_that_is_set_inside_the_block_is_the_layers_own(
    fresh_unet: Any, kernel: Callable[..., Stub]
) -> None:
    stub, layers = kernel("flash"), len(self_attention(fresh_unet))
    parts = anatomy(fresh_unet)
    with CrossFrameAttention(backend="native").apply(fresh_unet):
        fresh_unet.set_attention_backend("flash")
        with attention_backend("native"):
            call(fresh_unet, frames=3)
        assert stub.calls == layers
        fresh_unet.reset_attention_backend()
        with attention_backend("native"):
            call(fresh_unet, frames=3)
        assert stub.calls == layers
    assert anatomy(fresh_unet) == parts


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_that_is_not_installed_gives_way_with_one_message(
    unet: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: Any
) -> None:
    monkeypatch.setattr("elevator.models.inflate._unusable", {})
    monkeypatch.setattr(f"diffusers.utils.{INSTALLED[name]}", lambda: False)
    with CrossFrameAttention().apply(unet):
        expected = call(unet, frames=3)
    before = active()
    for _ in range(2):
        with CrossFrameAttention(backend=name).apply(unet):
            assert torch.equal(call(unet, frames=3), expected)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert message.startswith(f"{name} attention cannot be used on cpu for torch.float32 and")
    assert f"({PACKAGES[name]} is not installed): layers inflated" in message
    assert active() is before


def _head_sizes(unet: Any) -> set[int]:
    return {attn.inner_dim // attn.heads for attn in self_attention(unet).values()}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("FlashAttention only support fp16 and bf16 data type"),
        NotImplementedError("No operator found for\n  `memory_efficient_attention_forward`"),
        ValueError("Unsupported head_dim: 160"),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_kernel_that_cannot_run_here_is_tried_once_and_gives_way(
    unet: Any, kernel: Callable[..., Stub], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    with CrossFrameAttention().apply(unet):
        expected = call(unet, frames=3)
    stub = kernel("flash", error)
    with CrossFrameAttention(backend="flash").apply(unet):
        assert torch.equal(call(unet, frames=3), expected)
        assert torch.equal(call(unet, frames=3), expected)
    assert stub.calls == len(_head_sizes(unet)) > 1
    assert len(caplog.records) == 1
    told = " ".join(str(error).split()) or "AssertionError"
    assert f"channels per head ({told}): layers" in caplog.text
    stub.gives_up = None  # what it can do, it does: another dtype
    double, layers = copy.deepcopy(unet).double(), len(self_attention(unet))
    calls = stub.calls
    with CrossFrameAttention(backend="flash").apply(double):
        call(double, frames=3)
    assert stub.calls == calls + layers


def test_running_out_of_memory_is_no_reason_to_try_another_kernel(
    unet: Any, kernel: Callable[..., Stub]
) -> None:
    kernel("xformers", torch.OutOfMemoryError("out of memory"))
    with (
        CrossFrameAttention(backend="xformers").apply(unet),
        pytest.raises(torch.OutOfMemoryError),
    ):
        call(unet, frames=3)


@pytest.mark.parametrize(("name", "warned"), [("_native_math", 0), ("flash_hub", 1)])
def test_other_choices_of_diffusers_are_passed_on(
    unet: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    warned: int,
) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    with CrossFrameAttention().apply(unet):
        expected = call(unet, frames=3)
    monkeypatch.setattr("elevator.models.inflate._unusable", {})
    chosen = AttentionBackendName(name)
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", chosen)
    with CrossFrameAttention().apply(unet):
        torch.testing.assert_close(call(unet, frames=3), expected, atol=1e-5, rtol=1e-5)
    assert len(caplog.records) == warned


# --- refusals -------------------------------------------------------------------------------------


def test_frames_that_nobody_published_are_asked_for(unet: Any) -> None:
    with (
        CrossFrameAttention().apply(unet),
        pytest.raises(HookError, match=r"6 batch rows.*attach\(\.\.\., frames=.*el\.denoiser"),
    ):
        call(unet)


@pytest.mark.parametrize("frames", [4, 12, 0])
def test_half_a_clip_is_refused(unet: Any, frames: int) -> None:
    with (
        CrossFrameAttention().apply(unet),
        pytest.raises(HookError, match=f"6 rows is not a whole number of clips of {frames}"),
    ):
        call(unet, frames=frames)


def test_a_mask_for_self_attention_is_refused(unet: Any) -> None:
    with (
        CrossFrameAttention().apply(unet),
        pytest.raises(HookError, match="was given attention_mask"),
    ):
        call(unet, frames=3, attention_mask=torch.ones(6, 64))


def test_keys_from_elsewhere_are_refused() -> None:
    net, x = Layers(), make_latent((2, 9, 16))
    with (
        CrossFrameAttention().apply(net),
        publish_frames(2),
        pytest.raises(HookError, match="was given encoder_hidden_states"),
    ):
        net(x, encoder_hidden_states=x)


def refuse(module: nn.Module, message: str) -> None:
    parts = anatomy(module)
    with pytest.raises(CheckError, match=message), CrossFrameAttention().apply(module):
        pass
    assert anatomy(module) == parts


def test_networks_it_cannot_inflate_are_named() -> None:
    refuse(nn.Linear(2, 2), "Linear has no attn_processors.*UNet2DConditionModel")
    refuse(Layers(cross_attention_dim=8), "Layers has no self-attention layer")
    refuse(tiny_animatediff().unet, "UNetMotionModel already mixes frames.*UNet2DConditionModel")


def test_a_processor_that_does_more_is_not_dropped_silently(fresh_unet: Any) -> None:
    fresh_unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(
        PAGIdentitySelfAttnProcessor2_0()
    )
    refuse(fresh_unet, "mid_block.*attn1 is run by PAGIdentity.*AttnProcessor2_0 if it can")
    blocks = {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "attention_head_dim": 8}
    refuse(tiny_unet(**blocks), "mid_block.attentions.0 is run by AttnAddedKV")


def test_the_boxes_of_gligen_stay_with_their_frame() -> None:
    network = tiny_unet(attention_type="gated")
    with CrossFrameAttention().apply(network):
        inflated = [n for n, p in network.attn_processors.items() if hasattr(p, "plain")]
    assert inflated == [f"{name}.processor" for name in self_attention(network)]
    assert any(".fuser." in name for name in network.attn_processors)


def test_a_second_patch_on_the_same_network_is_refused(fresh_unet: Any) -> None:
    with CrossFrameAttention().apply(fresh_unet):
        refuse(fresh_unet, "would be lost")
        call(fresh_unet, frames=3)


def test_it_is_a_configuration() -> None:
    assert CrossFrameAttention() == CrossFrameAttention("first")
    assert eval(repr(CrossFrameAttention("first+own"))) == CrossFrameAttention("first+own")
    chosen = CrossFrameAttention(backend="sage")
    assert eval(repr(chosen)) == chosen != CrossFrameAttention()
    assert hash(CrossFrameAttention()) != hash(CrossFrameAttention("first+previous"))
    assert "2403.05438" in str(CrossFrameAttention.paper)


def test_unknown_keys_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(ValueError, match=r"first\+previous, first\+own; got 'last'"):
        CrossFrameAttention("last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="None or one of native, xformers, flash, sage; got 'fl"):
        CrossFrameAttention(backend="flex")  # type: ignore[arg-type]


# --- with everything else -------------------------------------------------------------------------


def test_attached_to_a_pipeline_with_guidance() -> None:
    pipeline = tiny_sd()
    plain = sample(pipeline, steps=2, frames=3)
    with el.attach(pipeline, el.identity(), [CrossFrameAttention()], frames=3):
        inflated = sample(pipeline, steps=2, frames=3)
    torch.testing.assert_close(inflated[0], plain[0], atol=1e-4, rtol=1e-4)
    assert (inflated[1:] - plain[1:]).abs().max() > 1e-2
    assert torch.equal(sample(pipeline, steps=2, frames=3), plain)


@pytest.mark.parametrize("keys", KEYS)
def test_any_device_and_dtype(keys: Any, device: torch.device, dtype: torch.dtype) -> None:
    for precision in (dtype, torch.float64):
        network = tiny_unet().to(device, precision)
        with CrossFrameAttention(keys).apply(network):
            out = call(network, frames=3)
        assert out.dtype == precision
        assert out.device.type == device.type
        assert out.isfinite().all()


def test_compiled_the_number_of_frames_is_read_at_every_call() -> None:
    net, x = Layers(), make_latent((6, 9, 16))
    compiled: Any = torch.compile(net, backend="eager")
    with CrossFrameAttention().apply(compiled):
        for frames in (2, 3, 2):
            with publish_frames(frames):
                out = compiled(x)
            torch.testing.assert_close(out, cross_frame_attention(net.attn, x, frames, "first"))
    torch.testing.assert_close(compiled(x), net(x))


def test_compiled_an_inflated_network_stays_in_one_piece(unet: Any) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    with CrossFrameAttention().apply(unet):
        inflated = call(unet, frames=3)
        torch.testing.assert_close(call(torch.compile(unet, backend=backend), frames=3), inflated)
    assert len(graphs) == 1
