"""Small things to test with: runs and steps without a host, and tiny offline pipelines.

Everything here is deterministic (weights from seed 0) and needs no network. diffusers is imported
inside the functions that need it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from hypothesis import settings
from torch import Tensor, nn

from elevator.denoise import Call, record_call
from elevator.hook import Hook, Run, Step
from elevator.latent import Latent
from elevator.level import Level, Prediction
from elevator.noise import KeyedNoise, Noise
from elevator.schedule import Schedule

__all__ = [
    "SHAPE",
    "FakeDenoiser",
    "awake",
    "ddim",
    "drive",
    "make_latent",
    "make_run",
    "make_schedule",
    "make_step",
    "sample",
    "scheduler_of",
    "tiny_animatediff",
    "tiny_sd",
    "tiny_text",
    "tiny_text_to_video",
    "tiny_unet",
    "tiny_vae",
    "tiny_video_upscale",
    "unvetted",
    "walk",
]

T = TypeVar("T")
SHAPE = (1, 4, 5, 8, 6)
"""Default (b, c, f, h, w): an odd number of frames, not square."""

_TEXT = 16  # width of the prompt embeddings of every tiny network

# Property tests: no deadline (machines and their load differ), the same examples in every run.
settings.register_profile("elevator", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("elevator")

# --- runs and steps without a host ----------------------------------------------------------------


def make_schedule(steps: int = 6, space: str = "preserving", train: int = 1000) -> Schedule:
    """A schedule of `steps` levels that ends at sigma = 0.

    Args:
        steps: number of levels a step starts from.
        space: "preserving" (cosine), "exploding" (alpha = 1) or "flow" (alpha = 1 - sigma).
        train: timestep of pure noise.
    """
    at = torch.linspace(0.98, 0.02, steps, dtype=torch.float64)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    match space:
        case "preserving":
            alphas, sigmas = torch.cos(at * torch.pi / 2), torch.sin(at * torch.pi / 2)
        case "exploding":
            alphas, sigmas = torch.ones_like(at), 14.0 * at**2
        case "flow":
            alphas, sigmas = 1 - at, at
        case _:
            raise ValueError(space)
    return Schedule(alphas, sigmas, (at * train).round(), Level(one, zero, zero))


def make_latent(shape: tuple[int, ...] = SHAPE, seed: int = 0, device: str = "cpu") -> Latent:
    """Standard normal numbers of a shape; on the meta device an empty tensor."""
    if device == "meta":
        return torch.empty(shape, device="meta")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def make_run(
    shape: tuple[int, int, int, int, int] = SHAPE,
    *,
    steps: int = 6,
    noise: Noise | None = None,
    schedule: Schedule | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    first_frame: int = 0,
) -> Run:
    """A run over `make_schedule(steps)`, with keyed noise from seed 0 unless given."""
    return Run(
        schedule=schedule or make_schedule(steps),
        shape=shape,
        device=torch.device(device),
        dtype=dtype,
        noise=noise or KeyedNoise(),
        first_frame=first_frame,
    )


def make_step(
    run: Run,
    index: int = 0,
    *,
    clean: Latent | None = None,
    noise: Latent | None = None,
    options: Mapping[str, Any] | None = None,
) -> Step:
    """Step `index` of a run; its noisy latent is made of `clean` and `noise` at its level."""
    level, after = run.schedule[index], run.schedule[index + 1]
    device = run.device.type
    clean = make_latent(run.shape, 100 + index, device) if clean is None else clean
    noise = make_latent(run.shape, 200 + index, device) if noise is None else noise
    noisy = level.alpha.float() * clean + level.sigma.float() * noise
    return Step(
        run=run,
        index=index,
        noisy=noisy,
        predicted=Prediction(clean, noise),
        level=level,
        next=after,
        options=options or {},
    )


def walk(
    hook: Hook[Any],
    run: Run,
    *,
    start: Latent | None = None,
    denoise: Callable[[Latent, Step], Latent] | None = None,
) -> Iterator[Latent]:
    """Run a hook through every step as a host does, without diffusers.

    The host's network is `denoise` (by default it shrinks its input), its solver is DDIM; the
    next latent is what `hook.finish` makes of the solver's.

    Yields:
        The noisy latent before the first step and after every step.
    """
    denoise = denoise or (lambda noisy, step: 0.9 * torch.tanh(noisy))
    latent = make_latent(run.shape, 300, run.device.type) if start is None else start
    state = hook.init(run)
    yield latent
    for index in range(len(run.schedule)):
        level, after = run.schedule[index], run.schedule[index + 1]
        step = Step(run, index, latent, Prediction(latent, latent), level, after)
        clean = denoise(latent, step)
        noise = (latent - level.alpha.float() * clean) / level.sigma.float()
        step = Step(run, index, latent, Prediction(clean, noise), level, after)
        edited, state = hook.update(clean, step, state)
        noise = (latent - level.alpha.float() * edited) / level.sigma.float()
        proposed = after.alpha.float() * edited + after.sigma.float() * noise
        latent, state = hook.finish(edited, proposed, step, state)
        yield latent


@final
@dataclass(frozen=True)
class FakeDenoiser:
    """A denoiser whose noise is a function of the latent, value by value; no network.

    Attributes:
        gain: 0 predicts no noise at all, whatever the latent.
    """

    gain: float = 0.5

    @property
    def schedule(self) -> Schedule:
        return make_schedule(50)

    def walk(self, steps: int) -> Schedule:
        return make_schedule(steps)

    def __call__(self, noisy: Latent, level: Level) -> Prediction:
        record_call(Call("FakeDenoiser", noisy.shape[0] * noisy.shape[2], 1))
        noise = self.gain * torch.tanh(noisy)
        return Prediction((noisy - level.sigma * noise) / level.alpha, noise)


def drive(hook: Hook[Any], run: Run, **more: Any) -> list[Latent]:
    """Every latent that `walk` yields."""
    return list(walk(hook, run, **more))


# --- tiny networks and pipelines ------------------------------------------------------------------


def awake(module: nn.Module) -> nn.Module:
    """Give parameters that are initialised to zero small random values, so that they matter."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return module.eval().requires_grad_(False)


def ddim(prediction_type: str = "epsilon", **config: Any) -> Any:
    """Stable Diffusion's own schedule as a DDIM scheduler."""
    from diffusers import DDIMScheduler

    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction_type,
    }
    return DDIMScheduler(**{**settings, **config})


def scheduler_of(name: str, **config: Any) -> Any:
    """Any diffusers scheduler by class name, on Stable Diffusion's schedule where it has one."""
    import diffusers

    cls = getattr(diffusers, name)
    if name.startswith("FlowMatch"):
        return cls(**config)
    return cls.from_config({**ddim().config, **config})


def tiny_vae() -> Any:
    """An image autoencoder: 3 channels to 4, half the height and width."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    return awake(vae)


def tiny_unet(**config: Any) -> Any:
    """An image network with one block that attends to the prompt."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "sample_size": 8,
        "cross_attention_dim": _TEXT,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
    }
    return awake(UNet2DConditionModel(**{**settings, **config}))


def tiny_text(folder: Path) -> dict[str, Any]:
    """A tokenizer, whose files are written to a folder, and a text encoder of width 16."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from elevator.zoo.tokenizer import LENGTH, write

    write(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT,
        intermediate_size=_TEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return {"tokenizer": tokenizer, "text_encoder": awake(CLIPTextModel(config))}


def tiny_sd(scheduler: Any = None, **unet: Any) -> Any:
    """A `StableDiffusionPipeline` for 16x16 images; give prompts as embeddings, see `sample`."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=None,
        tokenizer=None,
        unet=tiny_unet(**unet),
        scheduler=scheduler or ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_text_to_video(scheduler: Any = None) -> Any:
    """A `TextToVideoSDPipeline` (its latents reach the scheduler as `(b f) c h w`)."""
    from diffusers import TextToVideoSDPipeline, UNet3DConditionModel

    torch.manual_seed(0)
    unet = UNet3DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        sample_size=8,
        cross_attention_dim=_TEXT,
        norm_num_groups=8,
        attention_head_dim=8,
    )
    pipeline = TextToVideoSDPipeline(
        vae=tiny_vae(),
        text_encoder=None,
        tokenizer=None,
        unet=awake(unet),
        scheduler=scheduler or ddim(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_animatediff(scheduler: Any = None) -> Any:
    """An `AnimateDiffPipeline` (its latents reach the scheduler as `b c f h w`)."""
    from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel

    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=16,
    )
    unet = awake(UNetMotionModel.from_unet2d(tiny_unet(), adapter))
    pipeline = AnimateDiffPipeline(
        vae=tiny_vae(),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        motion_adapter=adapter,
        scheduler=scheduler or ddim(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_video_upscale(*, conditioned: bool = False, scheduler: Any = None, **unet: Any) -> Any:
    """A `VideoUpscalePipeline` that doubles; give prompts as embeddings, (b, 5, 16).

    Args:
        conditioned: take the autoencoder that sees the low-resolution frames.
        scheduler: DDIM predicting v by default.
        unet: further arguments of the U-Net.
    """
    from diffusers import DDPMScheduler

    from elevator.models import TemporalUNet, VideoVAE
    from elevator.pipelines.video_upscale import VideoUpscalePipeline

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
        "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
        "only_cross_attention": (True, False),
        "down_temporal_idx": (0, 1),
        "up_temporal_idx": (0, 1),
        "layers_per_block": 1,
        "sample_size": 8,
        "cross_attention_dim": _TEXT,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "num_class_embeds": 351,
    }
    more = {"volume": True, "condition_channels": 8} if conditioned else {}
    vae = VideoVAE(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
        **more,
    )
    pipeline = VideoUpscalePipeline(
        vae=awake(vae),
        text_encoder=None,
        tokenizer=None,
        unet=awake(TemporalUNet(**{**settings, **unet})),
        low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001),
        scheduler=scheduler or ddim("v_prediction"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def publish(pipeline: Any, folder: Path, *others: Any) -> None:
    """Write a `VideoUpscalePipeline` with text as the tree that Upscale-A-Video was published as.

    Args:
        pipeline: its parts.
        folder: where to.
        others: further autoencoders, to lie beside its own.
    """
    for name in ("tokenizer", "text_encoder", "scheduler", "low_res_scheduler"):
        getattr(pipeline, name).save_pretrained(folder / name)
    for network in (pipeline.unet, pipeline.vae, *others):
        config = {k: v for k, v in network.config.items() if not k.startswith("_")}
        part, name = "unet", "unet_video"
        if network is not pipeline.unet:
            conditioned = bool(config["condition_channels"])
            part, name = "vae", "vae_video" if conditioned else "vae_3d"
            kind = "UpDecoderBlock3D_plus" if conditioned else "UpDecoderBlock3D"
            config |= {"condition_img": conditioned, "up_block_types": [kind] * 2}
        (folder / part).mkdir(exist_ok=True, parents=True)
        torch.save(network.state_dict(), folder / part / f"{name}.bin")
        (folder / part / f"{name}_config.json").write_text(json.dumps(config))


def sample(
    pipeline: Any,
    *,
    steps: int = 4,
    frames: int = 3,
    guidance: float = 2.0,
    seed: int | None = 0,
    **more: Any,
) -> Tensor:
    """Call a tiny pipeline with fixed prompt embeddings and give back its latents.

    For image pipelines `frames` is the batch: one embedding, repeated.

    Args:
        pipeline: one of the tiny pipelines.
        steps: `num_inference_steps`.
        frames: frames of the clip.
        guidance: guidance scale.
        seed: of the generator given to the pipeline; None gives none.
        more: further arguments of the call.
    """
    embeds = make_latent((2, 5, _TEXT), 7)
    video = type(pipeline).__name__ != "StableDiffusionPipeline"
    rows = 1 if video else frames
    arguments: dict[str, Any] = {
        "prompt_embeds": embeds[:1].repeat(rows, 1, 1).to(pipeline.unet.dtype),
        "negative_prompt_embeds": embeds[1:].repeat(rows, 1, 1).to(pipeline.unet.dtype),
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "height": 16,
        "width": 24,
        "output_type": "latent",
        "return_dict": False,
    }
    if video:
        arguments["num_frames"] = frames
    if seed is not None:
        arguments["generator"] = torch.Generator().manual_seed(seed)
    result = pipeline(**{**arguments, **more})[0]
    assert isinstance(result, Tensor)
    return result


def unvetted(kind: type[T], **fields: Any) -> T:
    """A frozen dataclass of a class with fields that its `__post_init__` has not seen.

    In tests a dataclass's own arguments are type-checked, with words that users never see.
    """
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
