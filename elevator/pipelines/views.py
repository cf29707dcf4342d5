"""How a clip is cut for a network that sees a stretch and a tile of it, and put together again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.video.windows import Tiles, blend_tiles, weights

__all__ = ["Views"]


@final
@dataclass(frozen=True, eq=False)
class Views:
    """Windows over frames, each seen through tiles, and what each window counts for.

    Attributes:
        windows: stretches of frames, in the order they are computed in.
        shares: weight of every window at every frame; columns sum to one.
        tiles: over height and width.
    """

    windows: Sequence[range]
    shares: Float[Tensor, "windows f"]
    tiles: Tiles

    @classmethod
    def smooth(cls, windows: Sequence[range], tiles: Tiles) -> "Views":
        """Weights that depend on places only, not on the order."""
        return cls(windows, weights(windows), tiles)

    def __len__(self) -> int:
        """Calls of the network."""
        return len(self.windows) * len(self.tiles)

    def blend(
        self,
        network: Callable[..., Tensor],
        *clips: Float[Tensor, "_ _ f h w"] | None,
        factor: int = 1,
        device: torch.device | None = None,
    ) -> Float[Tensor, "_ _ f Y X"]:
        """The network's output for the whole clip.

        Args:
            network: called with the same window and tile of every clip, None staying None.
            clips: what it sees, of one number of frames and one size.
            factor: output pixels along a side of an input pixel.
            device: where the output is put together; where it is made by default.

        Returns:
            Weighted means, in float32 at least; bit for bit the network's own where one call is
            all there is.
        """
        whole: Tensor | None = None
        for window, share in zip(self.windows, self.shares, strict=True):
            span = slice(window.start, window.stop)
            seen = [None if clip is None else clip[:, :, span] for clip in clips]
            part = self._tiled(network, seen, factor).to(device)
            if len(self.windows) == 1:
                return part
            if whole is None:
                size = (*part.shape[:2], self.shares.shape[1], *part.shape[3:])
                whole = part.new_zeros(size)
            whole[:, :, span] += share[span].to(part)[:, None, None] * part
        assert whole is not None
        return whole

    def _tiled(
        self,
        network: Callable[..., Tensor],
        clips: Sequence[Tensor | None],
        factor: int,
    ) -> Tensor:
        def parts() -> Iterator[Tensor]:
            for tile in self.tiles:
                yield network(*(None if clip is None else tile.cut(clip) for clip in clips)).float()

        return torch.cat([*blend_tiles(parts(), self.tiles.scaled(factor))], dim=-2)
