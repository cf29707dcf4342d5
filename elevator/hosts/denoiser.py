"""A diffusers pipeline's network as a `Denoiser`, with guidance inside."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from elevator.denoise import Call, record_call
from elevator.errors import CheckError
from elevator.hosts.caches import apart_from
from elevator.hosts.called import CalledPipeline, called
from elevator.hosts.coefficients import (
    family_of,
    parametrisation_of,
    run_schedule,
    training_schedule,
)
from elevator.hosts.facts import facts_of
from elevator.hosts.layouts import FRAMES_IN_BATCH, from_host, to_host
from elevator.hosts.pipeline import kind_of, network_of
from elevator.latent import Latent, publish_frames
from elevator.level import Level, Prediction, read_output
from elevator.patch import Patch, calls_of
from elevator.schedule import Schedule

__all__ = ["PipelineDenoiser", "denoiser"]


@dataclass(frozen=True, eq=False)
class PipelineDenoiser:
    r"""A pipeline's network with classifier-free guidance.

    $m = m_\varnothing + g\,(m_p - m_\varnothing)$ (Ho & Salimans 2022), one batched call; for
    $g = 1$ only $m_p$ is computed.

    Attributes:
        pipeline: where network and scheduler configuration come from; neither is changed.
        prompts: text embeddings, one row per prompt: `(n, tokens, width)`.
        negatives: embeddings of the negative prompts, same shape; None where guidance is 1.
        guidance: guidance scale g.
        anchor_every: frames sharing one anchor in an inflated network; None: all of the clip.
        name: what `el.plan` calls it.
        patches: changes inside the network while it is called from here.
    """

    pipeline: Any
    prompts: Float[Tensor, "n tokens width"]
    negatives: Float[Tensor, "n tokens width"] | None
    guidance: float
    anchor_every: int | None
    name: str
    patches: tuple[Patch, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<denoiser {self.name!r} of {type(self.pipeline).__name__}, guidance {self.guidance}>"
        )

    @cached_property
    def schedule(self) -> Schedule:
        """Every level the network was trained at."""
        return training_schedule(self.pipeline.scheduler)

    def walk(self, steps: int) -> Schedule:
        """The levels the pipeline's scheduler visits in a run of this many steps."""
        scheduler = copy.deepcopy(
            self.pipeline.scheduler
        )  # the original may be in the middle of a run
        scheduler.set_timesteps(steps)
        return run_schedule(scheduler)

    def __call__(self, noisy: Latent, level: Level) -> Prediction:
        """Predict clean latent and noise; see `elevator.denoise.Denoiser`."""
        timestep = level.timestep
        if timestep is None:
            timestep = self.schedule.match(level).timestep
        assert timestep is not None
        scale = self.schedule.scale(level)
        own = Level(level.alpha * scale, level.sigma * scale, timestep)
        scaled = noisy.float() * scale
        output = self._guided(scaled, timestep)
        return read_output(output, scaled, own, parametrisation_of(self.pipeline.scheduler))

    def _guided(self, noisy: Latent, timestep: Tensor) -> Latent:
        texts = [_rows(self.prompts, noisy.shape[0])]
        if self.negatives is not None:
            texts.insert(0, _rows(self.negatives, noisy.shape[0]))
        output = self._forward(noisy.repeat(len(texts), 1, 1, 1, 1), timestep, torch.cat(texts))
        if self.negatives is None:
            return output
        negative, positive = output.float().chunk(2)
        return negative + self.guidance * (positive - negative)

    def _forward(
        self, noisy: Latent, timestep: Tensor, text: Float[Tensor, "n tokens width"]
    ) -> Latent:
        """One call of the network: all rows in one batch."""
        network, frames = self.pipeline.unet, noisy.shape[2]
        kind = _network_kind(self.pipeline)
        facts = facts_of(network)
        sample: Tensor = noisy.to(facts.dtype)
        if kind == "image":
            sample = to_host(sample, FRAMES_IN_BATCH)
        if kind != "video":  # image and motion networks take one row of text per frame
            text = repeat(text, "b l d -> (b f) l d", f=frames)
        per_row = 1 if kind == "image" else frames
        for call in calls_of(self.patches, Call(self.name, sample.shape[0], per_row)):
            record_call(call)
        if noisy.is_meta:
            return torch.empty_like(noisy)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(publish_frames(self.anchor_every or frames))
            stack.enter_context(apart_from(facts.memories))
            for patch in self.patches:
                stack.enter_context(patch.apply(network))
            output: Tensor = network(
                sample,
                _told(timestep, sample.device),
                encoder_hidden_states=text.to(sample.device, sample.dtype),
                return_dict=False,
            )[0]
        if kind == "image":
            output = from_host(output, FRAMES_IN_BATCH, frames)
        return output[:, : noisy.shape[1]]  # a learned variance, if any, is not needed


def _told(timestep: Tensor, device: torch.device) -> Tensor:
    whole = timestep.round()
    told = whole.long() if bool(whole == timestep) else timestep.float()
    return told.to(device)


def _rows(text: Float[Tensor, "n tokens width"], batch: int) -> Float[Tensor, "b tokens width"]:
    if len(text) == batch:
        return text
    if len(text) == 1:
        return text.expand(batch, -1, -1)
    raise CheckError(
        [f"the denoiser was made for {len(text)} prompts, but the clip batch is {batch}; "
         "give it one prompt, or one per clip"]
    )  # fmt: skip


_KINDS = {
    "UNet2DConditionModel": "image",
    "UNet3DConditionModel": "video",
    "UNetMotionModel": "motion",
}


def _network_kind(pipeline: Any) -> str | None:
    """Which kind of U-Net a pipeline has; None if it takes more than latents, time and text."""
    network = getattr(pipeline, "unet", None)
    if getattr(getattr(network, "config", None), "addition_embed_type", None) is not None:
        return None  # Stable Diffusion XL: pooled text and sizes
    names = (cls.__name__ for cls in kind_of(network).__mro__)
    return next((_KINDS[name] for name in names if name in _KINDS), None)


def denoiser(
    pipeline: Any,
    prompt: str | list[str] | None = None,
    *,
    guidance: float = 7.5,
    negative_prompt: str | list[str] | None = None,
    prompt_embeds: Float[Tensor, "n tokens width"] | None = None,
    negative_prompt_embeds: Float[Tensor, "n tokens width"] | None = None,
    anchor_every: int | None = None,
    name: str | None = None,
    patches: Sequence[Patch] = (),
    **call: Any,
) -> PipelineDenoiser | CalledPipeline:
    """Make a pipeline a `Denoiser` for given prompts.

    The U-Nets of Stable Diffusion 1 and 2, ZeroScope and AnimateDiff are called directly; every
    other pipeline is called as a whole and stopped at its step, with its own guidance.

    Args:
        pipeline: a pipeline a hook can be attached to.
        prompt: one prompt, or one per clip.
        guidance: guidance scale; 1 uses the prompt alone, in half the work.
        negative_prompt: as `prompt`; None is the empty prompt. Not used where guidance is 1.
        prompt_embeds: embeddings instead of `prompt`.
        negative_prompt_embeds: embeddings instead of `negative_prompt`.
        anchor_every: frames that share one anchor frame where the network is inflated; None: all
            frames of the clip.
        name: what `el.plan` calls it; the network's class by default.
        patches: changes inside the network while it is called from here, such as `FrameWindows`
            for clips longer than a T2V was trained on.
        **call: further arguments of the call of a pipeline that is called as a whole, such as
            `pooled_prompt_embeds`.

    Raises:
        CheckError: the scheduler is unknown, a patch cannot change the network, no prompt was
            given, or the pipeline cannot be called like that.
    """
    family_of(pipeline.scheduler)
    network: Any = network_of(pipeline)
    problems = [problem for patch in patches for problem in patch.check(network)]
    if problems:
        raise CheckError(problems)
    if _network_kind(pipeline) is None:
        return called(
            pipeline,
            guidance,
            name,
            patches,
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            **call,
        )
    if call:
        raise CheckError(
            [f"denoisers of {kind_of(pipeline.unet).__name__} take no {', '.join(call)}"]
        )
    if (prompt is None) == (prompt_embeds is None):
        raise CheckError(["a denoiser needs a prompt or prompt_embeds, one of the two"])
    guided = guidance != 1
    with torch.no_grad():
        prompts, negatives = pipeline.encode_prompt(
            prompt,
            pipeline._execution_device,
            1,
            guided,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )
    return PipelineDenoiser(
        pipeline=pipeline,
        prompts=prompts,
        negatives=negatives if guided else None,
        guidance=guidance,
        anchor_every=anchor_every,
        name=name or kind_of(pipeline.unet).__name__,
        patches=tuple(patches),
    )
