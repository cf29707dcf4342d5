"""Upscale-A-Video as one object: a clip in, a larger one out."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.video_processor import VideoProcessor
from jaxtyping import Float
from torch import Tensor

from elevator.combine import chain, identity
from elevator.errors import CheckError
from elevator.filters import Flow, FlowEstimator
from elevator.hook import Hook
from elevator.latent import Latent
from elevator.noise import Key, Noise
from elevator.patch import Patch
from elevator.pipelines.arguments import given_or
from elevator.pipelines.motion import flow_of_call
from elevator.pipelines.output import VideoUpscaleOutput
from elevator.pipelines.published_tree import load_published
from elevator.pipelines.saved import load_saved
from elevator.pipelines.upscale_call import (
    DECODED,
    SMALLEST,
    Arrangement,
    Clip,
    Colour,
    UpscaleCall,
    at_least,
    pixels,
    require,
)
from elevator.pipelines.upscale_noise import noise_of_call
from elevator.pipelines.upscale_sampling import Sources, coloured, enlarged
from elevator.pipelines.upscale_text import Text, encoded
from elevator.recipes import Recipe, UpscalePreset, upscale_a_video, upscale_preset_for

__all__ = ["VideoUpscaleOutput", "VideoUpscalePipeline"]


class VideoUpscalePipeline(DiffusionPipeline, TextualInversionLoaderMixin):
    r"""Upscale-A-Video (Zhou et al. 2024, arXiv 2312.06640): a text-guided upscaler of clips.

    The low-resolution frames, noised by `noise_level`, lie beside the noisy latents, pixel on
    pixel; the autoencoder's factor is how much larger the clip gets. The network sees windows of
    8 frames, and tiles of large pictures; what it says is blended before the sampler, and hooks,
    see it, so there is one clip, whatever it was cut into.

    **Noise** is keyed by the clip's seed, the absolute index of a frame and the place in it: all
    windows, tiles and chunks of a long clip see the same. A generator's state is read and it does
    not advance, so the same generator gives the same clip again; without one, each call draws a
    seed from torch's global generator.

    `arrangement="published"` does what the reference implementation does, to compare with it: its
    windows (some twice, weighed by order), tiles sampled one by one and cut hard, decoding in
    threes, noise in the order it draws it.

    Args:
        vae: a `VideoVAE`.
        text_encoder: a CLIP text model; its last hidden state is the prompt.
        tokenizer: its tokenizer.
        unet: a `TemporalUNet`.
        low_res_scheduler: whose noise the low-resolution frames get; DDPM.
        scheduler: the sampler; DDIM in the paper. Any other of diffusers can be put in.
        preset: name of the numbers a call starts from; see `recipes.UPSCALE_PRESETS`.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _callback_tensor_inputs = ("latents", "prompt_embeds")
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer"]

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        low_res_scheduler: Any,
        scheduler: Any,
        preset: str = "default",
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            low_res_scheduler=low_res_scheduler,
            scheduler=scheduler,
        )
        self.register_to_config(preset=preset)
        self.vae_scale_factor = vae.factor
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)
        self._interrupt = False

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> "VideoUpscalePipeline":
        """Load a pipeline that `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: the folder, or a hub id.
            dtype: of the U-Net and the text encoder; the autoencoder stays float32, as with
                `from_published`.
            **kwargs: passed on to diffusers' `from_pretrained`.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        source, load = pretrained_model_name_or_path, super().from_pretrained
        instead = (
            "give the published tree to VideoUpscalePipeline.from_published, and an image upscaler "
            "to elevator.pipelines.upscalers.load_upscaler"
        )
        # Read as it lies on disk: what was rounded to half precision once stays rounded.
        dtypes = {"default": dtype, "vae": torch.float32}
        return load_saved(cls.__name__, load, source, dtypes, kwargs, instead)

    @classmethod
    def from_published(
        cls,
        folder: str | Path,
        *,
        video_vae: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> "VideoUpscalePipeline":
        """Load the published checkpoint tree.

        `low_res_scheduler/`, `scheduler/`, `text_encoder/` and `tokenizer/` are in diffusers' form;
        `unet/unet_video.bin`, `vae/vae_3d.bin` and `vae/vae_video.bin` have a
        `..._config.json` beside them. Save the result to have all of it as safetensors.

        Args:
            folder: the tree, `upscale_a_video/`.
            video_vae: take the autoencoder that is conditioned on the low-resolution frames.
            dtype: of the U-Net and the text encoder; the autoencoder stays float32.

        Raises:
            CheckpointError: a part is missing or does not fit.
        """
        return cls(**load_published(folder, video_vae=video_vae, dtype=dtype))

    @property
    def scale(self) -> int:
        """How many times larger a clip gets along each side."""
        return int(self.vae_scale_factor)

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are skipped; a callback may set `pipe._interrupt`."""
        return self._interrupt

    def encode_prompt(self, prompt: str | Sequence[str], clips: int) -> Float[Tensor, "b n d"]:
        """The text encoder's last hidden state for a prompt per clip, or one for all.

        What does not fit the tokenizer is cut off.

        Raises:
            CheckError: there is no text encoder.
        """
        return encoded(self, prompt, clips)

    @torch.no_grad()
    def encode_prompts(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        guidance_scale: float | None = None,
        *,
        preset: str | UpscalePreset | None = None,
        clips: int = 1,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"] | None]:
        """What a call with these arguments encodes, for who calls again and again.

        As a call, it warns of words that do not fit.

        Args:
            prompt: as for a call.
            negative_prompt: as for a call.
            guidance_scale: as for a call.
            preset: as for a call.
            clips: how many are made at once.

        Returns:
            `prompt_embeds` and `negative_prompt_embeds`; no second ones without guidance.

        Raises:
            CheckError: there is no text encoder, or the preset is unknown.
        """
        numbers = upscale_preset_for(self.config.preset if preset is None else preset)
        guided = given_or(guidance_scale, numbers.guidance) > 1
        return Text(numbers, prompt, negative_prompt).rows(self, clips, guided=guided)

    def prepare_latents(
        self,
        shape: tuple[int, int, int, int, int],
        num_frames: int,
        generator: torch.Generator | list[torch.Generator] | None,
        noise: Noise,
        first_frame: int,
        latents: Latent | None = None,
    ) -> Latent:
        """Initial latents, float32: given ones, or noise by absolute frame.

        Args:
            shape: (b, c, f, h, w).
            num_frames: f, for who looks on.
            generator: for who looks on; `noise` was made from it.
            noise: where to draw from.
            first_frame: absolute index of the first frame.
            latents: given standard normal noise.
        """
        device = self._execution_device
        if latents is None:
            latents = noise(Key(0, (), "latents", first_frame), shape, device)
        return latents.to(device, torch.float32) * self.scheduler.init_noise_sigma

    @torch.no_grad()
    def __call__(
        self,
        frames: Clip | None = None,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        guidance_scale: float | None = None,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        *,
        image: Any = None,
        preset: str | UpscalePreset | None = None,
        propagate: Sequence[int] | None = None,
        flow: FlowEstimator | Flow | None = None,
        window: int = 8,
        overlap: int = 2,
        tile: int | None = None,
        tile_overlap: int = 64,
        decode_chunk_size: int = DECODED,
        strength: float = 1.0,
        colour: Colour = "none",
        arrangement: Arrangement = "smooth",
        first_frame: int = 0,
        hook: Hook[Any] | None = None,
        patches: Sequence[Patch] = (),
        noise: Noise | torch.Generator | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Float[Tensor, "..."] | None = None,
        prompt_embeds: Float[Tensor, "p n d"] | None = None,
        negative_prompt_embeds: Float[Tensor, "q n d"] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> VideoUpscaleOutput | tuple[Any]:
        """Make a clip larger.

        Args:
            frames: PIL images, or an array (f, h, w, 3) of floats in [0, 1] or of bytes; or a
                tensor (b, 3, f, h, w) in [-1, 1] of one clip or more.
            prompt: what the clip shows, one or one per clip; the preset's words of quality follow.
                What the tokenizer has no room for is cut off; of your own words, with a warning.
            negative_prompt: what to avoid; the preset's by default.
            guidance_scale: any number; 1 or less runs without guidance, at half the cost.
            noise_level: step of the low-resolution noise, 0 to 350: more is more made up.
            num_inference_steps: sampling steps.
            image: what upscalers of pictures call their input; refused, as here it is `frames`.
            preset: `default`, `aigc`, `old-video`, `old-movie`, `animation` or numbers of your
                own; the pipeline's by default. Arguments given beside it override it.
            propagate: loop indices where clean estimates are propagated, 0 (noisiest) to the number
                of steps less one; () for none. The preset's are scaled to the steps.
            flow: estimator for propagation, or the flow of these frames; OpenCV's DIS by default.
                It is estimated once for all windows, tiles and steps. An estimator that computes
                on the CPU (DIS, RAFT that lies there, a function of frames there) works in a thread
                beside the sampling, and the first step that propagates waits for it (of several
                published tiles, the first); any other runs before the first step.
            window: frames the network sees at once.
            overlap: frames two windows share at least, less than `window`.
            tile: side in pixels of a tile of the picture; 320 by default, or the published 256 (and
                64 around it).
            tile_overlap: pixels two tiles share at least, less than `tile`.
            decode_chunk_size: frames decoded at once.
            strength: how much a conditioned autoencoder is held to the low-resolution frames.
            colour: `adain` gives each frame the mean and spread of its enlarged original, `wavelet`
                its coarse colours.
            arrangement: `smooth`, or `published` to compare with the reference implementation,
                whose `window`, `overlap` and `tile_overlap` are fixed.
            first_frame: absolute index of the first frame in a longer clip, for its noise.
            hook: a hook of your own, run after propagation in every step.
            patches: changes inside the U-Net.
            noise: where to draw from instead: recorded noise, or a generator that advances.
            generator: one, or one per clip, which only seeds; it does not advance, but where the
                arrangement is the published one.
            latents: initial noise (b, c, f, h, w) instead of a draw.
            prompt_embeds: text embeddings, one row per clip, instead of `prompt`.
            negative_prompt_embeds: as `prompt_embeds`, of what to avoid.
            output_type: `pil`, `np`, `pt` or `latent`.
            return_dict: return a `VideoUpscaleOutput`, else a tuple.
            callback_on_step_end: `callback(pipe, step, timestep, tensors) -> tensors` after each
                step, as in diffusers; None instead of tensors changes nothing.
            callback_on_step_end_tensor_inputs: which tensors it gets, of `latents` and
                `prompt_embeds`.

        Raises:
            CheckError: an argument cannot work; told before anything runs.
        """
        if image is not None or frames is None:
            raise CheckError(
                [
                    f"{type(self).__name__} takes a clip as frames=..., and no image=...; give PIL "
                    " images, an array (f, h, w, 3) or a tensor (b, 3, f, h, w)"
                ]
            )
        numbers = upscale_preset_for(self.config.preset if preset is None else preset)
        steps = given_or(num_inference_steps, numbers.steps)
        call = UpscaleCall(
            steps=steps,
            guidance=given_or(guidance_scale, numbers.guidance),
            level=given_or(noise_level, numbers.noise_level),
            propagate=tuple(numbers.propagate_at(steps) if propagate is None else propagate),
            window=window,
            overlap=overlap,
            tile=tile,
            tile_overlap=tile_overlap,
            chunk=decode_chunk_size,
            strength=strength,
            colour=colour,
            arrangement=arrangement,
            first_frame=first_frame,
            output=output_type,
            callback=callback_on_step_end,
            callback_inputs=tuple(callback_on_step_end_tensor_inputs),
        )
        low = pixels(frames).to(self._execution_device)
        require(self, call, low, latents, generator)
        clips, (height, width) = len(low), low.shape[-2:]
        low = at_least(low, SMALLEST)
        said = Text(numbers, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        said.require_one_per_clip(clips)
        self._interrupt = False
        with flow_of_call(low, flow, call.propagate) as moves:
            given = Sources(
                text=said.batch(self, clips, guided=call.guided),
                noise=noise_of_call(noise, generator, published=call.published),
                generator=generator,
                latents=None if latents is None else at_least(latents, SMALLEST),
                flow=moves,
                hook=hook,
                patches=patches,
            )
            made = enlarged(self, low, call, given)
        factor = 1 if output_type == "latent" else self.scale
        video: Any = made[..., : factor * height, : factor * width]
        if output_type != "latent":
            video = coloured(video, low[..., :height, :width], colour, self.scale)
            video = self.video_processor.postprocess_video(video, output_type)
        self.maybe_free_model_hooks()
        return VideoUpscaleOutput(frames=video) if return_dict else (video,)

    def recipe(
        self,
        flow: Flow | Future[Flow] | None,
        propagate: Sequence[int],
        hook: Hook[Any] | None = None,
        patches: Sequence[Patch] = (),
    ) -> Recipe:
        """The hook and the patches a call with these arguments attaches; see `__call__`."""
        own = identity() if flow is None else upscale_a_video(flow, propagate).hook
        return Recipe(own if hook is None else chain(own, hook), tuple(patches))
