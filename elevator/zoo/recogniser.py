"""The judge: a small network that reads the words of a caption from a clip, and its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, silu

from elevator import world

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "LOOKS",
    "WORDS",
    "Reading",
    "Recogniser",
    "Recognising",
    "perceptual_distance",
    "shares",
    "words",
]

LOOKS = ("crisp", "degraded", "ink", "mosaic")
"""The looks a clip can have; the last two are those of the personalised models."""
WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "texture": world.TEXTURES,
        "colour": tuple(world.COLOURS),
        "shape": world.SHAPES,
        "motion": tuple(world.MOTIONS),
        "background": tuple(world.BACKGROUNDS),
        "look": LOOKS,
    }
)
"""What is read, and the words there are for it."""
FEATURES = 48
"""Numbers that describe a frame."""
LEAST = 0.3
"""Least strength of a degradation, and least part of it in a mixture."""
FAR = 33.0
"""Makes the way that an object goes within a clip a number of some size."""


class Reading(NamedTuple):
    """What the recogniser makes of a batch of clips.

    Attributes:
        scores: per kind of word (`WORDS`), one score for each word.
        features: description of every frame, for distances between sets.
        places: where the object is in every frame, `(x, y)` in [-1, 1].
    """

    scores: dict[str, Float[Tensor, "b words"]]
    features: Float[Tensor, "b f d"]
    places: Float[Tensor, "b f 2"]


class Recogniser(ModelMixin, ConfigMixin):
    """Reads texture, colour, shape, motion, background and look from a clip of any length.

    A few convolutions look at every frame. An attention map says where the object is: what it
    covers gives the object's words, the rest the background's, and the line fitted to its place
    over time the motion's.

    Args:
        width: channels of the last convolutions.
        features: numbers that describe a frame.
    """

    @register_to_config
    def __init__(self, width: int = 64, features: int = FEATURES) -> None:
        super().__init__()
        sizes = [3, 24, 32, 48, width, width, width]
        strides = [1, 2, 1, 2, 1, 2]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=s, padding=1)
            for a, b, s in zip(sizes, sizes[1:], strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, size) for size in sizes[1:])
        self.where = nn.Conv2d(width, 1, 1)
        self.describe = nn.Linear(2 * width, features)
        self.heads = nn.ModuleDict(
            {kind: nn.Linear(features, len(words)) for kind, words in WORDS.items()}
        )
        self.heads["motion"] = nn.Sequential(
            nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, len(WORDS["motion"]))
        )

    def activations(self, frames: Float[Tensor, "n 3 h w"]) -> Iterator[Float[Tensor, "n c y x"]]:
        """What every convolution makes of frames with values in [0, 1], from the first on."""
        x = frames * 2 - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = silu(norm(convolution(x)))
            yield x

    def forward(self, clips: Float[Tensor, "b f 3 h w"]) -> Reading:
        """Read clips with values in [0, 1]; height and width multiples of 8, at least 32."""
        *_, x = self.activations(rearrange(clips, "b f c h w -> (b f) c h w"))
        weight = self.where(x).flatten(1).softmax(1)
        ticks = [(torch.arange(n, device=x.device) + 0.5) * 2 / n - 1 for n in x.shape[:-3:-1]]
        grid = torch.stack(torch.meshgrid(*ticks, indexing="xy")).flatten(1)
        places = weight @ grid.T
        inside = torch.einsum("n p, n c p -> n c", weight, x.flatten(2))
        seen = self.describe(torch.cat([inside, x.mean((2, 3))], 1))
        features = rearrange(seen, "(b f) d -> b f d", b=len(clips))
        places = rearrange(places, "(b f) xy -> b f xy", b=len(clips))
        mean = silu(features).mean(1)
        scores = {
            kind: head(_way(places) if kind == "motion" else mean)
            for kind, head in self.heads.items()
        }
        return Reading(scores, features, places)


@torch.no_grad()
def perceptual_distance(
    reader: Recogniser, frames: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "m 3 y x"]
) -> float:
    r"""How different frames look to the recogniser, 0 for equal ones: LPIPS without its weights.

    The mean over layers l, places p and frames of

    $$\lVert \hat a_{l,p} - \hat b_{l,p} \rVert^2,$$

    where $\hat a$ are the layer's activations, as vectors of length one over the channels (Zhang et
    al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", arXiv
    1801.03924, section 3).

    Args:
        reader: the recogniser.
        frames: values in [0, 1]; height and width multiples of 8, at least 32.
        truth: what they should be, of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if frames.shape != truth.shape:
        raise ValueError(
            f"frames of shape {tuple(frames.shape)} cannot be compared with those of shape "
            f"{tuple(truth.shape)}; give two of one shape"
        )
    pairs = zip(reader.activations(frames), reader.activations(truth), strict=True)
    far = [(normalize(a) - normalize(b)).square().sum(1).mean() for a, b in pairs]
    return float(torch.stack(far).mean())


def _way(places: Float[Tensor, "b f 2"]) -> Float[Tensor, "b 2"]:
    """How far a clip's object goes from first frame to last, by the line fitted to its path.

    It is nearly the same for all frames of a clip and for some of them, spread evenly.
    """
    frames = places.shape[1]
    times = torch.arange(frames, device=places.device, dtype=places.dtype) - (frames - 1) / 2
    slope = torch.einsum("f, b f c -> b c", times, places) / times.square().sum().clamp_min(1)
    return FAR * (frames - 1) * slope


def words(reading: Reading) -> list[dict[str, str]]:
    """The likeliest word of each kind, per clip."""
    chosen = {kind: scores.argmax(1).tolist() for kind, scores in reading.scores.items()}
    count = len(reading.places)
    return [{kind: WORDS[kind][chosen[kind][i]] for kind in WORDS} for i in range(count)]


def shares(reading: Reading, scenes: Sequence[world.Scene]) -> dict[str, Float[Tensor, " b"]]:
    """Per kind of word of a caption, 1 for each clip in which it is read as told, else 0."""
    read = words(reading)
    return {
        kind: torch.tensor(
            [float(a[kind] == getattr(s, kind)) for a, s in zip(read, scenes, strict=True)]
        )
        for kind in WORDS
        if kind != "look"
    }


class Recognising:
    """Cross-entropy of all words, on clips of every look and of looks in between."""

    def __init__(self, weights: Recogniser, batch: int, frames: int = 4) -> None:
        """Set up the training.

        Args:
            weights: the network, trained in place.
            batch: clips a step, a multiple of eight.
            frames: frames shown of each clip of eight, spread evenly.
        """
        self.weights, self.batch, self.frames = weights, batch, frames

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Error on a batch of clips."""
        scenes, clips, look = self.clips(generator)
        device = next(self.weights.parameters()).device
        reading = self.weights(clips.to(device))
        total = cross_entropy(reading.scores["look"], look.to(device))
        for kind, known in WORDS.items():
            if kind != "look":
                right = torch.tensor([known.index(getattr(s, kind)) for s in scenes])
                total = total + cross_entropy(reading.scores[kind], right.to(device))
        return total / len(WORDS)

    def clips(
        self, generator: torch.Generator, split: world.Split = "train"
    ) -> tuple[list[world.Scene], Float[Tensor, "b f c h w"], Tensor]:
        """Scenes, clips and the number of each one's look.

        Of eight clips three are crisp, three degraded as the T2V's are (`world.degrade` of
        `world.lamp`), one in ink and one in mosaic. How strongly they are degraded, and how much of
        it is mixed with their crisp selves, is each drawn from `LEAST` to 1, half of the time 1:
        what is made by models lies in between.
        """
        first, second = torch.randint(2**40, (2,), generator=generator).tolist()
        scenes = world.draw(self.batch, seed=first, split=split)
        keep = torch.linspace(0, 7, self.frames).round().long()
        clips = world.render(scenes, frames=8, seed=second)[:, keep]
        eighth = self.batch // 8
        soft, ink, mosaic = (slice(a * eighth, b * eighth) for a, b in ((3, 6), (6, 7), (7, 8)))
        amount = torch.rand(2, 3 * eighth, generator=generator)
        amount = (LEAST + 2 * (1 - LEAST) * amount).clamp_max(1)
        for i, (strength, part) in enumerate(zip(*amount.tolist(), strict=True), soft.start):
            worse = world.degrade(world.lamp(clips[i : i + 1]), strength)[0]
            clips[i] = torch.lerp(clips[i], worse, part)
        clips[ink], clips[mosaic] = world.ink(clips[ink]), world.mosaic(clips[mosaic])
        grain = 0.04 * torch.rand(self.batch, 1, 1, 1, 1, generator=generator)
        clips = clips + grain * torch.randn(clips.shape, generator=generator)
        look = torch.zeros(self.batch, dtype=torch.long)
        look[soft], look[ink], look[mosaic] = 1, 2, 3
        return scenes, clips.clamp_(0, 1), look

    def after(self, step: int, average: dict[str, Tensor]) -> None:
        """Nothing to do between steps."""
