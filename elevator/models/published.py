"""Published checkpoints of networks that diffusers has no class for: their weights and configs."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from elevator.errors import CheckError, CheckpointError

__all__ = ["Source", "fill", "known", "read_config", "read_weights", "taken_over"]

N = TypeVar("N", bound=nn.Module)

Source = str | PathLike[str] | Mapping[str, Tensor]
"""A `.safetensors` file, a `.bin`, `.pt` or `.pth` of tensors alone, or the tensors by name."""


def read_weights(source: Source) -> dict[str, Tensor]:
    """The tensors of a published file, by name.

    Pickles are opened by torch's restricted reader, which builds tensors and containers and runs no
    code.

    Raises:
        CheckpointError: there is no such file, it is no weight file, or it holds something else.
    """
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not a file; give the published weights, a .safetensors or .bin file"
        )
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as tensors: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise CheckpointError(
            f"{path} holds no plain state dict (tensors by name); save the network's "
            "`state_dict()` to a file of its own"
        )
    return found


def read_config(source: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """A published configuration, from its json file or as it is given.

    Raises:
        CheckpointError: there is no such file, or it holds no configuration.
    """
    if isinstance(source, Mapping):
        return dict(source)
    try:
        found = json.loads(Path(source).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source} cannot be read as a configuration: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{source} holds no configuration, which is a json object")
    return found


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state dict that must fit, name by name and shape by shape.

    Raises:
        CheckpointError: names are missing or left over, or shapes differ; says which.
    """
    own = network.state_dict()
    problems = []
    for what, names in (
        ("lacks", sorted(own.keys() - tensors.keys())),
        ("has beside them", sorted(tensors.keys() - own.keys())),
    ):
        if names:
            problems.append(f"it {what} {_some(names)}")
    shared = own.keys() & tensors.keys()
    differ = [
        f"{name} ({_shape(tensors[name])} instead of {_shape(own[name])})"
        for name in sorted(shared)
        if tensors[name].shape != own[name].shape
    ]
    if differ:
        problems.append(f"of another shape are {_some(differ)}")
    if problems:
        raise CheckpointError(
            f"the checkpoint does not fit {type(network).__name__}'s {len(own)} tensors: "
            f"{'; '.join(problems)}. Give the configuration it was published with"
        )
    network.load_state_dict(dict(tensors))


def known(cls: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of another network's configuration, what a diffusers class is told when it is made."""
    names = set(cls._get_init_keys(cls)) - {"self"}
    return {name: value for name, value in config.items() if name in names}


def taken_over(network: N, source: nn.Module, lost: list[str], extra: list[str]) -> N:
    """A network that has a diffusers network's weights, where that is and in its dtype.

    Args:
        network: it, with the weights in it.
        source: whose they are.
        lost: weights it should have got and did not.
        extra: weights it has no place for.

    Raises:
        CheckError: there are some of either.
    """
    if extra or lost:
        raise CheckError(
            [
                f"{type(network).__name__} has no place for {', '.join(extra[:3]) or 'nothing'} of "
                f"the {type(source).__name__}, and misses {', '.join(lost[:3]) or 'nothing'}; give "
                "one of Stable Diffusion's kind"
            ]
        )
    parameter = next(source.parameters())
    # torch's own `to`: diffusers' warns of every dtype.
    nn.Module.to(network, parameter.device, parameter.dtype)
    return network


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
