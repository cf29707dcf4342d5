r"""The T2V in another latent space, to try bridges on: a second autoencoder, and nothing else new.

The second autoencoder, a third of the first in size, learns to encode as the first does and to turn
that by a fixed matrix $H$. So its latents mean nothing to the T2I, and yet the T2V needs no
training to film in them: white noise turned is white noise, and $z \mapsto H f(H^{-1} z)$ is the
same network with another first and last convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.zoo import networks, pipelines
from elevator.zoo.loop import Average, Rates, Task
from elevator.zoo.vae import Autoencoding, Stage

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DiffusionPipeline,
        UNet2DConditionModel,
        UNet3DConditionModel,
    )

__all__ = ["TURNED", "read", "train_turned", "turn", "turn_network", "vae"]

TURNED = (
    Stage(2400, 16, Rates(3e-3, part=0.8, average=0.99), colour=1.5, crop=32),
    Stage(450, 16, Rates(1.5e-3, average=0.99)),
)
"""Training of the second autoencoder: crops of the objects, then whole frames."""


def vae() -> AutoencoderKL:
    """A third of the zoo's first autoencoder, without attention, for latents of the same shape."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 24, 32),
        layers_per_block=1,
        latent_channels=networks.LATENT,
        norm_num_groups=8,
        sample_size=networks.SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def turn() -> Float[Tensor, "c c"]:
    """Hadamard's matrix, its own inverse.

    Every channel becomes a mixture of all channels, with factors of equal size.
    """
    matrix, pair = torch.ones(1, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    while len(matrix) < networks.LATENT:
        matrix = torch.kron(matrix, pair)
    return matrix / networks.LATENT**0.5


@torch.no_grad()
def turn_network(unet: UNet2DConditionModel | UNet3DConditionModel) -> None:
    """Make a U-Net one of turned latents, in place; exactly, but for rounding."""
    matrix, first, last = turn().to(unet.device), unet.conv_in, unet.conv_out
    first.weight.copy_(torch.einsum("oixy,ij->ojxy", first.weight.float(), matrix))
    last.weight.copy_(torch.einsum("ji,iaxy->jaxy", matrix, last.weight.float()))
    assert last.bias is not None
    last.bias.copy_(matrix @ last.bias.float())


def read(base: Path, folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load a pipeline folder into the latent space of the autoencoder in another."""
    from diffusers import AutoencoderKL

    pipe = pipelines.read(base, dtype)
    turn_network(pipe.unet)
    pipe.vae = AutoencoderKL.from_pretrained(folder, torch_dtype=dtype)
    return pipe


def train_turned(
    run: Callable[[Task, Rates, int, int, str], Average],
    folder: Path,
    first: AutoencoderKL,
    steps: int | None,
    batch: int | None,
    seed: int,
) -> Path:
    """Train the second autoencoder, stage by stage.

    Args:
        run: trains for so many steps with a seed, under a name.
        folder: where the result goes, under its name.
        first: the zoo's first autoencoder, on the device to train on.
        steps: steps in all, shared out as in `TURNED`; by default as many as there.
        batch: stills a step.
        seed: of data and noise.
    """
    matrix = turn().to(first.device)

    @torch.no_grad()
    def told(pixels: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b c h w"]:
        latents = first.encode(pixels).latent_dist.mean * first.config.scaling_factor
        return torch.einsum("ij,bjxy->bixy", matrix, latents)

    share = steps / sum(stage.steps for stage in TURNED) if steps else 1.0
    second = vae()
    average: Average = {}
    for i, stage in enumerate(TURNED):
        stage = replace(stage, steps=max(1, round(share * stage.steps)), batch=batch or stage.batch)
        task = Autoencoding(stage, first.device, weights=second, told=told)
        average = run(task, stage.rates, stage.steps, seed + i, f"t2v-turned-{i + 1}")
    second.load_state_dict(average)
    second.to("cpu", torch.float16).save_pretrained(folder / "t2v-turned")
    return folder / "t2v-turned"
