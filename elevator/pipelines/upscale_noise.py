"""Where all noise of a call of `VideoUpscalePipeline` comes from."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from elevator.hosts.pipeline import seeds_of
from elevator.latent import Latent
from elevator.noise import Key, KeyedNoise, Noise, StreamedNoise

__all__ = ["SolverNoise", "noise_of_call"]


def noise_of_call(
    noise: Noise | torch.Generator | None,
    generator: torch.Generator | list[torch.Generator] | None,
    *,
    published: bool,
) -> Noise:
    """The noise of a call with these arguments, which `VideoUpscalePipeline.__call__` documents.

    Args:
        noise: as for a call.
        generator: as for a call.
        published: whether the arrangement is the published one.
    """
    if isinstance(noise, torch.Generator):
        return StreamedNoise(noise)
    if noise is not None:
        return noise
    if published and isinstance(generator, torch.Generator):
        return _PublishedNoise(generator)
    seeds = seeds_of(generator)
    return KeyedNoise(seeds or (int(torch.randint(2**62, ())),))


class _PublishedNoise:
    """Noise in the order and layout the reference implementation draws it.

    The generator advances.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(self, key: Key, shape: Sequence[int], device: torch.device) -> Latent:
        own = self.generator.device
        return torch.randn(tuple(shape), generator=self.generator, device=own).to(device)


class SolverNoise(TorchFunctionMode):
    """Within it, what a solver draws from `generator` is noise by seed, step and absolute frame.

    Solvers of diffusers that draw noise at every step are told a generator only, of which they draw
    all clips and frames in a row: a clip beside another, or a stretch from the middle of a clip,
    would get other noise than by itself. Draws from other generators, such as a hook's within the
    step, stay as they are.

    Args:
        noise: where to draw from instead.
        first_frame: absolute index of the first frame.

    Attributes:
        generator: to be told to the solver; it is never drawn from.
        step: index of the sampling step.
    """

    def __init__(self, noise: Noise, first_frame: int) -> None:
        super().__init__()
        self.noise, self.first_frame = noise, first_frame
        self.generator = torch.Generator()
        self.step = 0

    def told(self, scheduler: Any) -> dict[str, Any]:
        """What a solver that draws noise at every step is told to draw it from."""
        if "generator" not in inspect.signature(scheduler.step).parameters:
            return {}
        if isinstance(self.noise, KeyedNoise):
            return {"generator": self.generator}
        return {"generator": getattr(self.noise, "generator", None)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.randn or kwargs.get("generator") is not self.generator:
            return func(*args, **kwargs)
        device = torch.device(kwargs.get("device") or "cpu")
        key = Key(self.step, (), "solver", self.first_frame)
        return self.noise(key, tuple(args[0]), device).to(kwargs.get("dtype") or torch.float32)
