r"""A video network that sees a long clip through windows of the length it was trained on.

The network is called on overlapping windows of $L$ frames, $S$ frames apart, and a frame's output
is the mean of what the windows around it say, weighted by how near it is to the middle of each,

$$m_j = \frac{\sum_i w_{ij}\, m^{(i)}_j}{\sum_i w_{ij}}, \qquad
  w_{ij} = \frac{L + 1}{2} - \lvert j - c_i \rvert,$$

with $c_i$ the middle of window $i$: 1, 2, ..., 2, 1 over a window. These are the weights of
FreeNoise (Qiu et al. 2023, arXiv 2310.15169, "window-based attention fusion"), which blends inside
every temporal attention layer and so still holds activations of all frames. Blending the network's
outputs (Wang et al. 2023, arXiv 2305.18264, "temporal co-denoising") needs the memory of $L$
frames, whatever the length of the clip, and knows nothing of the network's layers.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from elevator.denoise import Call
from elevator.errors import CheckError, LayoutError
from elevator.latent import publish_frames
from elevator.patch import Patch
from elevator.video.windows import blend, spans

__all__ = ["FrameWindows"]

_NETWORKS = ("UNet3DConditionModel", "UNetMotionModel", "TemporalUNet")


@final
@dataclass(frozen=True)
class FrameWindows(Patch):
    """Call a video network on at most `frames` frames at once and blend what it says.

    For `UNet3DConditionModel`, `UNetMotionModel` and `TemporalUNet`, whose latents are `b c f h w`.
    Whatever else has a row per frame, `(b f) ...`, such as the motion network's text or a
    ControlNet's residuals, is cut along. Clips of at most `frames` frames are left to the network,
    bit for bit.

    A clip of F frames takes ceil((F - L) / S) + 1 calls of L frames. Start from
    `samplers.rescheduled_noise` of the same window and stride.

    Attributes:
        frames: frames L of a window, >= 1; the length the network was trained on.
        stride: frames S from one window to the next, from 1 (smoothest) to `frames` (no overlap,
            visible joints); 4 of 16 in the paper.

    Raises:
        ValueError: a number out of range.
    """

    frames: int = 16
    stride: int = 4

    paper: ClassVar[str | None] = """\
@article{qiu2023freenoise,
  title = {{FreeNoise}: Tuning-Free Longer Video Diffusion via Noise Rescheduling},
  author = {Qiu, Haonan and Xia, Menghan and Zhang, Yong and He, Yingqing and Wang, Xintao and
            Shan, Ying and Liu, Ziwei},
  journal = {arXiv preprint arXiv:2310.15169},
  year = {2023}
}

@article{wang2023genlvideo,
  title = {{Gen-L-Video}: Multi-Text to Long Video Generation via Temporal Co-Denoising},
  author = {Wang, Fu-Yun and Chen, Wenshuo and Song, Guanglu and Ye, Han-Jia and Liu, Yu and
            Li, Hongsheng},
  journal = {arXiv preprint arXiv:2305.18264},
  year = {2023}
}"""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.stride <= self.frames:
            raise ValueError(
                "FrameWindows takes 1 <= stride <= frames, so that windows leave no frame out; "
                f"got stride {self.stride} and frames {self.frames}"
            )

    def spans(self, frames: int) -> list[range]:
        """The windows of a clip; the last one is moved back to end with it."""
        return spans(frames, self.frames, self.frames - self.stride)

    def calls(self, call: Call) -> Iterable[Call]:
        """One call per window."""
        return [call._replace(frames=len(span)) for span in self.spans(call.frames)]

    def check(self, module: nn.Module) -> Iterable[str]:
        """Why a network cannot be called on windows."""
        network: Any = getattr(module, "_orig_mod", module)
        kinds = [cls.__name__ for cls in type(network).__mro__]
        if not any(name in kinds for name in _NETWORKS):
            yield (
                f"FrameWindows cuts the frames of {', '.join(_NETWORKS[:-1])} and {_NETWORKS[-1]}, "
                f"not of {kinds[0]}; "
                "drop it: image networks take frames one by one as it is (call them on fewer), and "
                "video transformers pack frames into tokens, which cannot be cut here"
            )
            return
        longest = getattr(network.config, "motion_max_seq_length", None)
        if longest is not None and self.frames > longest:
            yield (
                f"the motion module knows {longest} frames at most, FrameWindows asks it for "
                f"{self.frames}; give FrameWindows({longest}, stride=...)"
            )

    @contextmanager
    def apply(self, module: nn.Module) -> Iterator[None]:
        """Call `module` on windows within the `with` block; on exit it has its very class back.

        Its class is swapped, as a scheduler's is, and not `forward`: hooks of other libraries that
        put it on and off (offloading) see a call per window and stay what they are. Copies and
        pickles are plain networks.

        Args:
            module: the network, compiled or not. Already on the same windows, it is left alone.

        Raises:
            CheckError: it is no network whose frames can be cut, or already cut otherwise.
        """
        problems = list(self.check(module))
        if problems:
            raise CheckError(problems)
        original = type(module)
        present = getattr(original, "_elevator_windows", None)
        if present == self:
            yield
            return
        if present is not None:
            raise CheckError([f"{original.__name__} is already called on {present!r}; keep one"])
        module.__class__ = _windowed(original, self)
        try:
            yield
        finally:
            module.__class__ = original


def _windowed(base: Any, windows: FrameWindows) -> type:
    """The subclass of a network's class that calls it window by window."""

    class Windowed(base):
        _elevator_windows = windows

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return _blend(windows, super().__call__, args, kwargs)

        def __reduce_ex__(self, protocol: Any) -> Any:
            make, given, *rest = super().__reduce_ex__(protocol)
            if make is Windowed:  # compiled networks are made again by their class
                return (base, given, *rest)
            return (_make, (base,), *rest)

    Windowed.__name__, Windowed.__qualname__ = base.__name__, base.__qualname__
    Windowed.__module__ = base.__module__
    return Windowed


def _make(cls: Any) -> Any:
    """An object for a copy or a pickle to fill."""
    return object.__new__(cls)


def _blend(windows: FrameWindows, network: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """The network's output for a whole clip, in the form and dtype it has for a window."""
    sample = args[0] if args else kwargs.get("sample")
    if not isinstance(sample, Tensor) or sample.ndim != 5:
        shape = tuple(sample.shape) if isinstance(sample, Tensor) else type(sample).__name__
        raise LayoutError(f"FrameWindows cuts latents of axes b c f h w, got {shape}")
    batch, _, frames, _, _ = sample.shape
    plan, rows = windows.spans(frames), batch * frames
    if len(plan) == 1:
        return network(*args, **kwargs)
    outputs: list[Any] = []  # the last one: what is not the sample is taken from it

    def parts() -> Iterator[Tensor]:
        for span in plan:
            given, named = (_cut(one, frames, rows, span) for one in (args, kwargs))
            with publish_frames(len(span)):
                outputs[:] = [network(*given, **named)]
            yield outputs[0][0]

    mixed = torch.cat([*blend(parts(), plan, 2)], 2)
    (output,) = outputs
    return (mixed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=mixed)


def _cut(given: Any, frames: int, rows: int, span: range) -> Any:
    """What belongs to the frames of a window, of anything a network is called with."""
    if isinstance(given, dict):
        return {name: _cut(one, frames, rows, span) for name, one in given.items()}
    if isinstance(given, tuple | list):
        return type(given)(_cut(one, frames, rows, span) for one in given)
    if not isinstance(given, Tensor):
        return given
    if given.ndim == 5 and given.shape[2] == frames:
        return given[:, :, span.start : span.stop]
    if given.ndim > 0 and len(given) == rows:
        return given.unflatten(0, (-1, frames))[:, span.start : span.stop].flatten(0, 1)
    return given
