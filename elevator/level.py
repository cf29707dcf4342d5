r"""Noise levels, and the two halves of a network's prediction.

With $x$ the noisy latent, $c$ the clean one and $n$ standard normal noise,

$$x = \alpha c + \sigma n .$$

Every parametrisation a network may be trained in is an affine reading of the same pair:
`epsilon` $m = n$; `sample` $m = c$; `v_prediction` $m = (\alpha n - \sigma c)/s$ with
$s^2 = \alpha^2 + \sigma^2$ (Salimans & Ho 2022, section 4); `flow_prediction` $m = n - c$ on the
line $\alpha + \sigma = s$ (Lipman et al. 2023). The formulas below hold for any scale $s$, so
variance-preserving, variance-exploding and flow schedules need no case of their own.
"""

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from elevator.latent import Latent

__all__ = [
    "Level",
    "Parametrisation",
    "Prediction",
    "read_clean",
    "read_output",
    "write_clean",
    "write_output",
]

Parametrisation: TypeAlias = Literal["epsilon", "v_prediction", "flow_prediction", "sample"]


class Level(NamedTuple):
    """A noise level: `noisy = alpha * clean + sigma * noise`.

    Attributes:
        alpha: factor of the clean latent, >= 0; a scalar tensor or one that broadcasts on `bcfhw`.
        sigma: factor of the noise, >= 0; as `alpha`.
        timestep: what the network is told, in its own units; None lets a denoiser find the
            timestep of equal signal-to-noise ratio.
    """

    alpha: Tensor
    sigma: Tensor
    timestep: Tensor | None


class Prediction(NamedTuple):
    """What a denoiser says of a noisy latent; both parts float32.

    Both are kept because recovering the noise from a rounded clean latent loses up to a few
    per cent at low noise.
    """

    clean: Latent
    noise: Latent


class _Affine(NamedTuple):
    """Factors of `clean = clean_x * x + clean_m * m`, `noise = noise_x * x + noise_m * m`."""

    clean_x: Tensor
    clean_m: Tensor
    noise_x: Tensor
    noise_m: Tensor


def _affine(level: Level, kind: Parametrisation) -> _Affine:
    alpha, sigma = level.alpha, level.sigma
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    match kind:
        case "epsilon":
            return _Affine(1 / alpha, -sigma / alpha, zero, one)
        case "sample":
            # Without noise in the latent there is none to read: report zero, not a division by it.
            inverse = torch.where(sigma > 0, 1 / sigma.clamp_min(1e-20), zero)
            return _Affine(zero, one, inverse, -alpha * inverse)
        case "v_prediction":
            scale = (alpha**2 + sigma**2).sqrt()
            return _Affine(alpha / scale**2, -sigma / scale, sigma / scale**2, alpha / scale)
        case "flow_prediction":
            scale = alpha + sigma
            return _Affine(1 / scale, -sigma / scale, 1 / scale, alpha / scale)
    raise ValueError(
        f"prediction type {kind!r} is unknown; expected one of {get_args(Parametrisation)}"
    )


def read_output(output: Latent, noisy: Latent, level: Level, kind: Parametrisation) -> Prediction:
    """Read a network's output as a `Prediction`, in float32.

    Args:
        output: network output `m`, same shape as `noisy`.
        noisy: the latent the output belongs to, at `level`.
        level: its noise level.
        kind: what the network was trained to predict.
    """
    factors = _affine(level, kind)
    x, m = noisy.float(), output.float()
    return Prediction(
        clean=(factors.clean_x * x + factors.clean_m * m).float(),
        noise=(factors.noise_x * x + factors.noise_m * m).float(),
    )


def read_clean(output: Latent, noisy: Latent, level: Level, kind: Parametrisation) -> Latent:
    """Only the clean half of `read_output`."""
    factors = _affine(level, kind)
    return (factors.clean_x * noisy.float() + factors.clean_m * output.float()).float()


def write_output(prediction: Prediction, level: Level, kind: Parametrisation) -> Latent:
    """The network's output behind a prediction, in float32: the inverse of `read_output`.

    Args:
        prediction: clean latent and noise.
        level: their noise level.
        kind: what the network predicts.
    """
    clean, noise = prediction
    match kind:
        case "epsilon":
            return noise
        case "sample":
            return clean
        case "v_prediction":
            scale = (level.alpha**2 + level.sigma**2).sqrt()
            return ((level.alpha * noise - level.sigma * clean) / scale).float()
        case "flow_prediction":
            return noise - clean
    raise ValueError(
        f"prediction type {kind!r} is unknown; expected one of {get_args(Parametrisation)}"
    )


def write_clean(clean: Latent, noisy: Latent, level: Level, kind: Parametrisation) -> Latent:
    """The output a network would have given had its clean estimate been `clean` (float32).

    Inverse of `read_clean` for sigma > 0. At sigma = 0 an epsilon, v or flow output carries no
    clean estimate (its factor is zero), and the result is not finite.
    """
    factors = _affine(level, kind)
    return ((clean.float() - factors.clean_x * noisy.float()) / factors.clean_m).float()
