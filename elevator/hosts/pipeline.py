"""What `attach` needs of a pipeline beside its scheduler: sizes, frames, generator, last output."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from elevator.hosts.layouts import PATCH, declared_layout
from elevator.hosts.scheduler import Engine
from elevator.noise import seed_of

__all__ = [
    "frames_per_row",
    "grid_of",
    "kind_of",
    "knows_its_frames",
    "latent_shape",
    "network_of",
    "networks_of",
    "pixels_of",
    "pixels_per_latent",
    "puts_prompt_first",
    "quiet_deprecation",
    "refusal_of",
    "seeds_of",
    "tokens_of",
    "watch_latents",
    "watch_network",
    "without_notice",
]


@contextmanager
def without_notice(logger: str, notice: str) -> Iterator[None]:
    """Keep back what a library's logger says with these words in it.

    Args:
        logger: its name.
        notice: a part of what it says.
    """

    def keep(record: logging.LogRecord) -> bool:
        return notice not in record.getMessage()

    speaker = logging.getLogger(logger)
    speaker.addFilter(keep)
    try:
        yield
    finally:
        speaker.removeFilter(keep)


def quiet_deprecation() -> AbstractContextManager[None]:
    """Keep back the one line that says TextToVideoSDPipeline is no longer developed."""
    notice = "TextToVideoSDPipeline has been deprecated"
    return without_notice("diffusers.pipelines.pipeline_utils", notice)


def networks_of(pipeline: Any) -> list[nn.Module]:
    """The denoising networks of a pipeline: one, or two that share its levels (Wan 2.2)."""
    parts = (getattr(pipeline, name, None) for name in ("unet", "transformer", "transformer_2"))
    return [part for part in parts if isinstance(part, nn.Module)]


def network_of(pipeline: Any) -> nn.Module | None:
    """The denoising network of a pipeline; the first if it has several."""
    return next(iter(networks_of(pipeline)), None)


def kind_of(network: Any) -> type:
    """The class of a network, also of one wrapped by `torch.compile`."""
    from diffusers.utils.torch_utils import is_compiled_module

    if network is not None and is_compiled_module(network):
        return type(network._orig_mod)
    return type(network)


_PROMPT_FIRST = {"LuminaPipeline", "LuminaText2ImgPipeline"}


def puts_prompt_first(pipeline: Any) -> bool:
    """Whether its guided batch has the prompt first; all others have the negative prompt there."""
    return any(cls.__name__ in _PROMPT_FIRST for cls in type(pipeline).__mro__)


_REFUSED = {
    "SkyReelsV2DiffusionForcing": (
        "denoises with a scheduler of its own for every frame, each at another level, so no step "
        "sees a whole clip; use SkyReelsV2Pipeline"
    ),
}
"""Beginnings of the names of pipelines that cannot be hooked, and why."""


def refusal_of(pipeline: Any) -> str | None:
    """Why a pipeline cannot be hooked; None if it can."""
    name = type(pipeline).__name__
    return next(
        (f"{name} {why}" for start, why in _REFUSED.items() if name.startswith(start)), None
    )


def knows_its_frames(pipeline: Any, layout: str | None = None) -> bool:
    """Whether the pipeline itself, or the layout given for it, tells how many frames a clip has."""
    pattern = layout or declared_layout(pipeline)
    if pattern is not None and "(b f)" not in pattern:
        return True
    prepare = getattr(pipeline, "prepare_latents", None)
    return prepare is not None and "num_frames" in inspect.signature(prepare).parameters


def frames_per_row(pipeline: Any, frames: int) -> int:
    """Frames in one row of the network's batch: 1 for image networks, all for video networks."""
    kinds = kind_of(network_of(pipeline)).__mro__
    image = any(cls.__name__ == "UNet2DConditionModel" for cls in kinds)
    return 1 if image or not knows_its_frames(pipeline) else frames


def latent_shape(
    pipeline: Any, frames: int, height: int | None, width: int | None
) -> tuple[int, int, int, int]:
    """(c, f, h, w) of the latents of one clip.

    Args:
        pipeline: where the network and its autoencoder are.
        frames: pictures of the clip.
        height: in pixels; None: the network's own.
        width: as `height`.
    """
    config: Any = getattr(network_of(pipeline), "config", None)
    own = getattr(config, "sample_size", None) or 64
    own_height, own_width = (own, own) if isinstance(own, int) else own
    space, time = pixels_per_latent(pipeline)
    return (
        _channels(pipeline),
        (frames - 1) // time + 1,
        height // space if height else int(own_height),
        width // space if width else int(own_width),
    )


def tokens_of(pipeline: Any, shape: Sequence[int]) -> int:
    """Tokens of latents `(c, f, h, w)` in one row of a transformer's batch."""
    _, frames, rows, columns = shape
    pattern, config = declared_layout(pipeline) or "", getattr(network_of(pipeline), "config", None)
    patch = PATCH["p"] if "p" in pattern else getattr(config, "patch_size", None) or 1
    side = int(patch if isinstance(patch, int) else patch[-1])
    return (rows // side) * (columns // side) * (frames if knows_its_frames(pipeline) else 1)


def _channels(pipeline: Any) -> int:
    """Channels of a clean latent: the VAE's; without one, what the network takes."""
    # The network may take more (an image beside the latent) or packed patches.
    vae: Any = getattr(getattr(pipeline, "vae", None), "config", None)
    for name in ("latent_channels", "z_dim"):
        if getattr(vae, name, None) is not None:
            return int(getattr(vae, name))
    network: Any = network_of(pipeline)
    return int(network.config.in_channels)


_SPACE = (
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
    "vae_spatial_scale_factor",
    "vae_scale_factor",
)
_TIME = (
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_temporal_scale_factor",
)


def pixels_per_latent(pipeline: Any) -> tuple[int, int]:
    """Pixels along a side of a latent pixel, and pictures of a latent frame after the first.

    A causal video autoencoder makes one latent frame of the first picture and one of every
    following few. Read under the names that diffusers gives them.
    """

    def first(names: Sequence[str], otherwise: int) -> int:
        found = (getattr(pipeline, name, None) for name in names)
        return int(next((ratio for ratio in found if ratio), otherwise))

    return first(_SPACE, 8), first(_TIME, 1)


def pixels_of(pipeline: Any, shape: Sequence[int]) -> dict[str, int]:
    """The arguments `height`, `width` and `num_frames` of a call for latents `(b, c, f, h, w)`."""
    _, _, frames, rows, columns = shape
    space, time = pixels_per_latent(pipeline)
    sizes = {"height": space * rows, "width": space * columns}
    sizes["num_frames"] = time * (frames - 1) + 1
    taken = inspect.signature(type(pipeline).__call__).parameters
    return {name: size for name, size in sizes.items() if name in taken}


def grid_of(pipeline: Any, pattern: str, told: Mapping[str, Any]) -> dict[str, int]:
    """Frames, rows and columns of tokens, from what `prepare_latents` was asked for in pixels."""
    space, time = pixels_per_latent(pipeline)
    grid = {}
    for name, patch, size in (("h", "p", told.get("height")), ("w", "q", told.get("width"))):
        if size:
            grid[name] = int(size) // space // (PATCH[patch] if patch in pattern else 1)
    if told.get("num_frames"):
        grid["f"] = (int(told["num_frames"]) - 1) // time + 1
    return grid


class _Prepare:
    """The `prepare_latents` of a pipeline or block that tells what it was asked.

    It pickles as the plain method.
    """

    def __init__(self, owner: Any, told: Callable[[dict[str, Any]], None]) -> None:
        self._owner = owner
        self._original = owner.prepare_latents
        self._told = told
        self.__wrapped__ = self._original  # inspect.signature follows it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(self._original).bind(*args, **kwargs)
        self._told(dict(bound.arguments))
        return self._original(*args, **kwargs)

    def __reduce__(self) -> Any:
        return getattr, (self._owner, "prepare_latents")


def _preparing(part: Any) -> Iterator[Any]:
    """What prepares latents: the pipeline itself, or blocks of a modular one."""
    if hasattr(part, "prepare_latents"):
        yield part
    blocks = getattr(part, "_blocks", part)  # `blocks` of a pipeline is a copy
    for block in getattr(blocks, "sub_blocks", {}).values():
        yield from _preparing(block)


@contextmanager
def watch_latents(pipeline: Any, told: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `told(arguments)` whenever the pipeline prepares its latents."""
    with ExitStack() as undo:
        for owner in _preparing(pipeline):
            undo.enter_context(_told(owner, told))
        yield


@contextmanager
def _told(owner: Any, told: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    own = vars(owner)
    before = own.get("prepare_latents")
    own["prepare_latents"] = _Prepare(owner, told)
    try:
        yield
    finally:
        if before is None:
            del own["prepare_latents"]
        else:
            own["prepare_latents"] = before


class _Capture:
    """A forward hook that keeps a network's last output; pickles as a hook that does nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        self._engine.hear(first if isinstance(first, Tensor) else None)

    def __reduce__(self) -> Any:
        return _nothing_hook, ()


def _ignore(module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
    """The forward hook a pickled pipeline is left with."""


def _nothing_hook() -> Callable[[nn.Module, Sequence[Any], Any], None]:
    return _ignore


@contextmanager
def watch_network(network: nn.Module | None, engine: Engine) -> Iterator[None]:
    """Keep the network's last raw output at hand for `Step.conditional`.

    A native forward hook: it survives offloading, casting and compilation, unlike replaced
    `forward` methods.
    """
    if network is None:
        yield
        return
    handle = network.register_forward_hook(_Capture(engine))
    try:
        yield
    finally:
        handle.remove()


def seeds_of(generator: torch.Generator | Sequence[torch.Generator] | None) -> tuple[int, ...]:
    """One seed per generator given to a pipeline; empty where none was."""
    if generator is None:
        return ()
    if isinstance(generator, torch.Generator):
        return (seed_of(generator),)
    return tuple(seed_of(one) for one in generator)
