"""The temporal U-Net: an image network at first, on every frame; what it is told; its files."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from elevator.errors import CheckError, CheckpointError
from elevator.models import FrameWindows, TemporalUNet
from elevator.models.temporal_attention import RelativeBias, TemporalAttention
from tests.builders import awake, make_latent

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 7,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 12,
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "num_class_embeds": 351,
}


def image_unet(**config: Any) -> Any:
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "only_cross_attention": (True, False),
    }
    return awake(UNet2DConditionModel(**SMALL | blocks | config)).eval()


def small(**config: Any) -> Any:
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
        "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
        "only_cross_attention": (True, False),
        "down_temporal_idx": (0, 1),
        "up_temporal_idx": (0, 1),
    }
    return awake(TemporalUNet(**SMALL | blocks | config)).eval()


def inputs(frames: int = 3, side: int = 8, clips: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    text = make_latent((clips, 5, 12), 2)
    x = make_latent((clips, 7, frames, side, side - 2), 1)
    return x, torch.tensor([901, 3][:clips]), text, torch.tensor([20, 120][:clips])


def by_frame(unet: Any, x: Tensor, t: Tensor, text: Tensor, labels: Tensor) -> Tensor:
    """The image network on one frame after the other: the slow oracle."""
    out = [unet(x[:, :, i], t, text, class_labels=labels).sample for i in range(x.shape[2])]
    return torch.stack(out, dim=2)


# --- grown out of an image network ----------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"use_linear_projection": True},
        {"use_linear_projection": False},
        {"only_cross_attention": True, "layers_per_block": 2, "norm_eps": 1e-6},
        {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0},
    ],
    ids=["linear", "convolutions", "only cross", "embedding"],
)
@torch.no_grad()
def test_it_starts_as_the_image_network_on_every_frame(config: dict[str, Any]) -> None:
    image = image_unet(**config)
    video = TemporalUNet.from_unet2d(image).eval()
    given = inputs()
    torch.testing.assert_close(video(*given).sample, by_frame(image, *given), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_norms_over_frames_make_frames_depend_on_each_other() -> None:
    image = image_unet()
    video = TemporalUNet.from_unet2d(image, norm_over_frames=True).eval()
    given = inputs()
    assert (video(*given).sample - by_frame(image, *given)).abs().max() > 0.01
    x, *rest = inputs(frames=1)  # but a still is a still
    torch.testing.assert_close(
        video(x, *rest).sample, by_frame(image, x, *rest), atol=2e-5, rtol=1e-4
    )


def test_what_the_image_network_lacks_is_what_learns_time() -> None:
    image = image_unet()
    video = TemporalUNet.from_unet2d(image)
    new: dict[str, Any] = dict(video.temporal_parameters())
    inherited = {name for name, _ in video.named_parameters()} - new.keys()
    assert inherited == {name for name, _ in image.named_parameters()}
    video(*inputs()).sample.square().mean().backward()
    reached = {name for name, value in new.items() if value.grad is not None}
    assert reached == set(new)
    moved = {name for name in reached if new[name].grad.abs().max() > 0}
    last = (".conv2.", "to_out.0.", "shift_conv.")  # the zeros hide what lies before them
    assert moved == {name for name in new if any(part in name for part in last)} - {
        name for name in new if "_temp_block" in name and "shift_conv" not in name
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"transformer_layers_per_block": 2}, "transformer_layers_per_block=2"),
        ({"addition_embed_type": "text"}, "addition_embed_type='text'"),
    ],
)
def test_it_refuses_image_networks_it_cannot_be(config: dict[str, Any], message: str) -> None:
    image = image_unet()
    image.register_to_config(**config)
    with pytest.raises(CheckError, match=message):
        TemporalUNet.from_unet2d(image)


# --- time -----------------------------------------------------------------------------------------

PARTS: dict[str, dict[str, Any]] = {
    "convolution": {"temporal_attention": False, "down_temporal_idx": (), "up_temporal_idx": ()},
    "attention": {"temporal_convolution": False, "down_temporal_idx": (), "up_temporal_idx": ()},
    "modules": {"temporal_convolution": False, "temporal_attention": False},
}


@pytest.mark.parametrize("part", PARTS)
@torch.no_grad()
def test_every_part_mixes_frames_and_can_be_left_out(part: str) -> None:
    mid = part == "modules"
    unet = small(**PARTS[part], mid_temporal=mid, norm_over_frames=False)
    x, *rest = inputs()
    other = x.clone()
    other[:, :, 0] += 1
    difference = (unet(x, *rest).sample - unet(other, *rest).sample).abs().amax((0, 1, 3, 4))
    assert (difference[1:] > 1e-5).all()
    none = small(
        temporal_convolution=False,
        temporal_attention=False,
        down_temporal_idx=(),
        mid_temporal=False,
        up_temporal_idx=(),
        norm_over_frames=False,
    )
    assert not list(none.temporal_parameters())
    difference = (none(x, *rest).sample - none(other, *rest).sample).abs().amax((0, 1, 3, 4))
    assert (difference[1:] == 0).all()


@pytest.mark.parametrize(("rotary", "bias"), [(True, False), (False, True), (False, False)])
@torch.no_grad()
def test_positions_are_what_tells_the_order_of_frames(rotary: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = awake(TemporalAttention(16, 2, 8 if rotary else None, bias))
    x = make_latent((3, 6, 16))
    turned = layer(x.flip(1)).flip(1)
    assert torch.allclose(turned, layer(x), atol=1e-6) is not (rotary or bias)


@torch.no_grad()
def test_pixels_are_attended_to_in_parts_without_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = awake(TemporalAttention(16, 2, 8, True))
    x = make_latent((7, 5, 16))
    whole = layer(x)
    monkeypatch.setattr("elevator.models.temporal_attention.ROWS", 3)
    torch.testing.assert_close(layer(x), whole)


@given(st.integers(1, 80))
def test_buckets_of_distances_mirror_each_other(frames: int) -> None:
    bucket = RelativeBias.buckets(frames)
    later = torch.ones(frames, frames).triu(1).bool()
    assert (bucket[later] - 16 == bucket.T[later]).all()
    assert 0 <= int(bucket.min()) <= int(bucket.max()) <= 31
    assert (bucket[0, 1:].diff() >= 0).all()


# --- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (3, 10)])
@torch.no_grad()
def test_any_size_comes_back_as_it_was(height: int, width: int) -> None:
    x = make_latent((1, 7, 2, height, width))
    out = small()(x, 3, make_latent((1, 5, 12)), torch.tensor([0])).sample
    assert out.shape == (1, 4, 2, height, width)


@torch.no_grad()
def test_what_is_kept_for_the_way_up_has_not_been_through_a_temporal_module() -> None:
    unet = small()
    made: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, given: Any, output: Any) -> None:
        made[name] = output[0]

    def look(name: str, module: nn.Module, given: Any) -> None:
        made[name] = given[0]

    unet.down_blocks[1].register_forward_hook(partial(keep, "down"))
    unet.up_blocks[0].resnets[0].register_forward_pre_hook(partial(look, "up"))
    unet(*inputs())
    assert torch.equal(made["up"][:, -32:], made["down"])


@torch.no_grad()
def test_a_label_may_stand_for_all_clips() -> None:
    unet, (x, t, text, _) = small(), inputs()
    one = unet(x, t, text, torch.tensor([120])).sample
    torch.testing.assert_close(one, unet(x, t, text, torch.tensor([120, 120])).sample)
    assert not torch.allclose(one, unet(x, t, text, torch.tensor([20])).sample)
    (same,) = unet(x, t, text, torch.tensor([120]), return_dict=False)
    assert torch.equal(same, one)


def test_labels_are_asked_for_and_refused() -> None:
    x, t, text, labels = inputs()
    with pytest.raises(CheckError, match="give class_labels"):
        small()(x, t, text)
    with pytest.raises(CheckError, match="drop class_labels"):
        small(num_class_embeds=None)(x, t, text, labels)


@torch.no_grad()
def test_windows_of_frames_apply_to_it() -> None:
    unet, (x, *rest) = small(), inputs(frames=6)
    with FrameWindows(4, stride=2).apply(unet):
        cut = unet(x, *rest).sample
    first, last = unet(x[:, :, :4], *rest).sample, unet(x[:, :, 2:], *rest).sample
    torch.testing.assert_close(cut[:, :, :2], first[:, :, :2])
    torch.testing.assert_close(cut[:, :, 2], (2 * first[:, :, 2] + last[:, :, 0]) / 3)


@contextmanager
def saved_tensors() -> Iterator[list[int]]:
    """Bytes kept for the backward pass."""
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield kept


def test_checkpointing_keeps_less_and_gives_the_same_gradient() -> None:
    found = []
    for checkpointed in (False, True):
        unet = small().requires_grad_(True)
        if checkpointed:
            unet.enable_gradient_checkpointing()
        with saved_tensors() as kept:
            loss = unet(*inputs()).sample.square().mean()
        loss.backward()
        found.append((sum(kept), unet.conv_in.weight.grad))
    (plain, gradient), (less, same) = found
    assert less < plain / 2
    torch.testing.assert_close(gradient, same)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"norm_num_groups": 7}, "16 channels are no multiple of norm_num_groups=7"),
        ({"attention_head_dim": 5}, "multiple of 5 heads"),
        ({"only_cross_attention": (True,)}, "only_cross_attention has 1 entries for 2 levels"),
    ],
)
def test_a_configuration_that_makes_no_network_is_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        small(**config)


# --- files ----------------------------------------------------------------------------------------


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    unet = small(rotary=True)
    unet.save_pretrained(tmp_path)
    again = TemporalUNet.from_pretrained(tmp_path)
    for name, value in unet.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_published_weights_are_read_from_files(tmp_path: Path, suffix: str) -> None:
    unet = small()
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    tensors, file = unet.state_dict(), tmp_path / f"unet_video.{suffix}"
    if suffix == "bin":
        torch.save(tensors, file)
    else:  # as formats without shared memory keep a parameter of many names
        kept = {k: v for k, v in tensors.items() if not k.endswith("rotary_emb.freqs")}
        freqs = tensors["temporal_rotary_emb.freqs"] / 2
        save_file(kept | {"temporal_rotary_emb.freqs": freqs}, file)
    loaded = TemporalUNet.from_published(file, config | {"_class_name": "UNetVideoModel"})
    shared = [v for k, v in loaded.state_dict().items() if k.endswith("rotary_emb.freqs")]
    assert len(shared) == 5
    factor = 1 if suffix == "bin" else 2
    for value in shared:
        torch.testing.assert_close(factor * value, tensors["temporal_rotary_emb.freqs"])


def test_weights_that_do_not_fit_are_told_apart(tmp_path: Path) -> None:
    unet = small()
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    tensors = unet.state_dict()
    tensors["conv_out.weight"] = tensors["conv_out.weight"][:3]
    del tensors["conv_in.bias"]
    tensors["extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as found:
        TemporalUNet.from_published(tensors, config)
    assert "lacks conv_in.bias" in str(found.value)
    assert "has beside them extra" in str(found.value)
    assert "conv_out.weight (3x16x3x3 instead of 4x16x3x3)" in str(found.value)
    torch.save([1, 2], tmp_path / "list.bin")
    (tmp_path / "torn.safetensors").write_bytes(b"nothing")
    for name, message in (
        ("list.bin", "no plain state dict"),
        ("torn.safetensors", "cannot be read as tensors"),
        ("absent.bin", "is not a file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            TemporalUNet.from_published(tmp_path / name, config)
    with pytest.raises(CheckpointError, match="cannot be read as a configuration"):
        TemporalUNet.from_published(tensors, tmp_path / "absent.json")
    attention = {"temporal_module_config": {"attention_block_types": ["Temporal_Self", ""]}}
    with pytest.raises(CheckpointError, match="attention_block_types"):
        TemporalUNet.from_published(tensors, config | attention)
