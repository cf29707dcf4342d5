r"""Training of the T2I's decoder on what the T2I paints: the last of its trainings.

An autoencoder learns to decode what its encoder makes of pictures. A T2I's latents are a little
softer than those, since it has learnt to give means. So the decoder $D$ is trained on, encoder and
U-Net standing still, on the T2I's own estimates $\hat z$ of the clean latent from noise of up to
`NOISIEST` of 1000 steps, to give the pictures $x$ they were made from:

$$\mathcal{L} = \lvert D(\hat z) - x \rvert + (D(\hat z) - x)^2 - \lambda\, C(D(\hat z)),$$

where $C$ is a critic of patches that learns, by the hinge loss, to tell pictures from decoded ones,
and $\lambda$ balances the two by their gradients at the last layer.

References:
    Taming Transformers for High-Resolution Image Synthesis (Esser et al. 2021), arXiv 2012.09841,
    section 3.1 (critic and $\lambda$); Latent Diffusion (Rombach et al. 2022), arXiv 2112.10752,
    appendix G (autoencoders trained so). The penalty on the critic's slope is R1 of Mescheder et
    al. (2018), arXiv 1801.04406.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from elevator import world
from elevator.zoo import networks
from elevator.zoo.diffusion import Parts
from elevator.zoo.vae import stills

__all__ = ["Sharpening"]

NOISIEST = 300
"""Of the 1000 steps of noise, the last from which the T2I's estimates are decoded."""
COLOUR = 1.5
"""How much more an error of colour counts than one of brightness."""
ALONE, LEARNING = 100, 200
"""Steps before the critic learns, and before the decoder heeds it."""
SHARE = 0.5
"""Gradient of the critic's verdict at the decoder's last layer, as a part of that of the errors."""
SLOPE, EVERY = 10.0, 4
"""Weight of the penalty on the critic's slope at pictures, and how often, in steps, it is taken."""


class Sharpening:
    """The decoder on the T2I's estimates of crisp stills, and on stills of the other looks."""

    def __init__(self, parts: Parts, painter: nn.Module, batch: int) -> None:
        """Set up the training.

        Args:
            parts: autoencoder, whose decoder is trained in place, text encoder and tokenizer.
            painter: the T2I's U-Net.
            batch: stills a step: an eighth each degraded, in ink and in mosaic, as the encoder sees
                them; the others crisp, as the painter estimates them.
        """
        for frozen in (parts.vae, parts.text, painter):
            frozen.requires_grad_(False)
        for name, weight in parts.vae.named_parameters():
            weight.requires_grad_(name.startswith(("decoder.", "post_quant_conv.")))
        self.parts, self.painter, self.batch = parts, painter, batch
        self.critic = _critic().to(parts.device)
        self.weights = nn.ModuleDict({"vae": parts.vae, "critic": self.critic})

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """The decoder's loss and the critic's, added up: neither has a gradient in the other."""
        pixels, latents = self._examples(generator)
        seen = self.parts.vae.decode(latents).sample
        error = seen - pixels
        grey = error.mean(1, keepdim=True)
        error = grey + COLOUR * (error - grey)
        loss = error.abs().mean() + error.square().mean()
        if step < ALONE:
            return loss
        told = relu(1 - self.critic(pixels)).mean() + relu(1 + self.critic(seen.detach())).mean()
        loss_of_critic = told / 2
        if step % EVERY == 0:
            loss_of_critic = loss_of_critic + EVERY * SLOPE * self._slope(pixels)
        if step < LEARNING:
            return loss + loss_of_critic
        return loss + self._balanced(loss, seen) + loss_of_critic

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing to do between steps."""

    @torch.no_grad()
    def _examples(
        self, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b 3 y x"], Float[Tensor, "b c h w"]]:
        """Pictures in [-1, 1], and the latents they are to be decoded from."""
        scenes, frames = stills(self.batch, generator)
        eighth = self.batch // 8
        degraded, ink, mosaic = (slice(i * eighth, (i + 1) * eighth) for i in range(3))
        frames[degraded] = world.degrade(frames[degraded])
        frames[ink] = world.ink(frames[ink])
        frames[mosaic] = world.mosaic(frames[mosaic])
        latents = self.parts.latents(frames)
        crisp = slice(3 * eighth, None)
        scheduler = networks.scheduler()
        count = self.batch - 3 * eighth
        levels = torch.randint(1, NOISIEST, (count,), generator=generator).to(latents.device)
        noise = torch.randn(latents[crisp].shape, generator=generator).to(latents)
        noisy = scheduler.add_noise(latents[crisp], noise, levels)
        embeddings = self.parts.embed(scenes[3 * eighth :], generator)
        velocity = self.painter(noisy, levels, encoder_hidden_states=embeddings).sample
        kept = scheduler.alphas_cumprod.to(latents)[levels][:, None, None, None]
        latents[crisp] = kept.sqrt() * noisy - (1 - kept).sqrt() * velocity
        return (frames * 2 - 1).to(latents), latents / self.parts.vae.config.scaling_factor

    def _slope(self, pixels: Float[Tensor, "b 3 y x"]) -> Tensor:
        """Mean squared gradient of the critic's verdict on pictures."""
        pixels = pixels.detach().requires_grad_(True)
        verdict = self.critic(pixels).mean((1, 2, 3)).sum()
        (gradient,) = torch.autograd.grad(verdict, pixels, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    def _balanced(self, loss: Tensor, seen: Float[Tensor, "b 3 y x"]) -> Tensor:
        """What the critic says against decoded pictures, as strong as `SHARE` of the errors."""
        self.critic.requires_grad_(False)
        verdict = -self.critic(seen).mean()
        self.critic.requires_grad_(True)
        last = self.parts.vae.decoder.conv_out.weight
        errors, against = (
            torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (loss, verdict)
        )
        return SHARE * (errors / (against + 1e-4)).clamp_max(1.0).detach() * verdict


def _critic() -> nn.Sequential:
    """Verdicts on overlapping patches of some twenty pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 3, padding=1),
    )
