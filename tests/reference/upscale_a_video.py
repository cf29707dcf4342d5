"""The loop of Upscale-A-Video's published pipeline, step by step, to judge ours by.

Everything is written out in the order the method is described in: windows that halve what was
there, frames propagated one by one, chunks of three frames decoded one after the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elevator.filters import Flow, consistent, warp

__all__ = ["upscale"]


def upscale(
    pipe: Any,
    low: Tensor,
    text: Tensor,
    noise: dict[str, Tensor],
    *,
    steps: int,
    guidance: float,
    level: int,
    propagate: tuple[int, ...] = (),
    flow: Flow | None = None,
) -> tuple[list[Tensor], Tensor]:
    """The latents after every step, and the decoded clip in [-1, 1].

    Args:
        pipe: where networks and schedulers are; DDIM predicting v, eta 0.
        low: frames (b, 3, f, h, w) in [-1, 1].
        text: rows of the network's batch, negative first.
        noise: `low_res` and `latents`.
        steps: sampling steps.
        guidance: guided above 1.
        level: noise level of the low-resolution frames.
        propagate: loop indices.
        flow: between the frames.
    """
    signal = pipe.low_res_scheduler.alphas_cumprod[level]
    seen = signal.sqrt() * low + (1 - signal).sqrt() * noise["low_res"]
    products = pipe.scheduler.alphas_cumprod
    stride = 1000 // steps
    latents, after = noise["latents"], []
    for index in range(steps):
        time = (steps - 1 - index) * stride + 1
        here = products[time]
        there = products[time - stride] if time >= stride else products[0]
        v = _windows(pipe.unet, torch.cat([latents, seen], 1), time, text, level)
        if guidance > 1:
            against, toward = v.chunk(2)
            v = against + guidance * (toward - against)
        clean = here.sqrt() * latents - (1 - here).sqrt() * v
        epsilon = here.sqrt() * v + (1 - here).sqrt() * latents
        if index in propagate:
            assert flow is not None
            clean = _propagate(clean, flow)
        latents = there.sqrt() * clean + (1 - there).sqrt() * epsilon
        after.append(latents)
    parts = []
    for start in range(0, low.shape[2], 3):
        z = latents[:, :, start : start + 3] / pipe.vae.config.scaling_factor
        parts.append(pipe.vae.decode(z, low[:, :, start : start + 3]).sample)
    return after, torch.cat(parts, 2).clamp(-1, 1)


def _windows(unet: Any, x: Tensor, time: int, text: Tensor, level: int) -> Tensor:
    frames = x.shape[2]
    x = torch.cat([x] * (len(text) // len(x)))
    label = torch.tensor([level])
    if frames <= 8:
        return unet(x, time, text, class_labels=label).sample
    held: list[Tensor | None] = [None] * frames
    for start in range(0, frames, 6):
        start = min(start, frames - 8)
        said = unet(x[:, :, start : start + 8], time, text, class_labels=label).sample
        for offset in range(8):
            new, old = said[:, :, offset], held[start + offset]
            held[start + offset] = new if old is None else 0.5 * old + 0.5 * new
    return torch.stack([one for one in held if one is not None], 2)


def _propagate(clean: Tensor, flow: Flow) -> Tensor:
    frames = list(clean.unbind(2))
    forward, backward = flow.forward.unbind(2), flow.backward.unbind(2)
    for t in range(len(frames) - 2, -1, -1):
        frames[t] = _step(frames[t], frames[t + 1], forward[t], backward[t])
    for t in range(1, len(frames)):
        frames[t] = _step(frames[t], frames[t - 1], backward[t - 1], forward[t - 1])
    return torch.stack(frames, 2)


def _step(here: Tensor, neighbour: Tensor, along: Tensor, back: Tensor) -> Tensor:
    mask = consistent(along, back).to(here)
    fused = 0.5 * warp(neighbour, along, mode="nearest") + 0.5 * here
    return mask * fused + (1 - mask) * here
