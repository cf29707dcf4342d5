"""The zoo's diffusion upscaler with weights drawn at random, for who needs its shapes only."""

from typing import Any

import torch

from elevator import zoo
from elevator.models import TemporalUNet
from elevator.pipelines.video_upscale import VideoUpscalePipeline
from elevator.zoo import networks

__all__ = ["tiny_upscaler"]


def tiny_upscaler(seed: int = 0) -> Any:
    """A pipeline whose layers all say something, those for time too."""
    torch.manual_seed(seed)
    image: Any = zoo.load("t2i")
    vae = networks.upscaler_vae(image.vae)
    unet = TemporalUNet.from_unet2d(networks.upscaler_unet2d())
    for network in (vae, unet):
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    pipe: Any = VideoUpscalePipeline(
        vae=vae.eval().requires_grad_(False),
        text_encoder=image.text_encoder,
        tokenizer=image.tokenizer,
        unet=unet.eval().requires_grad_(False),
        low_res_scheduler=networks.noise_scheduler(),
        scheduler=networks.upscaler_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
