"""VideoElevator as one plain loop, in the arrangement of the paper's published code.

Slow and literal: schedulers are stepped through diffusers, every redundant call is made, and what
is drawn or computed is recorded in the layout of the recorded cases under `--goldens`, so that the
parity tests can be driven by settings nobody recorded.
"""

import json
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from elevator.latent import publish_frames
from elevator.models.inflate import CrossFrameAttention
from tests.reference.freeinit_filter import low_pass, mask

__all__ = ["record"]


class _Recorder:
    """Draws from one generator and keeps draws, events and intermediates."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Tensor] = {}
        self.trace: list[dict[str, Any]] = []
        self.draws = 0

    def randn(self, shape: tuple[int, ...], step: int, where: str) -> Tensor:
        name = f"rng/{self.draws:03d}_{where}"
        self.draws += 1
        self.tensors[name] = torch.randn(shape, generator=self.generator)
        self.trace.append({"op": "randn", "step": step, "name": name})
        return self.tensors[name]

    def event(self, op: str, step: int, **more: Any) -> None:
        self.trace.append({"op": op, "step": step, **more})


@torch.no_grad()
def record(case: Path, settings: dict[str, Any], t2i: Any, t2v: Any) -> None:
    """Run the loop and write `case.json` and `case.safetensors`.

    Args:
        case: where to write, without suffix.
        settings: `num_inference_steps`, `video_length`, `stable_steps`, `stable_num`, `filter`,
            `alpha`, `guidance_scale`, `video_guidance_scale`, `extra`, latent `height`, `width`.
        t2i: a pipeline whose unet and scheduler are used.
        t2v: likewise.
    """
    log = _Recorder(settings.get("seed", 0))
    steps, frames = settings["num_inference_steps"], settings["video_length"]
    stable, eta = settings["stable_steps"], settings["extra"].get("eta", 0.0)
    correct = settings["extra"].get("inversion_name", "pnp_inv") == "pnp_inv"
    guidance = settings["guidance_scale"]
    lcm = type(t2v.scheduler).__name__ == "LCMScheduler"
    h, w = settings["height"] // 2, settings["width"] // 2
    shape = (frames, t2i.unet.config.in_channels, h, w)
    generator = torch.Generator().manual_seed(99)
    context = torch.randn(2, 7, t2i.unet.config.cross_attention_dim, generator=generator)
    video_context = torch.randn(2, 7, t2v.unet.config.cross_attention_dim, generator=generator)
    text = context.repeat_interleave(frames, 0)
    log.tensors |= {"in/t2i_ctx": text, "in/t2v_ctx": video_context}

    t2i.scheduler.set_timesteps(steps)
    t2v.scheduler.set_timesteps(steps)
    product = t2i.scheduler.alphas_cumprod
    spacing = 1000 // steps

    def image_net(x: Tensor, t: int, own: Tensor, step: int, role: str) -> Tensor:
        log.event("t2i_unet", step, role=role, t=int(t), batch=len(x))
        # Half the batch is a group, whether or not guidance doubled it.
        with publish_frames(max(1, len(x) // 2)):
            out: Tensor = t2i.unet(x, t, encoder_hidden_states=own).sample
        return out

    def image_step(eps: Tensor, t: int, x: Tensor, step: int) -> Any:
        noise = log.randn(shape, step, "ddim_eta") if eta > 0 else None
        result = t2i.scheduler.step(eps, t, x, eta=eta, variance_noise=noise)
        log.event("t2i.step", step, t=int(t))
        return result

    base = log.randn((1, *shape[1:]), -1, "init_base")
    own = log.randn(shape, -1, "init_res")
    x = (settings["alpha"] * base + own) / (1 + settings["alpha"] ** 2) ** 0.5
    history: list[Tensor] = []
    with CrossFrameAttention().apply(t2i.unet):
        for i, t in enumerate(t2i.scheduler.timesteps.tolist()):
            log.tensors[f"s{i:02d}/latents_in"] = x
            if guidance > 1:
                low, high = image_net(torch.cat([x, x]), t, text, i, "denoise").chunk(2)
                eps = low + guidance * (high - low)
            else:
                eps = image_net(x, t, text[frames:], i, "denoise")
            clean = image_step(eps, t, x, i).pred_original_sample
            following = image_step(eps, t, x, i).prev_sample
            log.tensors[f"s{i:02d}/t2i_x0"] = clean
            if correct and len(history) > 1:
                old = history.pop()
                _, eps = image_net(torch.cat([old, old]), t, text, i, "pnp").chunk(2)
                following = following + history[-1] - image_step(eps, t, old, i).prev_sample
            remaining = steps - i
            if remaining in stable:
                z = clean
                if settings["filter"] and remaining > stable[-1]:
                    z = _low_pass(z, settings["filter"])
                noise = log.randn(shape, i, "sdedit")
                level = t2v.scheduler.alphas_cumprod[t]
                v = level**0.5 * z + (1 - level) ** 0.5 * noise
                if lcm:
                    t2v.scheduler._step_index = None
                for k in range(i, i + settings["stable_num"]):
                    tau = t2v.scheduler.timesteps[k]
                    z, v = _video_step(t2v, v, tau, video_context, settings, log, i, eta, lcm)
                log.tensors[f"s{i:02d}/invert_in"] = z
                following, history = z, []
                for j in range(remaining - 1):
                    up = 1 + spacing * j
                    old_product = product[up - spacing] if up >= spacing else product[0]
                    out = image_net(following, up, text[:frames], i, "inversion")
                    z0, e = _read(out, following, old_product, t2i.scheduler.config)
                    following = product[up] ** 0.5 * z0 + (1 - product[up]) ** 0.5 * e
                    history.append(following)
            x = following
        log.tensors["out/latents"] = x
    counts: dict[str, dict[str, int]] = {}
    for event in log.trace:
        if event["op"] in ("t2i_unet", "t2v_unet"):
            key = event["op"] + (f":{event['role']}" if "role" in event else "")
            counts.setdefault(key, {"calls": 0})["calls"] += 1
    written = settings | {"trace": log.trace, "counts": counts}
    written["t2i_scheduler"] = dict(t2i.scheduler.config)
    written["t2v_scheduler"] = dict(t2v.scheduler.config) | {"class": type(t2v.scheduler).__name__}
    case.parent.mkdir(parents=True, exist_ok=True)
    case.with_suffix(".json").write_text(json.dumps(written, default=str))
    tensors = {name: tensor.clone().contiguous() for name, tensor in log.tensors.items()}
    save_file(tensors, case.with_suffix(".safetensors"))


def _video_step(
    t2v: Any,
    v: Tensor,
    tau: Tensor,
    context: Tensor,
    settings: dict[str, Any],
    log: _Recorder,
    i: int,
    eta: float,
    lcm: bool,
) -> tuple[Tensor, Tensor]:
    frames = len(v)
    clip = rearrange(v, "f c h w -> 1 c f h w")
    motion = type(t2v.unet).__name__ == "UNetMotionModel"
    text = context.repeat_interleave(frames, 0) if motion else context
    log.event("t2v_unet", i)
    out = t2v.unet(torch.cat([clip, clip]), tau, encoder_hidden_states=text).sample
    low, high = out.chunk(2)
    eps = rearrange(low + settings["video_guidance_scale"] * (high - low), "1 c f h w -> f c h w")
    if lcm:
        noise = log.randn(tuple(v.shape), i, "lcm")
        result = _lcm(t2v.scheduler, eps, tau, v, noise)
    else:
        drawn = log.randn(tuple(v.shape), i, "ddim_eta") if eta > 0 else None
        done = t2v.scheduler.step(eps, tau, v, eta=eta, variance_noise=drawn)
        result = done.pred_original_sample, done.prev_sample
    log.event("t2v.step", i, t=int(tau))
    return result


def _lcm(
    scheduler: Any, eps: Tensor, tau: Tensor, v: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """The formulas of the consistency sampler, with the given noise."""
    product = scheduler.alphas_cumprod[tau]
    clean = (v - (1 - product) ** 0.5 * eps) / product**0.5
    scaled = 10.0 * float(tau)
    skip, out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
    denoised = out * clean + skip * v
    grid = scheduler.timesteps.tolist()
    position = grid.index(int(tau))
    if position + 1 == len(grid):
        return denoised, denoised
    after = scheduler.alphas_cumprod[grid[position + 1]]
    return denoised, after**0.5 * denoised + (1 - after) ** 0.5 * noise


def _low_pass(z: Tensor, chosen: dict[str, Any]) -> Tensor:
    clip = rearrange(z, "f c h w -> c f h w").double().numpy()
    shape = (clip.shape[1], clip.shape[2], clip.shape[3])
    gains = mask(chosen["method"], shape, chosen["d_s"], chosen["d_t"], chosen.get("n", 4))
    return rearrange(torch.from_numpy(low_pass(clip, gains)).float(), "c f h w -> f c h w")


def _read(out: Tensor, x: Tensor, product: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Clean latent and noise of an output, for the level `product` of alphas_cumprod."""
    alpha, sigma = product**0.5, (1 - product) ** 0.5
    if config.prediction_type == "epsilon":
        return (x - sigma * out) / alpha, out
    if config.prediction_type == "v_prediction":
        return alpha * x - sigma * out, sigma * x + alpha * out
    return out, (x - alpha * out) / sigma
