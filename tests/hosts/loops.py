"""A hand-written sampling loop as a pipeline: the least that hooks can be attached to.

It calls its scheduler as pipelines of diffusers do (inspected signatures, scaled inputs), so every
scheduler can be put through it without a network.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from elevator.combine import stateless
from elevator.hook import Hook, Step
from elevator.hosts.coefficients import supported_schedulers
from elevator.latent import Latent
from tests.builders import ddim

__all__ = ["FRAMES", "LOOPED", "RENOISABLE", "SECOND_ORDER", "Loop", "looking", "scheduler_for"]

LOOPED = tuple(
    name
    for name in supported_schedulers()
    if name not in ("CogVideoXDPMScheduler", "EDMEulerScheduler")
)
"""The schedulers a plain loop can drive; of the other two, pipelines do a part of each step, so
`test_matrix.py` tries them with theirs."""

FRAMES = 3

RENOISABLE = (
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
)
"""The multistep solvers a re-noising rule may be used with."""

SECOND_ORDER = (
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
)


def scheduler_for(name: str, **config: Any) -> Any:
    """Any scheduler on Stable Diffusion's schedule, without the clipping some have by default."""
    import diffusers

    cls = getattr(diffusers, name)
    if name.startswith("FlowMatch"):
        return cls(**config)
    # By keyword: what DDIM's own config marks as a default would be dropped from a dictionary.
    return cls.from_config(ddim().config, **{"clip_sample": False, **config})


def looking(see: Callable[[Latent, Step], object]) -> Hook[Any]:
    """A hook that only looks."""

    def look(clean: Latent, step: Step) -> Latent:
        see(clean, step)
        return clean

    return stateless(look)


def shrink(noisy: Tensor, timestep: Tensor) -> Tensor:
    """A network of no parameters that looks at its input and at the time."""
    time = torch.as_tensor(timestep, dtype=torch.float32) / 1000
    return torch.tanh(noisy.float() * 0.8 + torch.sin(7 * time)).to(noisy.dtype)


class Loop:
    """Samples `(b f) c h w` latents with its scheduler; called as often as wanted."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def __call__(
        self,
        steps: int = 5,
        *,
        model: Callable[[Tensor, Tensor], Tensor] = shrink,
        begin: int = 0,
        seed: int = 0,
        set_timesteps: bool = True,
        dtype: torch.dtype = torch.float32,
        tell: Callable[[Any], None] = lambda result: None,
        **options: Any,
    ) -> list[Tensor]:
        """Every latent, the first one included.

        Args:
            steps: number of steps.
            model: the network, of scaled latents and timestep.
            begin: index of the first step, as image-to-image pipelines have it.
            seed: of the initial noise, and of the generator given to steps that take one.
            set_timesteps: whether to begin with it, as pipelines do.
            dtype: of the latents.
            tell: given what every step returns.
            options: further arguments of the step.
        """
        scheduler = self.scheduler
        if set_timesteps:
            scheduler.set_timesteps(steps)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((2 * FRAMES, 4, 4, 6), generator=generator).to(dtype)
        latents = [noise * float(getattr(scheduler, "init_noise_sigma", 1.0))]
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = generator
        timesteps = scheduler.timesteps
        if begin:
            timesteps = timesteps[begin * getattr(scheduler, "order", 1) :]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(begin * getattr(scheduler, "order", 1))
        for timestep in timesteps:
            scaled = latents[-1]
            if hasattr(scheduler, "scale_model_input"):
                scaled = scheduler.scale_model_input(scaled, timestep)
            result = scheduler.step(model(scaled, timestep), timestep, latents[-1], **options)
            tell(result)
            latents.append(result.prev_sample)
        return latents
