"""Where hooks draw noise from: keyed by default, streamed or recorded on request.

Keyed noise depends only on (seed, step, place of the hook in the chain, name, absolute frame), so
windows, resumed and reordered work see the same noise, and no generator of the host advances. A
hook by itself has the place of a chain's first, so that hooks chained on behind it change none of
its noise.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from elevator.errors import HookError
from elevator.latent import Latent

__all__ = [
    "Key",
    "KeyedNoise",
    "Noise",
    "RecordedNoise",
    "StreamedNoise",
    "global_seed",
    "noise_of_run",
    "one_per_clip",
    "seed_of",
]


class Key(NamedTuple):
    """Which noise is wanted.

    Attributes:
        step: index of the sampling step (0 = noisiest).
        place: position of the hook in nested chains, outermost first.
        name: what the noise is for, unique within the hook and step.
        first_frame: absolute index of the first frame of the latent.
    """

    step: int
    place: tuple[int, ...]
    name: str
    first_frame: int = 0


@runtime_checkable
class Noise(Protocol):
    """A source of standard normal latents."""

    def __call__(self, key: Key, shape: Sequence[int], device: torch.device) -> Latent:
        """Draw noise of shape `(b, c, f, h, w)`, float32, on `device`."""
        ...


def _integer(*parts: object) -> int:
    """A 63-bit integer that depends on the parts and on nothing else (no salted hashes)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_of(generator: torch.Generator) -> int:
    """A seed from a generator's present state; the generator does not advance.

    Two generators in the same state give the same seed; one that was drawn from gives another.
    """
    state = generator.get_state().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "big") >> 1


def one_per_clip(
    generator: torch.Generator | Sequence[torch.Generator] | None, clips: int
) -> list[torch.Generator | None]:
    """The generator each clip's initial noise is drawn from, in order; None is the global one.

    Args:
        generator: one for all clips, or one per clip.
        clips: how many clips are drawn.

    Raises:
        ValueError: the generators are not one per clip.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * clips
    if len(generator) != clips:
        raise ValueError(
            f"{len(generator)} generators were given for {clips} clips; give one per clip"
        )
    return list(generator)


def global_seed() -> int:
    """A seed from the state of torch's global generators, CUDA's too where it is in use.

    Neither advances. Pipelines without a generator draw their latents from one of them, so two runs
    get two seeds, and the same two after the same `torch.manual_seed`.
    """
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return _integer(*(state.numpy().tobytes() for state in states))


@dataclass(frozen=True)
class KeyedNoise:
    """Noise as a function of its key, drawn on the CPU so that every device sees the same.

    Attributes:
        seeds: one seed per batch row; rows past the end count on from the last one.
    """

    seeds: tuple[int, ...] = (0,)

    def __call__(self, key: Key, shape: Sequence[int], device: torch.device) -> Latent:
        """Draw noise of shape `(b, c, f, h, w)`."""
        b, c, f, h, w = shape
        if device.type == "meta":
            return torch.empty(b, c, f, h, w, device=device)
        generator = torch.Generator()
        noise = torch.empty(b, c, f, h, w)
        place = key.place
        while place and place[-1] == 0:
            place = place[:-1]
        for row in range(b):
            seed = self.seeds[min(row, len(self.seeds) - 1)]
            extra = max(0, row - len(self.seeds) + 1)
            for frame in range(f):
                absolute = key.first_frame + frame
                generator.manual_seed(_integer(seed, extra, key.step, place, key.name, absolute))
                noise[row, :, frame] = torch.randn(c, h, w, generator=generator)
        return noise.to(device)


@dataclass(frozen=True, eq=False)
class StreamedNoise:
    """Noise from one generator in the order of the draws, as published sampling loops do.

    Frames are drawn as the batch axis, `(b f) c h w`. The generator advances.
    """

    generator: torch.Generator

    def __call__(self, key: Key, shape: Sequence[int], device: torch.device) -> Latent:
        """Draw noise of shape `(b, c, f, h, w)`."""
        b, c, f, h, w = shape
        if device.type == "meta":
            return torch.empty(b, c, f, h, w, device=device)
        drawn = torch.randn(b * f, c, h, w, generator=self.generator, device=self.generator.device)
        return rearrange(drawn, "(b f) c h w -> b c f h w", f=f).to(device)


@dataclass(frozen=True, eq=False)
class RecordedNoise:
    """Noise given as tensors: by the (step, name) it belongs to, or in the order of the draws.

    Attributes:
        by_key: tensors `(b f) c h w` or `b c f h w`; looked up as `(step, name)`.
        in_order: tensors used, one a draw, where `by_key` has none.
    """

    by_key: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    in_order: list[Tensor] = field(default_factory=list)

    def __call__(self, key: Key, shape: Sequence[int], device: torch.device) -> Latent:
        """Give the recorded noise as `(b, c, f, h, w)`."""
        if (key.step, key.name) in self.by_key:
            drawn = self.by_key[key.step, key.name]
        elif self.in_order:
            drawn = self.in_order.pop(0)
        else:
            raise HookError(
                f"no noise was recorded for {key}; record a tensor of shape {tuple(shape)}"
            )
        if drawn.ndim == 4:
            drawn = rearrange(drawn, "(b f) c h w -> b c f h w", f=shape[2])
        return _float(drawn, device)


def _float(noise: Float[Tensor, "b c f h w"], device: torch.device) -> Latent:
    return noise.to(device=device, dtype=torch.float32)


def noise_of_run(
    noise: Noise | torch.Generator | None,
    seeds: Sequence[int],
    runs: int,
    shape: tuple[int, int, int, int, int],
) -> Noise:
    """The source a run draws from, as asked for.

    Args:
        noise: a source; a generator to stream from; None for noise keyed by `seeds`.
        seeds: of the host's generators, one per clip or one per frame; without any, every run gets
            new noise from the state of the global generator, which is only read.
        runs: runs so far, which tells two runs from the same global state apart.
        shape: of the run's latents.
    """
    if isinstance(noise, torch.Generator):
        return StreamedNoise(noise)
    if noise is not None:
        return noise
    own = tuple(seeds) or (global_seed() + runs,)
    clips, _, length, _, _ = shape
    # Image pipelines take one generator per image: a clip's is that of its first frame.
    return KeyedNoise(own[::length] if len(own) == clips * length else own)
