"""Cross-frame attention by the equation: one frame, one head, one matrix at a time."""

from typing import Any

import torch
from torch import Tensor

ATTENDED = {
    "first": lambda frame: [0],
    "first+previous": lambda frame: [0, max(frame - 1, 0)],
    "first+own": lambda frame: [0, frame],
}


def cross_frame_attention(
    attn: Any, x: Tensor, frames: int, keys: str, temb: Tensor | None = None
) -> Tensor:
    """What the layer `attn` should make of rows `x` that are clips of `frames` frames.

    Every row is prepared, projected and finished on its own.
    """
    prepared = [tokens_of(attn, x[row : row + 1], temb) for row in range(len(x))]
    return torch.cat(
        [
            finished(attn, x[row : row + 1], attended(attn, prepared, row, frames, keys))
            for row in range(len(x))
        ]
    )


def tokens_of(attn: Any, row: Tensor, temb: Tensor | None) -> Tensor:
    """The normalised tokens (n, c) of one row (1, n, c) or (1, c, h, w)."""
    if attn.spatial_norm is not None:
        row = attn.spatial_norm(row, temb)
    tokens = row[0].flatten(1).T if row.ndim == 4 else row[0]
    if attn.group_norm is not None:
        tokens = attn.group_norm(tokens.T[None])[0].T
    return tokens


def attended(attn: Any, rows: list[Tensor], row: int, frames: int, keys: str) -> Tensor:
    """softmax(Q K^T scale) V of one row, (n, inner)."""
    start = row - row % frames
    seen = torch.cat([rows[start + frame] for frame in ATTENDED[keys](row % frames)])
    width = attn.to_q.weight.shape[0] // attn.heads
    heads = []
    for head in range(attn.heads):
        channels = slice(head * width, (head + 1) * width)
        q, k = attn.to_q(rows[row])[:, channels], attn.to_k(seen)[:, channels]
        v = attn.to_v(seen)[:, channels]
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        heads.append(torch.softmax(q @ k.T * attn.scale, dim=-1) @ v)
    return torch.cat(heads, dim=1)


def finished(attn: Any, row: Tensor, tokens: Tensor) -> Tensor:
    """The output projection, in the shape of the row, with its residual and factor."""
    out = attn.to_out[0](tokens)
    out = out.T.reshape(row.shape) if row.ndim == 4 else out[None]
    if attn.residual_connection:
        out = out + row
    return out / attn.rescale_output_factor
