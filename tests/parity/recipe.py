"""The random weights of the recorded networks, which follow from names and shapes alone."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["draw"]


def draw(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """One tensor of a state dict, of values that half precision holds as well."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    random = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    values = random.standard_normal(tuple(shape))
    if name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(values)
    elif name.endswith("running_mean"):
        values = 0.1 * values
    elif len(shape) <= 1:
        values = 0.1 * values + (1 if name.endswith("weight") else 0)
    else:
        values = values / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, np.float16).astype(np.float32))
