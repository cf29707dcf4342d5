"""What the result of an upscaler depends on, as JSON holds it; see `Upscaler.identity`."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from elevator.filters import FlowEstimator

__all__ = ["computed_on", "denoising_network", "name_of", "parts_of", "weights_fingerprint"]


def weights_fingerprint(pipeline: Any) -> str:
    """One SHA-256 over the weights of all networks as they were loaded, wherever from.

    A hub id tells nothing of what it holds, nor a folder of which of its files were read.
    """
    total = hashlib.sha256()
    for part, network in sorted(pipeline.components.items()):
        if not isinstance(network, nn.Module):
            continue
        for name, value in sorted(network.state_dict().items()):
            total.update(f"{part}.{name} {value.dtype} {tuple(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().flatten()
            total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


def parts_of(pipeline: Any) -> dict[str, object]:
    """Classes and configurations of the networks and schedulers of diffusers, as JSON holds them.

    They change results with the same weights: how latents are scaled, how many heads there are.
    """
    return {
        part: {"class": type(one).__name__, **_plain(one.config)}
        for part, one in sorted(pipeline.components.items())
        if isinstance(getattr(one, "config", None), Mapping)
    }


def _plain(config: Mapping[str, Any]) -> dict[str, object]:
    """A configuration, as JSON holds it, without notes on where and how it was loaded.

    Those begin with an underscore; one of them lists names in another order in every process.
    """
    return {name: repr(value) for name, value in sorted(config.items()) if name[0] != "_"}


def name_of(flow: FlowEstimator) -> str:
    """An estimator of flow by its settings where those are its name, else by its class."""
    text = repr(flow)
    return text if "\n" not in text and " at 0x" not in text else type(flow).__name__


def computed_on(pipeline: Any) -> list[str]:
    """Where and in what: results of two devices differ in the last digits."""
    return [torch.device(pipeline.device).type, str(denoising_network(pipeline).dtype)]


def denoising_network(pipeline: Any) -> Any:
    """The U-Net or the transformer of a pipeline."""
    return getattr(pipeline, "unet", None) or pipeline.transformer
