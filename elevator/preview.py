"""Look at the clean estimate while it is sampled: hooks that give back what they were given.

    preview = el.preview.ContactSheet("preview.png", decode=el.preview.decode_with(pipe.vae))
    with el.attach(pipe, el.chain(hook, el.every(5, preview))):
        ...  # call the pipeline, and keep preview.png open

A hook sees what the hooks before it in the chain made of the estimate. `at`, `every`, ... choose
the steps.

Looking never changes a run: the very same latent is returned, what looks is given a copy, and
torch's global generators are put back after it. Nor does it end a run: sampling may have taken an
hour that a full disk must not cost. An error in what looks is told at once by a `RuntimeWarning`,
and the run goes on without that preview.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from elevator.hook import Hook, Host, Run, Step
from elevator.latent import Latent
from elevator.video.io import VideoError, as_bytes, check_image_target, write_image
from elevator.video.sheet import contact_sheet, evenly

__all__ = ["ContactSheet", "Decode", "Preview", "decode_with", "project_with"]

Decode: TypeAlias = Callable[[Latent], Float[Tensor, "b f 3 y x"]]
"""From latents `b c f h w` to frames in [0, 1], of any size."""

T = TypeVar("T")


@final
@dataclass(frozen=True, repr=False)
class Preview(Hook[bool]):
    """Hand the clean estimate to a function: `function(clean, step)`; what it returns is dropped.

    The estimate may be kept or written into; the tensors of `step` are the run's own and may not.

    Attributes:
        function: what looks; not called when nothing is computed (`el.plan`).
    """

    function: Callable[[Latent, Step], object]

    def __repr__(self) -> str:
        return f"Preview({_name(self.function)})"

    def init(self, run: Run) -> bool:
        """Whether it still looks; an error ends that."""
        return True

    def update(self, clean: Latent, step: Step, state: bool) -> tuple[Latent, bool]:
        """Look, and change nothing."""
        if not state or clean.is_meta:
            return clean, state
        seen = _look(self, step, lambda: (self.function(clean.clone(), step),))
        return clean, seen is not None

    def acts_at(self, steps: int) -> frozenset[int]:
        """Nowhere: the estimate is never changed."""
        return frozenset()


class _Row(NamedTuple):
    label: str
    frames: NDArray[np.uint8]


@final
@dataclass(frozen=True, repr=False)
class ContactSheet(Hook[tuple[_Row, ...] | None]):
    """A picture that grows as the run goes on: a row per step looked at, frames as columns.

    Written anew at every such step, aside and then renamed, so that what shows it never sees half
    of it; the next run starts over. Of several clips it shows the first.

    Attributes:
        path: where to, ending in `.png`.
        decode: from latents to frames: `decode_with(pipe.vae)`, `project_with(pipe.vae)`,
            `el.codec(pipe).pictures`, or any function; given the shown frames only.
        columns: most frames shown, evenly chosen, >= 1.
        side: most pixels of a frame's longer side, >= 1; larger frames are averaged down.
        whole: whether `decode` is given the whole clip, and the frames are chosen from what it
            makes of it: for video autoencoders, whose latent frames need the ones before.

    Raises:
        ValueError: no column or no pixel.
    """

    path: str | Path
    decode: Decode
    columns: int = 8
    side: int = 96
    whole: bool = False

    def __post_init__(self) -> None:
        for name in ("columns", "side"):
            if getattr(self, name) < 1:
                raise ValueError(f"ContactSheet takes {name} >= 1, got {getattr(self, name)}")

    def __repr__(self) -> str:
        return f"ContactSheet({str(self.path)!r}, decode={_name(self.decode)})"

    def check(self, host: Host) -> Iterable[str]:
        """Whether the picture can be written."""
        try:
            check_image_target(self.path)
        except VideoError as error:
            yield str(error)

    def init(self, run: Run) -> tuple[_Row, ...] | None:
        """No row yet; None once it failed."""
        return ()

    def update(
        self, clean: Latent, step: Step, state: tuple[_Row, ...] | None
    ) -> tuple[Latent, tuple[_Row, ...] | None]:
        """Add a row, and change nothing."""
        if state is None or clean.is_meta:
            return clean, state
        return clean, _look(self, step, lambda: (*state, self._draw(clean, step, state)))

    def acts_at(self, steps: int) -> frozenset[int]:
        """Nowhere: the estimate is never changed."""
        return frozenset()

    def _draw(self, clean: Latent, step: Step, rows: tuple[_Row, ...]) -> _Row:
        """Write the picture with one more row."""
        if self.whole:
            clip = self.decode(clean[:1])[0]
            chosen = evenly(len(clip), self.columns)
            frames = clip[chosen].float().cpu()
        else:
            chosen = evenly(clean.shape[2], self.columns)
            frames = self.decode(clean[:1, :, chosen])[0].float().cpu()
        high, wide = frames.shape[-2:]
        share = min(1.0, self.side / max(high, wide))
        small = (max(1, round(share * high)), max(1, round(share * wide)))
        frames = adaptive_avg_pool2d(frames, small)
        ratio = float(step.level.sigma / step.level.alpha)
        label = f"step {step.index}, sigma / alpha = {ratio:.2g}"
        row = _Row(label, as_bytes(rearrange(frames, "f c h w -> f h w c").numpy()))
        title = f"clean estimate, {len(step.run.schedule)} steps"
        sheet = contact_sheet((*rows, row), title, numbers=chosen, least=self.side)
        write_image(sheet, self.path)
        return row


def _look(hook: Hook[Any], step: Step, look: Callable[[], T]) -> T | None:
    """What `look` returns, without a trace of it in the run; None and a warning if it fails."""
    device = step.noisy.device
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            return look()
    except Exception as error:
        warnings.warn(
            f"{hook!r} failed at step {step.index} and is left out of the rest of the run, which "
            f"goes on ({type(error).__name__}: {error})",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def _name(function: object) -> str:
    return getattr(function, "__qualname__", repr(function))


# --- from latents to frames -----------------------------------------------------------------------

_IMAGE_VAES = ("AutoencoderKL", "AsymmetricAutoencoderKL", "AutoencoderTiny")


@final
@dataclass(frozen=True)
class _Decoded:
    vae: Any

    def __repr__(self) -> str:
        return f"decode_with(<{type(self.vae).__name__}>)"

    def __call__(self, latents: Latent) -> Float[Tensor, "b f 3 y x"]:
        scale, shift = _scaling(self.vae)
        rows = rearrange(latents, "b c f h w -> (b f) 1 c h w") / scale + shift
        rows = rows.to(self.vae.device, self.vae.dtype)
        with torch.no_grad():
            # One after another: beside a network in the middle of its run there is little memory.
            frames = torch.cat([self.vae.decode(row).sample.float() for row in rows])
        return rearrange(frames, "(b f) c h w -> b f c h w", f=latents.shape[2]) / 2 + 0.5


def decode_with(vae: Any) -> Decode:
    """Frames as an image autoencoder decodes them, one after another.

    Args:
        vae: a pipeline's `AutoencoderKL`; or, cheaper, the `AutoencoderTiny` that goes with it.

    Raises:
        ValueError: another kind of autoencoder; video ones have each their own scaling
            (`el.codec(pipe).pictures`).
    """
    _require_image_vae("decode_with", vae, _IMAGE_VAES)
    return _Decoded(vae)


@final
@dataclass(frozen=True, eq=False)
class _Projected:
    vae: str
    factors: Float[Tensor, "c 3"]

    def __repr__(self) -> str:
        return f"project_with(<{self.vae}>)"

    def __call__(self, latents: Latent) -> Float[Tensor, "b f 3 y x"]:
        factors = self.factors.to(latents)
        colours = torch.einsum("bcfhw,cd->bfdhw", latents, factors[:-1])
        return colours + factors[-1][:, None, None]


def project_with(vae: Any) -> Decode:
    r"""A colour per latent pixel, without a network: the affine map that fits the encoder best.

    $$\min_{A, a} \sum_i \lVert A z_i + a - y_i \rVert^2$$

    over the latent pixels $z_i$ of random soft pictures, encoded here and now, and the mean colours
    $y_i$ of the area each stands for. It shows what is where (with the built-in autoencoder it
    explains 90 % of the variance of crisp stills, of 93 % that any affine map could); for detail
    use `decode_with`.

    Args:
        vae: a pipeline's `AutoencoderKL`.

    Raises:
        ValueError: another kind of autoencoder.
    """
    _require_image_vae("project_with", vae, _IMAGE_VAES[:2])
    across = 8
    scale, shift = _scaling(vae)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((64, 3, 4, 4), generator=generator)
    size = across * 2 ** (len(vae.config.block_out_channels) - 1)
    pictures = interpolate(coarse, size, mode="bilinear")
    with torch.no_grad():
        given = (pictures * 2 - 1).to(vae.device, vae.dtype)
        encoded = torch.cat([vae.encode(one).latent_dist.mean for one in given.split(8)])
    latents = (encoded.float().cpu() - shift) * scale
    pixels = rearrange(latents, "n c h w -> (n h w) c")
    colours = rearrange(adaptive_avg_pool2d(pictures, across), "n c h w -> (n h w) c")
    ones = torch.ones(len(pixels), 1)
    factors = torch.linalg.lstsq(torch.cat([pixels, ones], 1), colours).solution
    return _Projected(type(vae).__name__, factors)


def _require_image_vae(name: str, vae: Any, known: tuple[str, ...]) -> None:
    if not any(cls.__name__ in known for cls in type(vae).__mro__):
        raise ValueError(
            f"{name} knows {', '.join(known)}, and was given a {type(vae).__name__}; give "
            "decode=a function from latents (b c f h w) to frames (b f 3 y x) in [0, 1], such as "
            "el.codec(pipe).pictures, with whole=True where it is a video pipeline"
        )


def _scaling(vae: Any) -> tuple[float, float]:
    """Scale and shift of a pipeline's latents against the autoencoder's own."""
    return float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0)
