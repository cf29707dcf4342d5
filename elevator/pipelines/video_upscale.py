"""Upscale-A-Video as one object: a clip in, a larger one out."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import PIL.Image
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from elevator.attach import attach
from elevator.combine import chain, identity
from elevator.errors import CheckError, CheckpointError
from elevator.filters import DIS, Flow, FlowEstimator, adain, wavelet
from elevator.hook import Hook
from elevator.hosts.pipeline import seeds_of
from elevator.hosts.scheduler import is_hooked
from elevator.latent import Latent, publish_frames
from elevator.models import TemporalUNet, VideoVAE
from elevator.noise import Key, KeyedNoise, Noise, StreamedNoise
from elevator.patch import Patch
from elevator.pipelines.arguments import given_or
from elevator.pipelines.saved import load_saved
from elevator.pipelines.upscale_call import (
    DECODED,
    SMALLEST,
    Clip,
    PublishedNoise,
    SolverNoise,
    UpscaleCall,
    at_least,
    cut_flow,
    pixels,
    scaled_tile,
    within,
)
from elevator.pipelines.views import Views
from elevator.recipes import Recipe, UpscalePreset, upscale_a_video, upscale_preset_for
from elevator.video.windows import (
    PublishedTile,
    Tile,
    published_tiles,
)

__all__ = ["VideoUpscaleOutput", "VideoUpscalePipeline"]

Arrangement: TypeAlias = Literal["smooth", "published"]
Colour: TypeAlias = Literal["none", "adain", "wavelet"]


@dataclass
class VideoUpscaleOutput(BaseOutput):
    """What a call returns.

    Attributes:
        frames: by `output_type`: `pil` lists of images per clip; `np` (b, f, H, W, 3) and `pt`
            (b, f, 3, H, W) in [0, 1]; `latent` (b, c, f, h, w).
    """

    frames: list[list[PIL.Image.Image]] | NDArray[np.float32] | Tensor


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
        from transformers import CLIPTextModel, CLIPTokenizer

        root, name = Path(folder).expanduser(), "vae_video" if video_vae else "vae_3d"
        parts: dict[str, Any] = {
            "text_encoder": CLIPTextModel,
            "tokenizer": CLIPTokenizer,
            "low_res_scheduler": DDPMScheduler,
            "scheduler": DDIMScheduler,
        }
        missing = [part for part in (*parts, "unet", "vae") if not (root / part).is_dir()]
        if missing:
            raise CheckpointError(
                f"{root} is no published Upscale-A-Video: it has no {', '.join(missing)}; give the "
                "folder upscale_a_video that was downloaded, or load a saved pipeline with "
                "from_pretrained"
            )
        try:
            loaded = {
                part: kind.from_pretrained(root / part, local_files_only=True)
                for part, kind in parts.items()
            }
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{root} cannot be loaded: {error}") from error
        unet = TemporalUNet.from_published(
            _weights(root / "unet", "unet_video"), root / "unet" / "unet_video_config.json"
        )
        vae = VideoVAE.from_published(
            _weights(root / "vae", name), root / "vae" / f"{name}_config.json"
        )
        loaded["text_encoder"] = loaded["text_encoder"].to(dtype)
        # torch's own `to`: diffusers' warns of every dtype.
        return cls(vae=vae, unet=nn.Module.to(unet, dtype), **loaded)

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

        Raises:
            CheckError: there is no text encoder.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise CheckError(
                [
                    "this pipeline has no text encoder; give prompt_embeds, and with guidance "
                    "negative_prompt_embeds"
                ]
            )
        texts = [prompt] * clips if isinstance(prompt, str) else list(prompt)
        texts = [self.maybe_convert_prompt(text, self.tokenizer) for text in texts]
        ids = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(ids.to(self._execution_device))[0]

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
        words, against = _words(numbers, prompt, negative_prompt)
        rows = self.encode_prompt(words, clips)
        if given_or(guidance_scale, numbers.guidance) <= 1:
            return rows, None
        return rows, self.encode_prompt(against, clips)

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
        frames: Clip,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        guidance_scale: float | None = None,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        *,
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
            negative_prompt: what to avoid; the preset's by default.
            guidance_scale: any number; 1 or less runs without guidance, at half the cost.
            noise_level: step of the low-resolution noise, 0 to 350: more is more made up.
            num_inference_steps: sampling steps.
            preset: `default`, `aigc`, `old-video`, `old-movie`, `animation` or numbers of your
                own; the pipeline's by default. Arguments given beside it override it.
            propagate: loop indices where clean estimates are propagated, 0 (noisiest) to the number
                of steps less one; () for none. The preset's are scaled to the steps.
            flow: estimator for propagation, or the flow of these frames; OpenCV's DIS by default.
                It is estimated once, before the first step and for all windows, tiles and steps: it
                depends on the frames alone and takes a fraction of a step's time, so that to run
                it beside the sampling would gain nothing to speak of.
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
            published=arrangement == "published",
            first_frame=first_frame,
            output=output_type,
            callback=callback_on_step_end,
            callback_inputs=tuple(callback_on_step_end_tensor_inputs),
        )
        low = pixels(frames).to(self._execution_device)
        self._require(call, low, colour, arrangement, latents, generator)
        clips, (height, width) = len(low), low.shape[-2:]
        low = at_least(low, SMALLEST)
        latents = None if latents is None else at_least(latents, SMALLEST)
        text = self._text(
            call, clips, numbers, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds
        )
        self._interrupt = False
        source = self._noise(noise, generator, published=call.published)
        moves = self._flow(low, flow) if call.propagate else None

        if call.published:
            plan = published_tiles(
                low.shape[-2], low.shape[-1], given_or(tile, 256), always=tile is not None
            )
            if not plan:
                raise CheckError(
                    [
                        f"the published tiles of {tile} pixels leave nothing of a picture of "
                        f"{low.shape[-2]}x{low.shape[-1]}; give larger ones, or none"
                    ]
                )
        else:
            whole = Tile(range(low.shape[-2]), range(low.shape[-1]))
            plan = [PublishedTile(whole, whole)]
        factor = 1 if output_type == "latent" else self.scale
        made: Tensor | None = None
        progress: Any = self.progress_bar
        with progress(total=steps * len(plan)) as bar:
            for seen, kept in plan:
                recipe = self.recipe(cut_flow(moves, seen), call.propagate, hook, patches)
                start = None if latents is None else seen.cut(latents)
                part = self._sample(
                    seen.cut(low), text, call, recipe, source, generator, start, bar.update
                )
                if call.output != "latent":
                    part = self._decode(part, seen.cut(low), call)
                if made is None:
                    made = part.new_zeros((*part.shape[:3], *(factor * n for n in low.shape[-2:])))
                inside = Tile(*(within(a, b, factor) for a, b in zip(kept, seen, strict=True)))
                scaled_tile(kept, factor).cut(made).copy_(inside.cut(part))
        assert made is not None
        video: Any = made[..., : factor * height, : factor * width]
        if output_type != "latent":
            video = self._coloured(video, low[..., :height, :width], colour)
            video = self.video_processor.postprocess_video(video, output_type)
        self.maybe_free_model_hooks()
        return VideoUpscaleOutput(frames=video) if return_dict else (video,)

    def recipe(
        self,
        flow: Flow | None,
        propagate: Sequence[int],
        hook: Hook[Any] | None = None,
        patches: Sequence[Patch] = (),
    ) -> Recipe:
        """The hook and the patches a call with these arguments attaches; see `__call__`."""
        own = identity() if flow is None else upscale_a_video(flow, propagate).hook
        return Recipe(own if hook is None else chain(own, hook), tuple(patches))

    # --- before -----------------------------------------------------------------------------------

    def _require(
        self,
        call: UpscaleCall,
        low: Tensor,
        colour: str,
        arrangement: str,
        latents: Tensor | None,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> None:
        """Refuse arguments that cannot work, all at once.

        Raises:
            CheckError: a number out of range, a word that is unknown, sizes that do not fit.
        """
        problems = list(call.problems(low.shape[2]))
        for name, word, known in (
            ("colour", colour, get_args(Colour)),
            ("arrangement", arrangement, get_args(Arrangement)),
            ("output_type", call.output, ("pil", "np", "pt", "latent")),
        ):
            if word not in known:
                problems.append(f"{name} {word!r} is unknown; use one of {', '.join(known)}")
        unknown = [
            name for name in call.callback_inputs if name not in self._callback_tensor_inputs
        ]
        if unknown:
            problems.append(
                f"callbacks can be given {' and '.join(self._callback_tensor_inputs)}, not "
                f"{', '.join(unknown)}"
            )
        shape = self._shape(low)
        if latents is not None and tuple(latents.shape) != shape:
            problems.append(
                f"latents of shape {tuple(latents.shape)} do not fit the frames; give {shape}"
            )
        if isinstance(generator, list) and len(generator) != len(low):
            problems.append(
                f"{len(generator)} generators were given for {len(low)} clips; give one, or one "
                "per clip"
            )
        trained = self.scheduler.config.get("num_train_timesteps", call.steps)
        if call.steps > trained:
            problems.append(
                f"num_inference_steps is {call.steps}, but the {type(self.scheduler).__name__} has "
                f"{trained} steps; give that many at most (30 are usual)"
            )
        if hasattr(self.scheduler, "noise_sampler"):
            problems.append(
                f"{type(self.scheduler).__name__} draws noise of its own, which no seed and no "
                "frame has a say in; switch the solver (DPMSolverMultistepScheduler with "
                'algorithm_type="sde-dpmsolver++" is one of its kind)'
            )
        if call.propagate and is_hooked(self.scheduler):
            problems.append(
                "a hook is attached to this pipeline, which attaches propagation itself; give that "
                "hook as hook=..., or propagate=() and attach recipes.upscale_a_video with it"
            )
        if problems:
            raise CheckError(problems)

    def _shape(self, low: Tensor) -> tuple[int, int, int, int, int]:
        clips, _, frames, height, width = low.shape
        return clips, self.vae.config.latent_channels, frames, height, width

    def _text(
        self,
        call: UpscaleCall,
        clips: int,
        numbers: UpscalePreset,
        prompt: str | list[str] | None,
        negative: str | list[str] | None,
        embeds: Tensor | None,
        negative_embeds: Tensor | None,
    ) -> Tensor:
        """Rows of the network's batch: with guidance the negative prompts, then the prompts.

        Raises:
            CheckError: not one prompt, or row of embeddings, per clip.
        """
        words, against = _words(numbers, prompt, negative)
        for name, one in (
            (
                "prompts",
                None if embeds is not None else [words] if isinstance(words, str) else words,
            ),
            ("negative prompts", [against] if isinstance(against, str) else against),
            ("rows of prompt_embeds", embeds),
            ("rows of negative_prompt_embeds", negative_embeds),
        ):
            if one is not None and len(one) not in (1, clips):
                raise CheckError(
                    [f"{len(one)} {name} for {clips} clips; give one, or one per clip"]
                )
        rows = self.encode_prompt(words, clips) if embeds is None else embeds
        rows = rows.expand(clips, -1, -1)
        if not call.guided:
            return rows
        if negative_embeds is None:
            negative_embeds = self.encode_prompt(against, clips)
        return torch.cat([negative_embeds.expand(clips, -1, -1), rows])

    def _noise(
        self,
        noise: Noise | torch.Generator | None,
        generator: torch.Generator | list[torch.Generator] | None,
        *,
        published: bool,
    ) -> Noise:
        """Where all noise of the call comes from."""
        if isinstance(noise, torch.Generator):
            return StreamedNoise(noise)
        if noise is not None:
            return noise
        if published and isinstance(generator, torch.Generator):
            return PublishedNoise(generator)
        seeds = seeds_of(generator)
        return KeyedNoise(seeds or (int(torch.randint(2**62, ())),))

    def _flow(self, low: Float[Tensor, "b 3 f h w"], flow: FlowEstimator | Flow | None) -> Flow:
        """The clip's flow, once for all tiles and steps."""
        if isinstance(flow, Flow):
            return flow.resize(*low.shape[-2:])
        estimator: FlowEstimator = DIS() if flow is None else flow
        return estimator(low.float())

    # --- sampling ---------------------------------------------------------------------------------

    def _sample(
        self,
        low: Float[Tensor, "b 3 f h w"],
        text: Float[Tensor, "rows n d"],
        call: UpscaleCall,
        recipe: Recipe,
        noise: Noise,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Latent | None,
        advance: Callable[[], Any],
    ) -> Latent:
        """Clean latents of a clip, scaled as the network sees them; float32."""
        device, shape = low.device, self._shape(low)
        frames = shape[2]
        drawn = noise(Key(0, (), "low_res", call.first_frame), low.shape, device)
        level = torch.tensor([call.level], dtype=torch.long, device=device)
        noisy = self.low_res_scheduler.add_noise(low.float(), drawn, level)
        views = call.views(shape)
        labels = level if call.published and frames <= 8 else level.expand(len(text))
        draws, more = self._stepping(noise, call.first_frame)

        with ExitStack() as undo:
            undo.enter_context(publish_frames(frames))
            if recipe.hook != identity() or recipe.patches:
                undo.enter_context(
                    attach(self, recipe.hook, recipe.patches, frames=frames, noise=noise)
                )
            noised = self.prepare_latents(
                shape, frames, generator, noise, call.first_frame, latents
            )
            self.scheduler.set_timesteps(call.steps, device=device)
            for index, time in enumerate(self.scheduler.timesteps):
                if self.interrupt:
                    break
                seen = torch.cat([self.scheduler.scale_model_input(noised, time), noisy], dim=1)
                output = self._predict(seen, time, text, labels, call, views)
                draws.step = index
                with draws:
                    noised = self.scheduler.step(output, time, noised, **more).prev_sample
                if call.callback is not None:
                    own = {"latents": noised, "prompt_embeds": text}
                    chosen = {name: own[name] for name in call.callback_inputs}
                    changed = call.callback(self, index, time, chosen) or {}
                    noised = changed.get("latents", noised)
                    text = changed.get("prompt_embeds", text)
                advance()
        return noised

    def _stepping(self, noise: Noise, first_frame: int) -> tuple[SolverNoise, dict[str, Any]]:
        """What a solver that draws noise at every step draws it from: the noise of the call."""
        draws = SolverNoise(noise, first_frame)
        if "generator" not in inspect.signature(self.scheduler.step).parameters:
            return draws, {}
        if isinstance(noise, KeyedNoise):
            return draws, {"generator": draws.generator}
        return draws, {"generator": getattr(noise, "generator", None)}

    def _predict(
        self,
        seen: Float[Tensor, "b i f h w"],
        time: Tensor,
        text: Float[Tensor, "rows n d"],
        labels: Tensor,
        call: UpscaleCall,
        views: Views,
    ) -> Latent:
        """What the network says of noisy latents beside low-resolution frames, guidance inside."""
        dtype = self.unet.dtype
        words, copies = text.to(dtype), len(text) // len(seen)

        def network(part: Tensor) -> Tensor:
            part = torch.cat([part.to(dtype)] * copies)
            return self.unet(part, time, words, class_labels=labels).sample

        output = views.blend(network, seen)
        if not call.guided:
            return output
        against, toward = output.chunk(2)
        return against + call.guidance * (toward - against)

    # --- after ------------------------------------------------------------------------------------

    def _decode(
        self, latents: Latent, low: Float[Tensor, "b 3 f h w"], call: UpscaleCall
    ) -> Float[Tensor, "b 3 f H W"]:
        """Frames of latents in [-1, 1], on the CPU, float32."""
        dtype = self.vae.dtype

        def decode(part: Tensor, seen: Tensor) -> Tensor:
            part = (part / self.vae.config.scaling_factor).to(dtype)
            return self.vae.decode(part, seen.to(dtype), call.strength).sample.clamp(-1, 1)

        views = call.decoding(latents.shape)
        return views.blend(decode, latents, low, factor=self.scale, device=torch.device("cpu"))

    def _coloured(
        self, video: Float[Tensor, "b 3 f H W"], low: Float[Tensor, "b 3 f h w"], colour: str
    ) -> Float[Tensor, "b 3 f H W"]:
        """The clip with its original's colours, a frame at a time."""
        if colour == "none":
            return video
        correct = adain if colour == "adain" else wavelet
        for frame in range(video.shape[2]):
            original = low[:, :, frame].to(video)
            reference = interpolate(original, scale_factor=self.scale, mode="bicubic")
            video[:, :, frame] = correct(video[:, :, frame], reference)
        return video


def _words(
    numbers: UpscalePreset, prompt: str | list[str] | None, negative: str | list[str] | None
) -> tuple[str | list[str], str | list[str]]:
    """Prompts with the words of quality, and what to avoid; one string for all clips, or a list."""
    given = [prompt or ""] if isinstance(prompt, str) or prompt is None else prompt
    words = [", ".join(filter(None, (one, numbers.quality))) for one in given]
    against = numbers.negative if negative is None else negative
    return words[0] if len(words) == 1 else words, against


def _weights(folder: Path, name: str) -> Path:
    """The published file of a network, or its safetensors where somebody converted it."""
    safe = folder / f"{name}.safetensors"
    return safe if safe.is_file() else folder / f"{name}.bin"
