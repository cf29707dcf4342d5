"""Loading from folders, single files and add-on files, all offline; and every message."""

import copy
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from elevator.errors import CheckpointError
from elevator.hosts import addons
from elevator.hosts.checkpoints import (
    fingerprint,
    load_t2i,
    load_t2v,
    same_latent_space,
)
from elevator.hosts.pipeline import quiet_deprecation
from elevator.hosts.single_files import is_lora
from elevator.hosts.sources import require_weights
from elevator.zoo.ldm import save_ldm
from tests.builders import tiny_animatediff, tiny_sd, tiny_text_to_video, tiny_unet, tiny_vae

_WIDTH = 16  # of the text encoder; what the tiny networks attend to

# --- what the tests load --------------------------------------------------------------------------


def make_tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that spells words out in letters."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "re", "red</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


def make_text_encoder(tokens: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "files")
    return {"tokenizer": tokenizer, "text_encoder": make_text_encoder(len(tokenizer))}


@pytest.fixture(scope="session")
def image(texts: dict[str, Any]) -> Any:
    """The T2I that everything is compared with; no test changes it."""
    pipeline = tiny_sd()
    pipeline.register_modules(**texts)
    return pipeline


@pytest.fixture(scope="session")
def folder(image: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sd"
    image.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def single(image: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ldm(image, tmp_path_factory.mktemp("single") / "sd.safetensors")


@pytest.fixture(scope="session")
def clip(texts: dict[str, Any]) -> Any:
    """A `TextToVideoSDPipeline`; no test changes it."""
    with quiet_deprecation():
        pipeline = tiny_text_to_video()
    pipeline.register_modules(**texts)
    return pipeline


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def make_adapter(**config: Any) -> Any:
    from diffusers import MotionAdapter

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 2,
        "motion_norm_num_groups": 8,
        "motion_max_seq_length": 16,
    }
    adapter = MotionAdapter(**{**settings, **config})
    with torch.no_grad():
        for parameter in adapter.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return adapter


def state(module: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(ours: Any, theirs: Any) -> None:
    left, right = ours.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=0, atol=0)


def predict(pipeline: Any) -> Tensor:
    """One call of the whole pipeline: text encoder, network, solver."""
    pipeline.set_progress_bar_config(disable=True)
    more = {"num_frames": 3} if "num_frames" in type(pipeline).__call__.__annotations__ else {}
    result: Tensor = pipeline(
        "red ring",
        num_inference_steps=2,
        height=16,
        width=16,
        output_type="latent",
        return_dict=False,
        generator=torch.Generator().manual_seed(0),
        **more,
    )[0]
    return result


def message(source: Any, load: Any = load_t2i, **more: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(source, **more)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- pipelines ------------------------------------------------------------------------------------


def test_a_folder_comes_back_as_it_was(image: Any, folder: Path) -> None:
    loaded = load_t2i(folder)
    assert type(loaded).__name__ == "StableDiffusionPipeline"
    for name in ("unet", "vae", "text_encoder"):
        assert_same(getattr(loaded, name), getattr(image, name))
    assert torch.equal(predict(loaded), predict(image))
    assert loaded.safety_checker is None


def test_a_folder_of_another_class_with_the_same_parts(own: Path) -> None:
    index = json.loads((own / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImg2ImgPipeline"
    (own / "model_index.json").write_text(json.dumps(index))
    assert type(load_t2i(str(own))).__name__ == "StableDiffusionPipeline"


def test_a_listed_safety_checker_is_not_wanted(own: Path) -> None:
    index = json.loads((own / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["requires_safety_checker"] = True
    (own / "model_index.json").write_text(json.dumps(index))
    assert load_t2i(own).safety_checker is None


def test_dtype_reaches_every_network(folder: Path, single: Path) -> None:
    for loaded in (
        load_t2i(folder, dtype=torch.bfloat16),
        load_t2i(single, config=folder, dtype=torch.bfloat16),
    ):
        for name in ("unet", "vae", "text_encoder"):
            assert getattr(loaded, name).dtype is torch.bfloat16


def test_a_built_pipeline_is_given_back(image: Any) -> None:
    assert load_t2i(image) is image
    video = tiny_animatediff()
    assert load_t2v(video, base=image) is video


def test_a_single_file_gives_the_networks_it_was_made_of(
    image: Any, folder: Path, single: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config"  # configurations and tokenizer, no weights
    shutil.copytree(folder, config, ignore=shutil.ignore_patterns("*.safetensors"))
    loaded = load_t2i(single, config=config)
    for name in ("unet", "vae", "text_encoder"):
        assert_same(getattr(loaded, name), getattr(image, name))
    assert torch.equal(predict(loaded), predict(image))


def test_a_text_to_video_folder_loads_without_the_deprecation_notice(
    clip: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip.save_pretrained(tmp_path / "t2v")
    caplog.clear()
    with _diffusers_logs(caplog):
        loaded = load_t2v(tmp_path / "t2v")
        assert "deprecated" not in caplog.text
        type(loaded)(**loaded.components)
        assert "TextToVideoSDPipeline has been deprecated" in caplog.text  # it would be seen
    assert type(loaded).__name__ == "TextToVideoSDPipeline"
    assert_same(loaded.unet, clip.unet)
    assert torch.equal(predict(loaded), predict(clip))


def test_only_that_notice_is_kept_back(caplog: pytest.LogCaptureFixture) -> None:
    with _diffusers_logs(caplog), quiet_deprecation():
        logging.getLogger("diffusers.pipelines.pipeline_utils").warning("something else")
    assert "something else" in caplog.text


class _diffusers_logs:
    """diffusers does not pass its records on to the root logger; this handler sees them."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._handler = caplog.handler
        self._logger = logging.getLogger("diffusers")

    def __enter__(self) -> None:
        self._logger.addHandler(self._handler)

    def __exit__(self, *error: object) -> None:
        self._logger.removeHandler(self._handler)


def test_an_animatediff_folder_comes_back_as_it_was(texts: dict[str, Any], tmp_path: Path) -> None:
    original = tiny_animatediff()
    original.register_modules(**texts)
    original.save_pretrained(tmp_path / "t2v")
    loaded = load_t2v(tmp_path / "t2v")
    assert type(loaded).__name__ == "AnimateDiffPipeline"
    assert_same(loaded.unet, original.unet)


# --- motion adapters ------------------------------------------------------------------------------


def test_a_motion_adapter_moves_a_base_and_leaves_it_alone(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter()
    adapter.save_pretrained(tmp_path / "adapter")
    base = load_t2i(folder)
    weights, config = state(base.unet), copy.deepcopy(dict(base.unet.config))
    scheduler = base.scheduler
    loaded = load_t2v(tmp_path / "adapter", base=base)
    assert type(loaded).__name__ == "AnimateDiffPipeline"
    moved = loaded.unet.state_dict()
    for key, value in adapter.state_dict().items():
        assert torch.equal(moved[key], value)
    with torch.no_grad():
        for parameter in loaded.unet.parameters():
            parameter.zero_()  # nothing of it may be the base's
    assert type(base.unet).__name__ == "UNet2DConditionModel"
    assert dict(base.unet.config) == config
    assert base.unet.state_dict().keys() == weights.keys()
    for key, value in base.unet.state_dict().items():
        assert torch.equal(value, weights[key])
    assert base.scheduler is scheduler
    assert loaded.scheduler is not scheduler
    assert loaded.scheduler.config.beta_schedule == "linear"
    assert scheduler.config.beta_schedule == "scaled_linear"
    assert loaded.vae is base.vae


def test_a_base_may_be_a_source_of_its_own(folder: Path, single: Path, tmp_path: Path) -> None:
    make_adapter().save_pretrained(tmp_path / "adapter")
    one = load_t2v(tmp_path / "adapter", base=folder)
    other = load_t2v(tmp_path / "adapter", base=single, config=folder)
    assert predict(one).shape == (1, 4, 3, 8, 8)
    assert torch.equal(predict(one), predict(other))


@pytest.mark.parametrize("mid", [True, False])
def test_a_single_file_motion_adapter_needs_no_configuration(
    mid: bool, texts: dict[str, Any], tmp_path: Path
) -> None:
    wide = {"block_out_channels": (32, 64), "norm_num_groups": 32}
    base = tiny_sd(**wide)
    base.register_modules(**texts)
    adapter = make_adapter(
        block_out_channels=(32, 64),
        motion_norm_num_groups=32,
        motion_num_attention_heads=8,
        motion_max_seq_length=24,
        use_motion_mid_block=mid,
    )
    original = {}  # as the authors of AnimateDiff name the tensors
    for key, value in adapter.state_dict().items():
        name = key.replace(".attn1.", ".attention_blocks.0.").replace(".norm1.", ".norms.0.")
        name = name.replace(".attn2.", ".attention_blocks.1.").replace(".norm2.", ".norms.1.")
        name = name.replace(".norm3.", ".ff_norm.")
        name = name.replace("motion_modules.0.", "motion_modules.0.temporal_transformer.")
        name = name.replace(".pos_embed.pe", ".attention_blocks.0.pos_encoder.pe")
        original[name] = value
    assert original.keys() != adapter.state_dict().keys()
    save_file(original, tmp_path / "mm.safetensors")
    loaded = load_t2v(tmp_path / "mm.safetensors", base=base)
    assert_same(loaded.motion_adapter, adapter)
    assert loaded.motion_adapter.config.motion_num_attention_heads == 8
    assert loaded.unet.config.motion_max_seq_length == 24
    save_file(adapter.state_dict(), tmp_path / "ours.safetensors")  # diffusers' own names
    assert_same(load_t2v(tmp_path / "ours.safetensors", base=base).motion_adapter, adapter)


# --- hub ids --------------------------------------------------------------------------------------


def put_in_cache(pipeline: Any, name: str, cache: Path) -> Path:
    """Lay a pipeline or network out as if it had been downloaded."""
    repository = cache / f"models--{name.replace('/', '--')}"
    commit = "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    pipeline.save_pretrained(repository / "snapshots" / commit)
    return repository / "snapshots" / commit


def test_hub_ids_come_from_the_cache_while_offline(image: Any, tmp_path: Path) -> None:
    put_in_cache(image, "me/image", tmp_path)
    put_in_cache(make_adapter(), "me/adapter", tmp_path)
    hub: dict[str, Any] = {"cache_dir": str(tmp_path)}
    assert_same(load_t2i("me/image", **hub).unet, image.unet)
    moved = load_t2v("me/adapter", base="me/image", **hub)
    assert type(moved).__name__ == "AnimateDiffPipeline"
    assert_same(moved.motion_adapter, make_adapter())
    assert "holds a MotionAdapter" in message("me/adapter", **hub)
    assert "that is an image model" in message("me/image", load_t2v, **hub)


def test_a_hub_model_in_part_or_in_pickles(image: Any, tmp_path: Path) -> None:
    here = put_in_cache(image, "me/image", tmp_path)
    hub: dict[str, Any] = {"cache_dir": str(tmp_path)}
    weights = here / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save(_Trap(tmp_path / "sprung"), weights.with_suffix(".bin"))
    text = message("me/image", **hub)
    assert "cannot be loaded as a StableDiffusionPipeline with safetensors weights" in text
    assert "no file named diffusion_pytorch_model.safetensors" in text
    assert not (tmp_path / "sprung").exists()
    shutil.rmtree(here / "unet")
    assert "no file named config.json" in message("me/image", **hub)


def test_a_single_file_takes_its_configuration_from_the_cache(
    image: Any, single: Path, tmp_path: Path
) -> None:
    put_in_cache(image, "stable-diffusion-v1-5/stable-diffusion-v1-5", tmp_path)
    hub: dict[str, Any] = {"cache_dir": str(tmp_path)}
    assert_same(load_t2i(single, **hub).unet, image.unet)  # where diffusers looks by itself
    put_in_cache(image, "me/image", tmp_path)
    assert_same(load_t2i(single, config="me/image", **hub).unet, image.unet)


# --- LoRA -----------------------------------------------------------------------------------------


def make_lora(path: Path, unet: Any, style: str = "peft", seed: int = 1, alpha: float = 2) -> Path:
    """Random LoRA factors of rank 2 for every attention query and key of a network."""
    generator = torch.Generator().manual_seed(seed)
    names = [
        name for name, _ in unet.named_modules() if name.endswith(("attn1.to_q", "attn1.to_k"))
    ]
    tensors = {}
    for name in names:
        into = unet.get_submodule(name).in_features
        out = unet.get_submodule(name).out_features
        down, up = (torch.randn(s, generator=generator) for s in ((2, into), (out, 2)))
        if style == "peft":
            tensors[f"unet.{name}.lora_A.weight"] = down
            tensors[f"unet.{name}.lora_B.weight"] = up
        else:
            flat = "lora_unet_" + name.replace(".", "_")
            tensors[f"{flat}.lora_down.weight"] = down
            tensors[f"{flat}.lora_up.weight"] = up
            tensors[f"{flat}.alpha"] = torch.tensor(float(alpha))
    assert tensors
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("style", ["peft", "kohya"])
def test_lora_changes_the_output_by_its_scale(
    style: str, image: Any, folder: Path, tmp_path: Path
) -> None:
    path = make_lora(tmp_path / "my.style-v1.safetensors", image.unet, style)
    plain = predict(image)
    full, half, none = (predict(load_t2i(folder, lora=[(path, s)])) for s in (1.0, 0.5, 0))
    assert torch.equal(none, plain)
    assert (full - plain).norm() > 0.01 * plain.norm()
    assert (half - plain).norm() > 0.005 * plain.norm()
    assert not torch.allclose(half, full, rtol=1e-3)
    assert torch.equal(predict(load_t2i(folder, lora=[path])), full)  # scale 1 by default
    assert torch.equal(predict(load_t2i(folder, lora=path)), full)


def test_kohya_and_peft_files_of_the_same_factors_agree(
    image: Any, folder: Path, tmp_path: Path
) -> None:
    peft = make_lora(tmp_path / "a.safetensors", image.unet)
    kohya = make_lora(tmp_path / "b.safetensors", image.unet, "kohya", alpha=2)
    weak = make_lora(tmp_path / "c.safetensors", image.unet, "kohya", alpha=1)
    one = predict(load_t2i(folder, lora=[peft]))
    torch.testing.assert_close(predict(load_t2i(folder, lora=[kohya])), one)
    torch.testing.assert_close(  # alpha over rank scales, too
        predict(load_t2i(folder, lora=[weak])), predict(load_t2i(folder, lora=[(peft, 0.5)]))
    )


def test_several_loras_at_once(image: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = make_lora(tmp_path / "a.safetensors", image.unet, seed=1)
    two = make_lora(tmp_path / "other" / "a.safetensors", image.unet, "kohya", seed=2)
    both = load_t2i(folder, lora=[(one, 0.5), (two, 0.25)])
    assert both.get_active_adapters() == ["a", "a_1"]
    weight = both.unet.state_dict()
    layer = next(key for key in weight if key.endswith("to_q.base_layer.weight"))
    place = layer.removesuffix(".base_layer.weight")
    expected = weight[layer].clone()
    for name, scale in (("a", 0.5), ("a_1", 0.25)):
        up, down = (weight[f"{place}.lora_{side}.{name}.weight"] for side in ("B", "A"))
        expected += scale * up @ down
    both.fuse_lora(adapter_names=["a", "a_1"])
    torch.testing.assert_close(both.unet.state_dict()[layer], expected)


def test_adapters_of_one_name_are_told_apart() -> None:
    taken: list[str] = []
    for path in ("a_2.safetensors", "x/a.safetensors", "y/a.safetensors", "z/a.safetensors"):
        taken.append(addons._name(Path(path), taken))
    assert taken == ["a_2", "a", "a_1", "a_3"]


@pytest.mark.parametrize(
    "old", ["processor.to_q_lora.up", "to_q.lora.up", "fc1.lora_linear_layer.up"]
)
def test_every_spelling_of_lora_is_seen(old: str) -> None:
    assert is_lora({f"unet.down_blocks.0.{old}.weight": (2, 2)})
    assert not is_lora({"unet.down_blocks.0.to_q.weight": (2, 2)})


def test_lora_on_a_motion_network_leaves_the_base_alone(folder: Path, tmp_path: Path) -> None:
    make_adapter().save_pretrained(tmp_path / "adapter")
    base = load_t2i(folder)
    before = predict(base)
    plain = load_t2v(tmp_path / "adapter", base=base)
    path = make_lora(tmp_path / "lcm.safetensors", base.unet, "kohya")
    tensors = load_file(path)
    tensors["lora_te_text_model_encoder_layers_0_self_attn_out_proj.lora_down.weight"] = torch.ones(
        2, _WIDTH
    )
    tensors["lora_te_text_model_encoder_layers_0_self_attn_out_proj.lora_up.weight"] = torch.ones(
        _WIDTH, 2
    )
    tensors["lora_te_text_model_encoder_layers_0_self_attn_out_proj.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)
    moved = load_t2v(tmp_path / "adapter", base=base, lora=[(path, 0.8)])
    assert not torch.allclose(predict(moved), predict(plain), rtol=1e-3)
    assert hasattr(moved.text_encoder, "peft_config")
    assert torch.equal(predict(base), before)


def test_loras_of_the_base_stay_behind(image: Any, folder: Path, tmp_path: Path) -> None:
    make_adapter().save_pretrained(tmp_path / "adapter")
    path = make_lora(tmp_path / "style.safetensors", image.unet)
    base = load_t2i(folder, lora=[path])
    styled = predict(base)
    moved = load_t2v(tmp_path / "adapter", base=base)
    assert torch.equal(predict(moved), predict(load_t2v(tmp_path / "adapter", base=folder)))
    assert torch.equal(predict(base), styled)


def test_lora_in_half_precision(image: Any, folder: Path, tmp_path: Path) -> None:
    path = make_lora(tmp_path / "style.safetensors", image.unet)
    loaded = load_t2i(folder, lora=[path], dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.unet.parameters()} == {torch.bfloat16}
    assert predict(loaded).isfinite().all()


# --- textual inversion ----------------------------------------------------------------------------


def test_textual_inversion_adds_a_token(folder: Path, tmp_path: Path) -> None:
    vector = torch.linspace(-1, 1, _WIDTH)
    save_file({"<mine>": vector}, tmp_path / "own.safetensors")
    save_file({"emb_params": vector[None].flip(1)}, tmp_path / "site.safetensors")
    loaded = load_t2i(
        folder,
        textual_inversion=[
            tmp_path / "own.safetensors",
            (tmp_path / "site.safetensors", "<theirs>"),
        ],
    )
    table = loaded.text_encoder.get_input_embeddings().weight
    for token, expected in (("<mine>", vector), ("<theirs>", vector.flip(0))):
        (index,) = loaded.tokenizer(token, add_special_tokens=False).input_ids
        torch.testing.assert_close(table[index], expected)


# --- one latent space -----------------------------------------------------------------------------


def test_pipelines_of_one_family_share_their_latents() -> None:
    assert same_latent_space(tiny_sd(), tiny_animatediff()) == []


def test_a_fine_tuned_decoder_and_half_precision_are_the_same_space() -> None:
    one, other = tiny_sd(), tiny_animatediff()
    with torch.no_grad():
        for parameter in other.vae.decoder.parameters():
            parameter.normal_()
    other.vae.to(torch.bfloat16)
    assert same_latent_space(one, other) == []


@pytest.mark.parametrize("size", [1.1, float("nan")])
def test_another_encoder_is_measured(size: float) -> None:
    one, other = tiny_sd(), tiny_animatediff()
    with torch.no_grad():
        other.vae.quant_conv.weight[0] *= size
    (problem,) = same_latent_space(one, other)
    assert "encode the same picture to latents" in problem
    assert "allowed: 2%" in problem
    assert "choose both from one family" in problem


def test_an_offloaded_vae_is_measured_where_it_runs() -> None:
    from accelerate import cpu_offload

    one, other = tiny_sd(), tiny_animatediff()
    cpu_offload(other.vae, torch.device("cpu"))
    assert other.vae.device.type == "meta"
    assert same_latent_space(one, other) == []


def test_configurations_are_compared() -> None:
    one, other = tiny_sd(), tiny_animatediff()
    other.vae.register_to_config(scaling_factor=0.13025)
    (problem,) = same_latent_space(one, other)
    assert "scaling_factor 0.18215, the T2V's 0.13025" in problem

    from diffusers import AutoencoderKL

    wide = AutoencoderKL.from_config({**tiny_vae().config, "latent_channels": 8})
    other.register_modules(vae=wide)
    (problem,) = same_latent_space(one, other)
    assert "has 4 latent channels, the T2V's 8" in problem

    deep = {
        **tiny_vae().config,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    other.register_modules(vae=AutoencoderKL.from_config(deep))
    (problem,) = same_latent_space(one, other)
    assert "has 2 pixels per latent, the T2V's 4" in problem

    other.register_modules(vae=None, unet=tiny_unet(in_channels=8, out_channels=8))
    (problem,) = same_latent_space(one, other)
    assert "takes 4 channels, the T2V's 8" in problem


# --- fingerprints ---------------------------------------------------------------------------------


def test_a_fingerprint_is_of_the_weights(own: Path, tmp_path: Path) -> None:
    import hashlib

    first = fingerprint(own)
    assert first is not None
    assert len(first) == 64
    (own / "README.md").write_text("not a weight")
    moved = own.rename(tmp_path / "elsewhere")
    assert fingerprint(moved) == first
    file = moved / "unet" / "diffusion_pytorch_model.safetensors"
    assert fingerprint(str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert fingerprint(moved) != first
    data[-1] ^= 1
    file.write_bytes(data)
    assert fingerprint(moved) == first
    file.rename(file.with_name("other.safetensors"))
    assert fingerprint(moved) != first


def test_a_hub_id_has_no_fingerprint(tmp_path: Path) -> None:
    assert fingerprint("some/model") is None
    assert "no .safetensors" in message(tmp_path, fingerprint)


# --- messages -------------------------------------------------------------------------------------


def test_missing_files_and_hub_ids_that_are_not_here(tmp_path: Path) -> None:
    for gone in (
        tmp_path / "gone",
        tmp_path / "gone.safetensors",
        "gone/gone.safetensors",
        "./a/b",
    ):
        text = message(gone)
        assert f"{gone} does not exist" in text
        assert "Check the path" in text
    for load in (load_t2i, load_t2v):
        text = message("nobody/no-such-model", load)
        assert "nobody/no-such-model is neither a file or folder here nor a hub id" in text
        assert "HF_HUB_OFFLINE=1" in text


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickles_are_never_opened(suffix: str, tmp_path: Path) -> None:
    trap = tmp_path / f"model{suffix}"
    torch.save(_Trap(tmp_path / "sprung"), trap)
    pipe = tiny_sd()
    for text in (
        message(trap),
        message(trap, load_t2v, base=pipe),
        message(trap, fingerprint),
    ):
        assert f"is a pickle ({suffix})" in text
        assert "never loaded" in text
        assert "save_pretrained(folder, safe_serialization=True)" in text
    assert not (tmp_path / "sprung").exists()


class _Trap:
    """Leaves a file behind when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_add_ons_are_never_pickles(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "style.bin"
    torch.save(_Trap(tmp_path / "sprung"), trap)
    disguised = tmp_path / "style.safetensors"
    shutil.copy(trap, disguised)
    assert "is a pickle (.bin)" in message(folder, lora=[trap])
    assert "is a pickle (.bin)" in message(folder, textual_inversion=[trap])
    assert "cannot be read as safetensors" in message(folder, lora=[disguised])
    assert "cannot be read as safetensors" in message(folder, textual_inversion=[disguised])
    assert "cannot be read as safetensors" in message(disguised, config=folder)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_that_is_no_pipeline(own: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for load in (load_t2i, load_t2v):
        text = message(tmp_path / "empty", load)
        assert "model_index.json is missing (the folder is empty)" in text
    assert "(found empty, own)" in message(own / "..")
    (own / "model_index.json").unlink()
    assert "is not a diffusers folder: model_index.json is missing (found " in message(own)


def test_a_folder_with_parts_missing(own: Path) -> None:
    weights = own / "unet" / "diffusion_pytorch_model.safetensors"
    half = weights.rename(own / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert 'ask for it: variant="fp16"' in message(own)
    assert load_t2i(own, variant="fp16").unet is not None
    half.unlink()
    assert "unet has no weights; expected *.safetensors" in message(own)
    torch.save(_Trap(own / "sprung"), own / "unet" / "diffusion_pytorch_model.bin")
    text = message(own)
    assert "has only pickled weights (diffusion_pytorch_model.bin)" in text
    assert "safe_serialization=True" in text
    assert not (own / "sprung").exists()
    shutil.rmtree(own / "unet")
    assert "its model_index.json lists unet, but there is no folder" in message(own)


def test_damaged_files(own: Path, folder: Path, single: Path, tmp_path: Path) -> None:
    weights = own / "unet" / "diffusion_pytorch_model.safetensors"
    for file, source, more in (
        (weights, own, {}),
        (tmp_path / "cut.safetensors", tmp_path / "cut.safetensors", {"config": folder}),
    ):
        data = (weights if file == weights else single).read_bytes()
        file.write_bytes(data[: len(data) // 2])
        assert str(source) in message(source, **more)
    assert "truncated" in message(tmp_path / "cut.safetensors", config=folder)
    (own / "model_index.json").write_text("{")
    assert "model_index.json is not JSON" in message(own)


def test_other_models_given_as_t2i(own: Path, texts: dict[str, Any], tmp_path: Path) -> None:
    index = json.loads((own / "model_index.json").read_text())
    sdxl = {**index, "_class_name": "StableDiffusionXLPipeline"}
    sdxl["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    (own / "model_index.json").write_text(json.dumps(sdxl))
    text = message(own)
    assert "holds a StableDiffusionXLPipeline" in text
    assert "UNet2DConditionModel with one text encoder" in text
    flux = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (own / "model_index.json").write_text(json.dumps(flux))
    assert "holds a FluxPipeline" in message(own)
    assert "holds a FluxPipeline" in message(own, load_t2v)
    tiny_animatediff().save_pretrained(tmp_path / "video")
    assert "give it as T2V" in message(tmp_path / "video")
    assert "AnimateDiffPipeline is given as T2I" in message(tiny_animatediff())
    inpainting = tiny_sd(in_channels=9)
    inpainting.register_modules(**texts)
    inpainting.save_pretrained(tmp_path / "inpainting")
    assert "takes 9 channels where its latents have 4" in message(tmp_path / "inpainting")


def test_other_single_files_given_as_t2i(
    image: Any, folder: Path, single: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file.safetensors"

    def of(tensors: dict[str, Tensor]) -> str:
        save_file(tensors, file)
        return message(file, config=folder)

    make_lora(file, image.unet)
    assert "is a LoRA, not a model; give it in lora=" in message(file, config=folder)
    make_lora(file, image.unet, "kohya")
    assert "is a LoRA, not a model" in message(file, config=folder)
    assert "one network of a diffusers pipeline" in of(image.unet.state_dict())
    assert "is a motion adapter; give it as T2V" in of(make_adapter().state_dict())
    assert "textual inversion" in of({"<mine>": torch.zeros(8)})
    assert "Stable Diffusion XL" in of({"conditioner.embedders.1.model.x": torch.zeros(8)})
    assert "no weights under model.diffusion_model.input_blocks" in of(
        {"a": torch.zeros(1), "b": torch.zeros(1)}
    )
    tensors = load_file(single)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    assert "takes 9 channels" in of({**tensors, first: torch.zeros(16, 9, 3, 3)})
    last = "model.diffusion_model.out.2.weight"
    text = of({key: value for key, value in tensors.items() if key != last})
    assert "lacks weights that its configuration asks for" in text
    text = of({key: value for key, value in tensors.items() if "cond_stage_model" not in key})
    assert "weights for this component appear to be missing" in text.lower()


def test_a_single_file_offline_needs_a_config(single: Path, tmp_path: Path) -> None:
    text = message(single)
    assert "Give config=, a folder with model_index.json" in text
    assert "HF_HUB_OFFLINE=1" in text
    (tmp_path / "empty").mkdir()
    assert "has no model_index.json" in message(single, config=tmp_path / "empty")
    assert "does not exist" in message(single, config=tmp_path / "gone")


def test_a_config_of_another_size(single: Path, texts: dict[str, Any], tmp_path: Path) -> None:
    tiny = tiny_sd(block_out_channels=(8, 16))
    tiny.register_modules(**texts)
    tiny.save_pretrained(tmp_path / "other")
    assert "cannot be loaded as a single-file" in message(single, config=tmp_path / "other")


def test_loras_that_do_not_fit(image: Any, folder: Path, tmp_path: Path) -> None:
    wide = make_lora(tmp_path / "wide.safetensors", tiny_unet(block_out_channels=(32, 64)))
    text = message(folder, lora=[wide])
    assert "does not fit this UNet2DConditionModel" in text
    assert "made for the same family" in text
    save_file(
        {
            "transformer.x.lora_A.weight": torch.ones(2, 8),
            "transformer.x.lora_B.weight": torch.ones(8, 2),
        },
        tmp_path / "flux.safetensors",
    )
    text = message(folder, lora=[tmp_path / "flux.safetensors"])
    assert "has no layer for this UNet2DConditionModel" in text
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    assert "holds no LoRA factors" in message(folder, lora=[tmp_path / "x.safetensors"])
    assert "does not exist" in message(folder, lora=[tmp_path / "gone.safetensors"])
    assert "is a folder" in message(folder, lora=[tmp_path])
    fine = make_lora(tmp_path / "fine.safetensors", image.unet)
    assert "0.5 is not a path; give a list" in message((0.5,), _add_untyped)
    assert "already built" in message(image, lora=[fine])


def _add_untyped(files: Any) -> None:
    """Without the check of types that the tests switch on."""
    list(addons._pairs(files, 1.0, "scale"))


def test_a_3d_network_takes_no_lora(tmp_path: Path, image: Any, clip: Any) -> None:
    clip.save_pretrained(tmp_path / "t2v")
    path = make_lora(tmp_path / "a.safetensors", image.unet)
    text = message(tmp_path / "t2v", load_t2v, lora=[path])
    assert "cannot be put on a UNet3DConditionModel" in text
    assert "already built" in message(clip, load_t2v, lora=[path])


def test_textual_inversions_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"

    def of(tensors: dict[str, Tensor]) -> str:
        save_file(tensors, file)
        return message(folder, textual_inversion=[file])

    assert "cannot be loaded as a textual inversion" in of({"<mine>": torch.zeros(2 * _WIDTH)})
    text = of({"clip_g": torch.zeros(8), "clip_l": torch.zeros(8)})
    assert "holds 2 tensors (clip_g, clip_l); expected one embedding" in text
    assert 'give (path, token), such as ("mine.safetensors"' in of(
        {"emb_params": torch.zeros(1, 8)}
    )


def test_motion_adapters_that_do_not_fit(image: Any, folder: Path, tmp_path: Path) -> None:
    make_adapter().save_pretrained(tmp_path / "adapter")
    assert "give base=, a Stable Diffusion 1.5 model" in message(tmp_path / "adapter", load_t2v)
    make_adapter(block_out_channels=(16, 32, 32)).save_pretrained(tmp_path / "other")
    text = message(tmp_path / "other", load_t2v, base=image)
    assert "does not fit the base" in text
    assert "different number of blocks" in text
    weights = tmp_path / "adapter" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "only pickled weights" in message(tmp_path / "adapter", load_t2v, base=image)
    lora = make_lora(tmp_path / "lora.safetensors", image.unet)
    text = message(lora, load_t2v, base=image)
    assert "is not a motion adapter; give it in lora=" in text
    tensors = make_adapter().state_dict()
    first = "down_blocks.0.motion_modules.0.proj_in.weight"
    save_file({first: tensors[first]}, tmp_path / "part.safetensors")
    text = message(tmp_path / "part.safetensors", load_t2v, base=image)
    assert "part.safetensors cannot be loaded as a motion adapter" in text
    factors = {"A": torch.ones(2, 16), "B": torch.ones(16, 2)}
    camera = {f"unet.{first[:-7]}.lora_{side}.weight": value for side, value in factors.items()}
    save_file(camera, tmp_path / "camera.safetensors")
    text = message(tmp_path / "camera.safetensors", load_t2v, base=image)
    assert "is not a motion adapter; give it in lora=" in text
    assert "that is an image model: give it as T2I, or as base=" in message(folder, load_t2v)
    assert "StableDiffusionPipeline is given as T2V" in message(image, load_t2v)


@pytest.mark.parametrize("parts", ["", "-00001-of-00002"])
def test_weights_in_several_files_and_variants_are_seen(tmp_path: Path, parts: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / f"model.fp16{parts}.safetensors"
    weights.touch()
    require_weights(tmp_path, {}, "fp16")
    for variant in (None, "bf16"):
        with pytest.raises(CheckpointError, match=r'ask for it: variant="fp16"$'):
            require_weights(tmp_path, {}, variant)
    weights.rename(tmp_path / f"model{parts}.safetensors")
    for variant in (None, "fp16"):  # what there is serves any wish
        require_weights(tmp_path, {}, variant)


def test_nothing_is_opened_that_could_run_code(own: Path, folder: Path) -> None:
    """Where a pickle lies beside safetensors, the safetensors are taken."""
    torch.save(_Trap(own / "sprung"), own / "unet" / "diffusion_pytorch_model.bin")
    load_t2i(own)
    assert not (own / "sprung").exists()
