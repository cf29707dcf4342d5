"""How the upscalers of the zoo were made, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from elevator.errors import CheckError
from elevator.zoo import networks, path, pipelines
from elevator.zoo.loop import Average, Rates, Recipe, Task, leads
from elevator.zoo.upscaling import Regressing, started
from elevator.zoo.video_upscaling import (
    Coding,
    Decoding,
    Steadying,
    Texturing,
    Upscaling,
    examples,
)

if TYPE_CHECKING:
    from elevator.models import TemporalUNet, VideoVAE

__all__ = ["UPSCALERS", "Run", "train_upscaler"]

UPSCALERS: Mapping[str, Recipe] = MappingProxyType(
    {
        "upscale-x4": Recipe(1600, 4, Rates(8e-4, average=0.99), ""),
        "upscale-x2": Recipe(1000, 4, Rates(8e-4, average=0.99), "upscale-x4"),
        "upscaler-vae": Recipe(700, 4, Rates(1e-3, average=0.99), "t2i"),
        "upscaler-early": Recipe(1600, 12, Rates(1.5e-3, average=0.995), "upscaler-vae"),
        "upscaler-still": Recipe(6000, 12, Rates(1e-3, average=0.995), "upscaler-early"),
        "upscaler-decoder": Recipe(500, 4, Rates(8e-4, average=0.99), "upscaler-still"),
        "upscaler": Recipe(800, 2, Rates(1e-3, average=0.99), "upscaler-still"),
    }
)
"""The regression upscalers, of which that for twice the size starts from the other's trunk, and the
diffusion upscaler's autoencoder, its U-Net on stills in two goes, the autoencoder's decoder on what
that gives, and the whole with the U-Net's temporal layers."""
SOFTEST: Mapping[str, float] = MappingProxyType({"upscale-x2": 1.2})
"""Strongest blur, in pixels, of what a regression upscaler is trained on."""


@runtime_checkable
class Run(Protocol):
    """Train for some steps and give the moving average of the weights."""

    def __call__(
        self, task: Task, rates: Rates, steps: int, seed: int, label: str, shards: int = 1
    ) -> Average:
        """See `loop.fit`."""
        ...


def train_upscaler(
    name: str,
    run: Run,
    folder: Path,
    device: torch.device,
    steps: int | None,
    batch: int | None,
    seed: int,
) -> Path:
    """Train one of `UPSCALERS` and save it in `folder / name`.

    Args:
        name: which one.
        run: the training loop.
        folder: for the result; what is needed of other trainings is looked for here first.
        device: where to train.
        steps: steps in all; None for the recipe's.
        batch: clips a step; None for the recipe's.
        seed: of data and noise.
    """
    recipe = UPSCALERS[name]
    steps, batch = steps or recipe.steps, batch or recipe.batch
    network, task = _task(name, folder, device, steps, batch, seed)
    average = run(task, recipe.rates, steps, seed, name, recipe.shards)
    if not leads():
        return folder / name
    network.load_state_dict(average)
    if name == "upscaler-vae":
        _measure(network, seed)
    if name == "upscaler":
        parts = _parts(folder, device, "upscaler-decoder")
        pipelines.write_upscaler(folder / name, parts, network)
    else:
        network.to("cpu", torch.float16).save_pretrained(folder / name)
    return folder / name


def _task(
    name: str, folder: Path, device: torch.device, steps: int, batch: int, seed: int
) -> tuple[Any, Task]:
    """The network of a training, at its start, and the training."""
    from diffusers import UNet2DConditionModel

    from elevator.models import TemporalUNet

    if name.startswith("upscale-x"):
        regressing = started(name, folder, UPSCALERS[name].needs).to(device)
        return regressing, Regressing(regressing, batch, SOFTEST.get(name, 0.0))
    if name == "upscaler-vae":
        image = pipelines.read(path("t2v")).vae  # as its own training left it
        vae = networks.upscaler_vae(image).to(device)
        return vae, Coding(vae, batch, steps)
    parts = _parts(folder, device, "upscaler-decoder" if name == "upscaler" else "upscaler-vae")
    if name == "upscaler-early":
        new = networks.upscaler_unet2d().to(device)
        return new, Texturing(parts, new, batch, seed, lean=1.0)
    source = folder / UPSCALERS[name].needs
    if not source.exists():
        raise CheckError([f"there is no {source} to start from; train {source.name} first"])
    still = UNet2DConditionModel.from_pretrained(source, torch_dtype=torch.float32).to(device)
    if name == "upscaler-still":
        return still, Texturing(parts, still, batch, seed + 1)
    if name == "upscaler-decoder":
        return parts.vae, Decoding(parts, still, batch)
    unet: TemporalUNet = TemporalUNet.from_unet2d(still)
    return unet, Steadying(parts, unet, batch, seed=seed)


def _parts(folder: Path, device: torch.device, vae: str = "upscaler-vae") -> Upscaling:
    """What stands still: the autoencoder of a training, and the T2I's text encoder."""
    from elevator.models import VideoVAE

    pipe = pipelines.read(path("t2i"))
    source = folder / vae
    if not source.exists():
        raise CheckError([f"there is no {source} to start from; train {vae} first"])
    autoencoder = VideoVAE.from_pretrained(source, torch_dtype=torch.float32).to(device)
    for module in (autoencoder, pipe.text_encoder):
        module.requires_grad_(False)
    return Upscaling(autoencoder, pipe.text_encoder.to(device), pipe.tokenizer)


@torch.no_grad()
def _measure(vae: VideoVAE, seed: int) -> None:
    """Set the scaling factor from the spread of latents."""
    made = examples(32, 1, 64, torch.Generator().manual_seed(seed))
    latents = vae.encode((made.sharp * 2 - 1).to(vae.device)).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
