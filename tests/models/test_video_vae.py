"""Both video autoencoders: an image autoencoder at first, their condition, their memory."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from elevator.errors import CheckError, CheckpointError
from elevator.models import VideoVAE
from elevator.models.video_vae import FrameAttention
from tests.builders import awake, make_latent, tiny_vae

SMALL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
}
CONDITIONED = {"volume": True, "condition_channels": 8}


def small(**config: Any) -> Any:
    torch.manual_seed(0)
    return awake(VideoVAE(**SMALL | config))


# --- grown out of an image autoencoder ------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, CONDITIONED], ids=["plain", "conditioned"])
@torch.no_grad()
def test_it_starts_as_the_image_autoencoder_on_every_frame(options: dict[str, Any]) -> None:
    image = tiny_vae()
    video = VideoVAE.from_vae2d(image, **options)
    frames, low = make_latent((2, 3, 3, 16, 12)), make_latent((2, 3, 3, 8, 6))
    code = video.encode(frames).latent_dist
    for i in range(3):
        still = image.encode(frames[:, :, i]).latent_dist
        torch.testing.assert_close(code.mean[:, :, i], still.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(code.logvar[:, :, i], still.logvar, atol=1e-5, rtol=1e-4)
    decoded = video.decode(code.mean, low).sample
    for i in range(3):
        still = image.decode(code.mean[:, :, i]).sample
        torch.testing.assert_close(decoded[:, :, i], still, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(video(frames, low).sample, decoded)
    assert video.factor == 2


def test_an_image_autoencoder_of_another_kind_is_refused() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    other = AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    with pytest.raises(CheckError, match=r"misses quant_conv\.weight"):
        VideoVAE.from_vae2d(other)


@torch.no_grad()
def test_frames_are_their_own_unless_norms_or_volumes_mix_them() -> None:
    z = make_latent((1, 4, 3, 6, 4))
    other = z.clone()
    other[:, :, 0] += 1
    for mixes, vae in (
        (False, small(norm_over_frames=False)),
        (True, small()),
        (True, small(norm_over_frames=False, volume=True)),
    ):
        difference = (vae.decode(z).sample - vae.decode(other).sample)[:, :, 1].abs().max()
        assert bool(difference > 1e-4) is mixes


# --- the condition --------------------------------------------------------------------------------


@torch.no_grad()
def test_the_condition_has_a_strength() -> None:
    vae, z, low = small(**CONDITIONED), make_latent((1, 4, 3, 6, 4)), make_latent((1, 3, 3, 6, 4))
    none = vae.decode(z, strength=0.0).sample
    assert torch.equal(none, vae.decode(z, low, 0.0).sample)
    assert not torch.allclose(none, vae.decode(z, low).sample)
    plain = small()
    assert torch.equal(plain.decode(z, low).sample, plain.decode(z).sample)
    (same,) = plain.decode(z, return_dict=False)
    assert torch.equal(same, plain.decode(z).sample)


def test_a_missing_or_misshapen_condition_is_refused() -> None:
    vae, z = small(**CONDITIONED), make_latent((1, 4, 3, 6, 4))
    with pytest.raises(CheckError, match=r"got None; give condition="):
        vae.decode(z)
    with pytest.raises(CheckError, match=r"size \(1, 3, 6, 4\), got \(1, 3, 3, 12, 8\)"):
        vae.decode(z, make_latent((1, 3, 3, 12, 8)))


# --- memory ---------------------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """Bytes of the storages made inside: those there are now, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in storages((args, kwargs))}
        for storage in storages(result):
            if id(storage) not in given | self.known:
                self.known.add(id(storage))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, id(storage), storage.nbytes())
        self.most = max(self.most, self.now)
        return result

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def storages(tree: Any) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, Tensor)]


@pytest.mark.parametrize("kernel", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("side", [24, 48])
@torch.no_grad()
def test_attention_takes_the_memory_it_says(
    side: int, kernel: SDPBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The docstring's sum, at a smaller size: with whole matrices it would be far from it."""
    scores, frames, channels, tokens = 2**17, 3, 32, side * side
    monkeypatch.setattr("elevator.models.video_vae.SCORES", scores)
    layer, x = FrameAttention(channels, 8), make_latent((1, channels, frames, side, side))
    with Allocations() as seen, sdpa_kernel(kernel):
        y = layer(x)
    one = 4 * tokens * channels
    said = 4 * one + 3 * scores + frames * one
    assert seen.now == y.nbytes
    assert frames * one < seen.most < said * 1.1
    assert said < 4 * tokens * tokens or side == 24


@torch.no_grad()
def test_attention_takes_under_two_gibibytes_at_the_published_tile() -> None:
    """320x320 latent pixels and three frames, where whole matrices take 117 GiB; without data."""
    with torch.device("meta"):
        layer, x = FrameAttention(512), torch.empty(1, 512, 1, 320, 320)
    with Allocations() as seen, sdpa_kernel(SDPBackend.MATH):
        layer(x)
    results_of_two_more = 2 * x.nbytes  # frames go one by one
    assert 3 * 4 * (320 * 320) ** 2 / 2**30 > 117
    assert (seen.most + results_of_two_more) / 2**30 < 1.5


@torch.no_grad()
def test_attention_is_that_of_whole_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = FrameAttention(16, 8), make_latent((2, 16, 3, 5, 7))
    tokens = torch.stack([layer.group_norm(x[:, :, i]) for i in range(3)], 1).flatten(3).mT
    q, k, v = layer.query(tokens), layer.key(tokens), layer.value(tokens)
    seen = layer.proj_attn(torch.softmax(q @ k.mT / 4, -1) @ v)
    expected = x + seen.mT.unflatten(3, (5, 7)).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected)
    monkeypatch.setattr("elevator.models.video_vae.SCORES", 4 * 2 * 35 * 3)  # three rows at once
    torch.testing.assert_close(layer(x), expected)


def test_gradients_pass_through_attention_and_checkpoints() -> None:
    found = []
    for checkpointed in (False, True):
        vae = small().requires_grad_(True)
        if checkpointed:
            vae.enable_gradient_checkpointing()
        vae.decode(make_latent((1, 4, 2, 4, 4))).sample.square().mean().backward()
        found.append(vae.decoder.mid_block.attentions[0].key.weight.grad)
    assert found[0] is not None
    assert found[0].abs().max() > 0
    torch.testing.assert_close(*found)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, CONDITIONED], ids=["plain", "conditioned"])
@torch.no_grad()
def test_it_is_saved_and_loaded(tmp_path: Path, options: dict[str, Any]) -> None:
    vae, z, low = small(**options), make_latent((1, 4, 2, 4, 4)), make_latent((1, 3, 2, 4, 4))
    vae.save_pretrained(tmp_path)
    again = VideoVAE.from_pretrained(tmp_path)
    torch.testing.assert_close(again.decode(z, low).sample, vae.decode(z, low).sample)


def published(vae: VideoVAE) -> dict[str, Any]:
    """A configuration as it was published."""
    names = ("block_out_channels", "layers_per_block", "norm_num_groups", "scaling_factor")
    kind = "UpDecoderBlock3D_plus" if vae.config.volume else "UpDecoderBlock3D"
    config = {name: vae.config[name] for name in names} | {"up_block_types": [kind] * 2}
    if vae.config.condition_channels:
        config |= {"condition_img": True, "condition_channels": vae.config.condition_channels}
    return config


@pytest.mark.parametrize("options", [{}, CONDITIONED], ids=["plain", "conditioned"])
def test_published_weights_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    vae, file = small(**options), tmp_path / "vae.bin"
    torch.save(vae.state_dict(), file)
    loaded = VideoVAE.from_published(file, published(vae))
    assert loaded.config.volume is bool(options)
    for name, value in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_weights_of_the_other_autoencoder_are_refused() -> None:
    plain, conditioned = small(), small(**CONDITIONED)
    with pytest.raises(CheckpointError, match=r"has beside them decoder\.condition_"):
        VideoVAE.from_published(conditioned.state_dict(), published(plain))
    with pytest.raises(CheckpointError, match=r"lacks decoder\.condition_"):
        VideoVAE.from_published(plain.state_dict(), published(conditioned))
    with pytest.raises(CheckpointError, match="act_fn='relu'"):
        VideoVAE.from_published(plain.state_dict(), published(plain) | {"act_fn": "relu"})


def test_channels_must_be_multiples_of_the_groups() -> None:
    with pytest.raises(CheckError, match="16 channels are no multiple of norm_num_groups=3"):
        small(block_out_channels=(9, 16), norm_num_groups=3)
