"""VideoElevator as one object: prompt in, elevated video out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNetMotionModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.video_processor import VideoProcessor
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from elevator.attach import attach
from elevator.combine import chain
from elevator.denoise import Call
from elevator.errors import CheckError
from elevator.hook import Hook
from elevator.hosts.checkpoints import (
    Lora,
    TextualInversion,
    load_t2i,
    load_t2v,
    same_latent_space,
)
from elevator.hosts.codec import codec
from elevator.hosts.denoiser import denoiser
from elevator.hosts.pipeline import quiet_deprecation
from elevator.hosts.sources import Source
from elevator.latent import Latent
from elevator.patch import Patch, calls_of
from elevator.pipelines.arguments import clips_and_negatives, frame_size, given_or, require
from elevator.pipelines.output import VideoElevatorOutput
from elevator.pipelines.saved import load_saved
from elevator.pipelines.start import (
    STRENGTH,
    Clip,
    ContinuedPipeline,
    first_step,
    frames_of,
    init_latents,
    noised,
)
from elevator.plan import Plan, plan
from elevator.recipes import Preset, Recipe, preset_for, videoelevator
from elevator.samplers import DDIM, LCM, mixed_noise

__all__ = ["VideoElevatorOutput", "VideoElevatorPipeline"]


class VideoElevatorPipeline(
    DiffusionPipeline,
    StableDiffusionMixin,
    TextualInversionLoaderMixin,
    StableDiffusionLoraLoaderMixin,
):
    """VideoElevator (Zhang et al. 2024, arXiv 2403.05438): a T2V for motion, a T2I for quality.

    Any text-to-image checkpoint in the T2V's latent space can be put in: personalised models,
    LoRA files (`load_lora_weights`), textual inversion (`load_textual_inversion`). Saving, loading,
    devices, offloading, VAE slicing and tiling work as in every diffusers pipeline.

    Args:
        vae: the autoencoder of both models; the T2I's.
        text_encoder: the T2I's text encoder.
        tokenizer: the T2I's tokenizer.
        unet: the T2I's `UNet2DConditionModel`.
        scheduler: the T2I's scheduler; DDIM in the paper.
        video_text_encoder: the T2V's text encoder.
        video_tokenizer: the T2V's tokenizer.
        video_unet: the T2V's `UNet3DConditionModel` or `UNetMotionModel`.
        video_scheduler: the T2V's scheduler; DDIM, or LCM for AnimateLCM.
    """

    model_cpu_offload_seq = "text_encoder->video_text_encoder->unet->video_unet->vae"
    _callback_tensor_inputs = ("latents", "prompt_embeds", "negative_prompt_embeds")

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        video_text_encoder: Any,
        video_tokenizer: Any,
        video_unet: Any,
        video_scheduler: Any,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            video_text_encoder=video_text_encoder,
            video_tokenizer=video_tokenizer,
            video_unet=video_unet,
            video_scheduler=video_scheduler,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | Path | None = None,
        *,
        t2i: Any = None,
        t2v: Any = None,
        dtype: torch.dtype = torch.float32,
        lora: Sequence[Lora] | Source = (),
        textual_inversion: Sequence[TextualInversion] | Source = (),
        t2i_config: Source | None = None,
        t2v_base: Any = None,
        t2v_lora: Sequence[Lora] | Source = (),
        **kwargs: Any,
    ) -> "VideoElevatorPipeline":
        """Load a saved pipeline, or put one together from a T2I and a T2V.

        Args:
            pretrained_model_name_or_path: a folder written by `save_pretrained` (or its hub id),
                which holds everything; only `dtype` and `kwargs` may be given beside it.
            t2i: hub id, local folder, single `.safetensors` file, or a `StableDiffusionPipeline`.
            t2v: hub id or local folder of a text-to-video or AnimateDiff pipeline or of a motion
                adapter, a single `.safetensors` file of a motion adapter, or such a pipeline.
            dtype: dtype of the weights.
            lora: one LoRA file for the T2I or several, each a path or `(path, scale)`.
            textual_inversion: embeddings for the T2I, each a path or `(path, token)`.
            t2i_config: folder with the configuration of a single-file `t2i`, to stay offline.
            t2v_base: what a motion adapter is put on; the T2I by default.
            t2v_lora: LoRA files for the T2V, such as AnimateLCM's.
            **kwargs: passed on to diffusers' `from_pretrained`.

        Raises:
            CheckpointError: a checkpoint cannot be loaded as asked.
            CheckError: the two models do not share a latent space.
        """
        if pretrained_model_name_or_path is not None:
            parts = (t2i, t2v, t2i_config, t2v_base)
            if any(part is not None for part in parts) or lora or textual_inversion or t2v_lora:
                raise CheckError(
                    [
                        "give a saved pipeline, or t2i=... and t2v=... with their LoRAs and "
                        "textual inversions, not both at once; put add-ons on a saved pipeline "
                        "with load_lora_weights and load_textual_inversion"
                    ]
                )
            return cls._from_saved(pretrained_model_name_or_path, dtype, kwargs)
        if t2i is None or t2v is None:
            raise CheckError(["give t2i=... and t2v=..., or the folder of a saved pipeline"])
        image = load_t2i(
            t2i,
            dtype=dtype,
            lora=lora,
            textual_inversion=textual_inversion,
            config=t2i_config,
            **kwargs,
        )
        base = image if t2v_base is None else t2v_base
        video = load_t2v(t2v, dtype=dtype, base=base, lora=t2v_lora, **kwargs)
        return cls.from_pipelines(image, video)

    @classmethod
    def _from_saved(
        cls, source: str | Path, dtype: torch.dtype, hub: dict[str, Any]
    ) -> "VideoElevatorPipeline":
        instead = "give a T2I and a T2V as t2i=... and t2v=..."
        return load_saved(cls.__name__, super().from_pretrained, source, dtype, hub, instead)

    @classmethod
    def from_pipelines(cls, t2i: Any, t2v: Any) -> "VideoElevatorPipeline":
        """Put a T2I pipeline and a T2V pipeline together; neither is changed.

        The T2I samples with DDIM, as in the paper; set `pipe.scheduler` for another solver.
        """
        problems = list(same_latent_space(t2i, t2v))
        if "beta_schedule" not in t2i.scheduler.config:
            problems.append(
                f"the T2I comes with a {type(t2i.scheduler).__name__}, whose noise levels DDIM "
                "cannot walk; give a model trained on a beta schedule (Stable Diffusion's family)"
            )
        if problems:
            raise CheckError(problems)
        scheduler = DDIMScheduler.from_config(
            t2i.scheduler.config, clip_sample=False, set_alpha_to_one=False
        )
        return cls(
            vae=t2i.vae,
            text_encoder=t2i.text_encoder,
            tokenizer=t2i.tokenizer,
            unet=t2i.unet,
            scheduler=scheduler,
            video_text_encoder=t2v.text_encoder,
            video_tokenizer=t2v.tokenizer,
            video_unet=t2v.unet,
            video_scheduler=t2v.scheduler,
        )

    @property
    def t2i(self) -> StableDiffusionPipeline:
        """The T2I as a pipeline of its own, on the same components."""
        view = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return self._dress(view)

    def _continued(self) -> ContinuedPipeline:
        """The T2I, to start from latents at the level of a later step."""
        view = ContinuedPipeline(**self.t2i.components, requires_safety_checker=False)
        channels = self.vae.config.latent_channels  # by which latents are told from pictures
        view.image_processor = VaeImageProcessor(
            self.vae_scale_factor, vae_latent_channels=channels
        )
        return self._dress(view)

    @property
    def t2v(self) -> TextToVideoSDPipeline | AnimateDiffPipeline:
        """The T2V as a pipeline of its own, on the same components."""
        parts = {
            "vae": self.vae,
            "text_encoder": self.video_text_encoder,
            "tokenizer": self.video_tokenizer,
            "unet": self.video_unet,
            "scheduler": self.video_scheduler,
        }
        if isinstance(self.video_unet, UNetMotionModel):
            return self._dress(AnimateDiffPipeline(motion_adapter=None, **parts))
        with quiet_deprecation():
            return self._dress(TextToVideoSDPipeline(**parts))

    def _dress(self, view: Any) -> Any:
        view._progress_bar_config = dict(getattr(self, "_progress_bar_config", {}))
        return view

    @property
    def preset(self) -> str:
        """Name of the preset that fits the T2V."""
        if type(self.video_scheduler).__name__ == "LCMScheduler":
            return "animatelcm"
        linear = self.video_scheduler.config.get("beta_schedule") == "linear"
        return "lavie" if linear else "zeroscope"

    def recipe(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        *,
        num_inference_steps: int | None = None,
        video_guidance_scale: float | None = None,
        strength: float = 1.0,
        preset: str | Preset | None = None,
        refine: Sequence[int] | None = None,
        t2v_steps: int | None = None,
        lowpass: Hook[Any] | None = None,
        fast: bool = False,
        eta: float = 0.0,
        hook: Hook[Any] | None = None,
        video_patches: Sequence[Patch] = (),
        prompt_embeds: Float[Tensor, "b n d"] | None = None,
        negative_prompt_embeds: Float[Tensor, "b n d"] | None = None,
        video_prompt_embeds: Float[Tensor, "b n e"] | None = None,
        negative_video_prompt_embeds: Float[Tensor, "b n e"] | None = None,
        decode_chunk_size: int | None = None,
    ) -> Recipe:
        """The hook and the patches a call with these arguments attaches; see `__call__`."""
        numbers = self._preset(preset)
        steps = given_or(num_inference_steps, numbers.steps)
        run = steps - first_step(strength, steps)
        early = [point for point in refine or () if run < point <= steps]
        if early:
            raise CheckError(
                [
                    f"refinement points {early} lie before the start: at strength {strength:g} the "
                    f"last {run} of {steps} steps are run; give points from {run} to 1, or more "
                    "strength"
                ]
            )
        clips, negatives = clips_and_negatives(prompt, negative_prompt, prompt_embeds)
        if prompt is None and video_prompt_embeds is None:
            raise CheckError(
                ["prompt_embeds reach only the T2I; give video_prompt_embeds=... for the T2V too"]
            )
        t2i, lcm = self.t2i, type(self.video_scheduler).__name__ == "LCMScheduler"
        pictures = codec(t2i, "T2I")
        if decode_chunk_size is not None:
            pictures = replace(pictures, at_once=decode_chunk_size)
        composed = videoelevator(
            denoiser(
                self.t2v,
                None if video_prompt_embeds is not None else prompt,
                guidance=given_or(video_guidance_scale, numbers.video_guidance),
                negative_prompt=negatives if clips > 1 else negatives[0],
                prompt_embeds=video_prompt_embeds,
                negative_prompt_embeds=negative_video_prompt_embeds,
                name="T2V",
                patches=video_patches,
            ),
            denoiser(
                t2i,
                None if negative_prompt_embeds is not None else negatives,
                guidance=1,
                prompt_embeds=negative_prompt_embeds,
                name="T2I inversion",
            ),
            denoiser(
                t2i,
                None if prompt_embeds is not None else prompt,
                guidance=1,
                prompt_embeds=prompt_embeds,
                name="T2I correction",
            ),
            preset=numbers,
            steps=steps,
            refine=numbers.refine_at(run) if refine is None else refine,
            t2v_steps=t2v_steps,
            lowpass=lowpass,
            solver=LCM() if lcm else DDIM(eta),
            fast=fast,
            pictures=pictures,
        )
        if hook is not None:
            return Recipe(chain(composed.hook, hook), composed.patches)
        return composed

    def plan(
        self,
        prompt: str | list[str] | None = None,
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        strength: float = 1.0,
        **call: Any,
    ) -> Plan:
        """How many network calls a call with these arguments makes; nothing is computed.

        Args:
            prompt: as for `__call__`.
            num_frames: as for `__call__`.
            height: as for `__call__`.
            width: as for `__call__`.
            guidance_scale: as for `__call__`.
            strength: as for `__call__` with `init`; 1 is a run without.
            **call: any argument of `recipe`.
        """
        numbers = self._preset(call.get("preset"))
        steps = given_or(call.get("num_inference_steps"), numbers.steps)
        return plan(
            self.t2i,
            self.recipe(prompt, strength=strength, **call).hook,
            steps=steps,
            frames=given_or(num_frames, numbers.frames),
            clips=clips_and_negatives(prompt, None, call.get("prompt_embeds"))[0],
            height=height,
            width=width,
            guided=given_or(guidance_scale, numbers.guidance) > 1,
            start=first_step(strength, steps),
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        video_guidance_scale: float | None = None,
        *,
        init: Clip | None = None,
        strength: float | None = None,
        preset: str | Preset | None = None,
        refine: Sequence[int] | None = None,
        t2v_steps: int | None = None,
        lowpass: Hook[Any] | None = None,
        shared_noise: float | None = None,
        fast: bool = False,
        hook: Hook[Any] | None = None,
        video_patches: Sequence[Patch] = (),
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Latent | None = None,
        prompt_embeds: Float[Tensor, "b n d"] | None = None,
        negative_prompt_embeds: Float[Tensor, "b n d"] | None = None,
        video_prompt_embeds: Float[Tensor, "b n e"] | None = None,
        negative_video_prompt_embeds: Float[Tensor, "b n e"] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        decode_chunk_size: int | None = None,
    ) -> VideoElevatorOutput | tuple[Any]:
        """Make one clip per prompt.

        Args:
            prompt: a prompt, or one per clip.
            negative_prompt: what to avoid, for both models; "" by default.
            height: in pixels, a multiple of the VAE's factor; the T2I's own by default.
            width: as `height`.
            num_frames: frames per clip; those of `latents` or `init`, or the preset's, by default.
            num_inference_steps: sampling steps; the preset's by default.
            guidance_scale: of the T2I; 1 or less runs without guidance.
            video_guidance_scale: of the T2V.
            init: a clip to start from: frames (PIL images or an array (f, h, w, 3) of floats in
                [0, 1] or of bytes), the same for every prompt, or clean latents (b, c, f, h, w).
                Its first `num_frames` are taken; frames are scaled to cover height and width, cut
                around their middle and encoded by the T2I's VAE.
            strength: how much of the way back to noise `init` goes, in (0, 1], as in diffusers: the
                last int(steps * strength) steps are run; 0.6 by default. At 1 all are, from pure
                noise, and only the clip's length is left of it.
            preset: `zeroscope`, `lavie`, `animatelcm`, for the built-in models `world` (refined
                frames get new noise, which all share, and are averaged along their motion),
                `world-styled` (for a personalised T2I) and `world-inverted` (they are inverted, as
                published), or numbers of your own (`dataclasses.replace(PRESETS["world"],
                steady=())` does not average); by default one of the first three, by the T2V's
                scheduler. Arguments given beside it override it.
            refine: refinement points as steps remaining, e.g. (45, 35, 25, 15) of 50; () never
                refines, which leaves the inflated T2I alone. The preset's are scaled to the steps
                that are run, so that `init` is refined as often as a clip from noise. Averages
                along the motion stay at their noise levels: those before the start are left out.
            t2v_steps: T2V steps per refinement.
            lowpass: the filter before the T2V; `el.identity()` for none.
            shared_noise: weight of the initial noise all frames share.
            fast: a third of the inversion calls, and no correction; refused where the preset
                makes no inversion.
            hook: a hook of your own, run after VideoElevator's in every step.
            video_patches: changes inside the T2V's network, such as `FrameWindows(16, stride=4)`
                for more frames than it was trained on.
            eta: DDIM's eta, for both models.
            generator: one, or one per clip: initial noise and every draw follow from it.
            latents: initial noise (b, c, f, h, w) instead of a draw.
            prompt_embeds: the T2I's text embeddings, one row per clip, instead of `prompt`.
            negative_prompt_embeds: the T2I's negative embeddings.
            video_prompt_embeds: the T2V's text embeddings.
            negative_video_prompt_embeds: the T2V's negative embeddings.
            output_type: `pil`, `np`, `pt` or `latent`.
            return_dict: return a `VideoElevatorOutput`, else a tuple.
            callback_on_step_end: `callback(pipe, step, timestep, tensors) -> tensors` after each
                step, as in diffusers; frames are the batch axis of `latents` there.
            callback_on_step_end_tensor_inputs: which tensors it gets.
            decode_chunk_size: frames decoded at once; all by default, in averages along the motion
                eight.

        Raises:
            CheckError: an argument cannot work; told before anything runs.
        """
        numbers = self._preset(preset)
        steps = given_or(num_inference_steps, numbers.steps)
        guidance = given_or(guidance_scale, numbers.guidance)
        clips, negatives = clips_and_negatives(prompt, negative_prompt, prompt_embeds)
        if init is None and strength is not None:
            raise CheckError(["strength says how far to leave a clip; give init=... with it"])
        strength = 1.0 if init is None else given_or(strength, STRENGTH)
        first = first_step(strength, steps)
        frames = given_or(num_frames, numbers.frames) if latents is None else latents.shape[2]
        if init is not None:
            init, frames = frames_of(init, num_frames if latents is None else frames)
        size = frame_size(self.unet, self.vae_scale_factor, clips, height, width, latents)
        if isinstance(init, Tensor):
            given = (height, width) if latents is None else size
            size = frame_size(self.unet, self.vae_scale_factor, clips, *given, init)
        weight = given_or(shared_noise, numbers.shared_noise)
        require(
            size,
            self.vae_scale_factor * self._smallest_step(),
            frames=frames,
            steps=steps,
            shared_noise=weight,
            output_type=output_type,
            decode_chunk_size=decode_chunk_size,
            at_once=max(call.frames for call in calls_of(video_patches, Call("T2V", 1, frames))),
            longest=getattr(self.video_unet.config, "motion_max_seq_length", None),
        )
        height, width = size

        composed = self.recipe(
            prompt,
            negative_prompt,
            num_inference_steps=steps,
            video_guidance_scale=video_guidance_scale,
            strength=strength,
            preset=numbers,
            refine=refine,
            t2v_steps=t2v_steps,
            lowpass=lowpass,
            fast=fast,
            eta=eta,
            hook=hook,
            video_patches=video_patches,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            video_prompt_embeds=video_prompt_embeds,
            negative_video_prompt_embeds=negative_video_prompt_embeds,
            decode_chunk_size=decode_chunk_size,
        )
        t2i, device = self.t2i, self._execution_device
        text, against = t2i.encode_prompt(
            None if prompt_embeds is not None else prompt,
            device,
            1,
            True,
            negatives if clips > 1 else negatives[0],
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        assert against is not None  # guidance was asked for
        if latents is None:
            factor, channels = self.vae_scale_factor, self.unet.config.in_channels
            shape = (clips, channels, frames, height // factor, width // factor)
            latents = mixed_noise(shape, weight, generator, device=device, dtype=text.dtype)
        per_frame = None
        if isinstance(generator, list):
            per_frame = [one for one in generator for _ in range(frames)]

        def callback(
            view: Any, index: int, timestep: Any, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            assert callback_on_step_end is not None
            return callback_on_step_end(self, index, timestep, tensors)

        if init is not None and first:
            clean = init_latents(self.vae, init, clips, size, device, decode_chunk_size)
            latents = noised(clean, latents.to(device), self.scheduler, steps, first)
        flat = rearrange(latents, "b c f h w -> (b f) c h w")
        view: Any = t2i
        start: dict[str, Any] = {"latents": flat, "height": height, "width": width}
        if first:
            view, start = self._continued(), {"image": flat, "strength": strength}
        with attach(view, composed.hook, composed.patches, frames=frames):
            sampled = view(
                **start,
                prompt_embeds=text.repeat_interleave(frames, 0),
                negative_prompt_embeds=against.repeat_interleave(frames, 0),
                num_inference_steps=steps,
                guidance_scale=guidance,
                eta=eta,
                generator=per_frame or generator,
                output_type="latent",
                callback_on_step_end=callback if callback_on_step_end else None,
                callback_on_step_end_tensor_inputs=list(callback_on_step_end_tensor_inputs),
            ).images
        made = rearrange(sampled, "(b f) c h w -> b c f h w", f=frames)
        video: Any = made if output_type == "latent" else self._decode(made, decode_chunk_size)
        if output_type != "latent":
            video = self.video_processor.postprocess_video(video, output_type)
        self.maybe_free_model_hooks()
        return VideoElevatorOutput(frames=video) if return_dict else (video,)

    def _decode(self, latents: Latent, chunk: int | None) -> Float[Tensor, "b 3 f H W"]:
        """Decode frame by frame with the T2I's VAE, `chunk` frames at once; values in [-1, 1]."""
        frames = latents.shape[2]
        flat = rearrange(latents, "b c f h w -> (b f) c h w") / self.vae.config.scaling_factor
        parts = [self.vae.decode(part).sample for part in flat.split(chunk or len(flat))]
        return rearrange(torch.cat(parts).float(), "(b f) c h w -> b c f h w", f=frames)

    def _preset(self, preset: str | Preset | None) -> Preset:
        return preset_for(self.preset if preset is None else preset)

    def _smallest_step(self) -> int:
        """How often both networks halve a latent: its sides must be multiples of that."""
        halvings = (len(net.config.down_block_types) - 1 for net in (self.unet, self.video_unet))
        return int(2 ** max(halvings))
