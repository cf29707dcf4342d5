"""Clips of arrangements, kept on disk as they are made, and what the judge makes of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._arrangements import Models, Way
from benchmarks._kept import digest, fill, label, read
from benchmarks._measure import measure
from elevator import metrics, world, zoo
from elevator.zoo.recogniser import WORDS, Recogniser, words

__all__ = ["Interval", "Judge", "Kept", "Rows", "bootstrap", "cut", "difference", "jackknife"]

Rows: TypeAlias = dict[str, NDArray[Any]]
"""A value per clip, by measure."""
Interval: TypeAlias = dict[str, float]
"""`value`, and `low` and `high` of its 95 % interval."""

STILLS = 2048
"""Crisp stills that an arrangement's frames are compared with."""
EVERY = 2
"""Frames of a clip apart that distances look at; neighbours are nearly the same."""


@dataclass(frozen=True)
class Kept:
    """Clips by arrangement and caption; what is missing is made, and written at once.

    A killed run goes on where it was. Clips are kept apart by weights, numbers and arrangement;
    after a change of the sampling code itself, give another folder.

    Attributes:
        folder: where the clips are.
        models: make the clips.
        seed: of the captions; every caption's noise has a seed of its own.
        without: scenes that are left out.
    """

    folder: Path
    models: Models
    seed: int = 0
    without: frozenset[world.Scene] = frozenset()

    def scenes(self, count: int) -> list[world.Scene]:
        """Captions no model was trained with, each once.

        Raises:
            ValueError: there are not so many.
        """
        return [scene for _, scene in self._numbered(count)]

    def _numbered(self, count: int) -> list[tuple[int, world.Scene]]:
        """Scenes, with their place among all drawn ones."""
        drawn = world.draw(8 * count + 64, seed=self.seed, split="held-out")
        first = {scene: index for index, scene in reversed([*enumerate(drawn)])}
        found = sorted(
            (index, scene) for scene, index in first.items() if scene not in self.without
        )[:count]
        if len(found) < count:
            raise ValueError(
                f"{count} captions are asked for, but there are {len(found)}; ask for no more"
            )
        return found

    def make(self, name: str, way: Way, count: int, share: tuple[int, int] = (0, 1)) -> None:
        """Make the clips that are missing; of a share `(i, n)`, each n-th from the i-th on."""
        numbered = dict(self._numbered(count)[share[0] :: share[1]])
        place = self._place(name, way)
        fill(place, numbered, lambda i: way(self.models, numbered[i], self.seed + i))

    def clips(self, name: str, way: Way, count: int) -> Tensor:
        """The clips of an arrangement, `b f c h w` in [0, 1]; what is missing is made."""
        self.make(name, way, count)
        return read(self._place(name, way), (index for index, _ in self._numbered(count)))

    def _place(self, name: str, way: Way) -> Path:
        """A folder named after all that the clips depend on."""
        used = {"t2i", "t2v", way.given.get("t2i", "t2i"), way.given.get("t2v", "t2v")}
        told = f"{self.models.numbers} {self.seed} {way}"
        return self.folder / f"{label(name)}-{digest(told, [*map(zoo.path, sorted(used))])}"


@dataclass(frozen=True)
class Judge:
    """Reads clips with the recogniser and with plain arithmetic.

    Attributes:
        reader: the recogniser.
        count: how many stills the distances are taken from.
    """

    reader: Recogniser = field(default_factory=zoo.load_recogniser)
    count: int = STILLS

    def rows(self, clips: Tensor, scenes: Sequence[world.Scene]) -> Rows:
        """Measures of every clip.

        Returns:
            Those of `measure`; per kind of word 1 where it is read as told, also of `motion`
            (`words` is the mean of texture, colour and shape); `ink` and `mosaic`,
            1 where that is the look; `features` of some frames, in standard deviations of crisp
            ones.
        """
        found = {k: np.asarray(v) for k, v in measure(clips, scenes).items()}
        readings = [self.reader(part) for part in clips.split(16)]
        told = [word for reading in readings for word in words(reading)]
        for kind in WORDS:
            if kind != "look":
                right = [a[kind] == getattr(s, kind) for a, s in zip(told, scenes, strict=True)]
                found[kind] = np.array(right, dtype=float)
        found["words"] = np.mean([found[k] for k in ("texture", "colour", "shape")], 0)
        for style in ("ink", "mosaic"):
            found[style] = np.array([word["look"] == style for word in told], dtype=float)
        features = torch.cat([reading.features[:, ::EVERY] for reading in readings])
        found["features"] = (features.double().numpy() - self._mean) / self._spread
        return found

    def distance(self, rows: Rows, look: Callable[[Tensor], Tensor] | None = None) -> float:
        """Fréchet distance of the clips' frames to stills, crisp ones or of a look."""
        return metrics.frechet_distance(_flat(rows), self._target(look))

    def kernel_distance(self, rows: Rows) -> float:
        """Kernel distance of the clips' frames to crisp stills."""
        return metrics.kernel_distance(_flat(rows), self._target(None))

    def _target(self, look: Callable[[Tensor], Tensor] | None) -> NDArray[np.float64]:
        return (self._stills(look) - self._mean) / self._spread

    def _stills(self, look: Callable[[Tensor], Tensor] | None) -> NDArray[np.float64]:
        """Features of stills of held-out scenes, each a frame of a clip as others are."""
        if look not in self._seen:
            self._seen[look] = np.concatenate([*self._batches(look)])
        return self._seen[look]

    def _batches(self, look: Callable[[Tensor], Tensor] | None) -> Iterator[NDArray[np.float64]]:
        scenes = world.draw(self.count, seed=10**6, split="held-out")
        for start in range(0, self.count, 64):
            clips = world.render(scenes[start : start + 64], frames=8, seed=10**6 + start)
            frames = clips[torch.arange(len(clips)), torch.arange(len(clips)) % 8][:, None]
            shown = frames if look is None else look(frames)
            yield self.reader(shown).features[:, 0].double().numpy()

    @cached_property
    def _seen(self) -> dict[Callable[[Tensor], Tensor] | None, NDArray[np.float64]]:
        """Features of stills by their look, as they come to be needed."""
        return {}

    @property
    def _mean(self) -> NDArray[np.float64]:
        return np.asarray(self._stills(None).mean(0))

    @property
    def _spread(self) -> NDArray[np.float64]:
        return np.asarray(self._stills(None).std(0))


def _flat(rows: Rows) -> NDArray[np.float64]:
    flat: NDArray[np.float64] = rearrange(rows["features"], "b f d -> (b f) d")
    return flat


def cut(rows: Rows, chosen: Any) -> Rows:
    """Some of the clips: a slice, or indices."""
    return {name: values[chosen] for name, values in rows.items()}


def bootstrap(
    statistic: Callable[[Any], float], count: int, draws: int = 2000, seed: int = 0
) -> Interval:
    """A statistic of all clips, with its 95 % interval over resampled ones.

    Args:
        statistic: of the indices of clips.
        count: clips there are.
        draws: how often they are drawn anew.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(count, size=count)) for _ in range(draws)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"low": float(low), "value": statistic(np.arange(count)), "high": float(high)}


def jackknife(statistic: Callable[[Any], float], count: int) -> Interval:
    r"""A statistic of all clips, with its 95 % interval from leaving out each clip in turn.

    For distances between distributions, which grow when clips come twice, as they do in a
    bootstrap. With $\theta_i$ the statistic without clip i, $\pm 1.96\,
    [\frac{n-1}{n} \sum_i (\theta_i - \bar\theta)^2]^{1/2}$ (Efron and Stein 1981).

    Args:
        statistic: of the indices of clips.
        count: clips there are, two or more.
    """
    every = np.arange(count)
    without = np.array([statistic(np.delete(every, i)) for i in every])
    value = statistic(every)
    half = 1.96 * math.sqrt((count - 1) * float(without.var()))
    return {"low": value - half, "value": value, "high": value + half}


def difference(ours: Rows, theirs: Rows, name: str) -> Interval:
    """Our mean minus theirs, paired by caption, over those both have."""
    count = min(len(ours[name]), len(theirs[name]))
    paired = ours[name][:count] - theirs[name][:count]
    return bootstrap(lambda chosen: float(paired[chosen].mean()), count)
