"""Cross-frame attention: a text-to-image network whose frames look at the first one.

Frames are rows of the batch of a 2-D network, which therefore treats them as unrelated images.
Text2Video-Zero (Khachatryan et al. 2023, arXiv 2303.13439) replaces the keys and
values of every *self*-attention layer by those of the first frame; VideoElevator
(arXiv 2403.05438) calls a network patched like this the inflated T2I. For frame f of a clip, with
queries, keys and values of `n` tokens and `d` channels per head,

    out_f = softmax(Q_f K_A(f)^T / sqrt(d)) V_A(f),      Q_f: (n, d),  K_A(f), V_A(f): (m n, d)

where A(f), the frames that f attends to, is (0), (0, f - 1) or (0, f); frame 0 stands for its own
predecessor. Cross-attention, convolutions and norms stay as they are. Frame 0 attends to itself
alone in every variant (twice the same keys are a softmax over once the same keys), so it keeps the
plain network's output.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal, TypeAlias, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from elevator.errors import CheckError, HookError
from elevator.latent import current_frames
from elevator.papers import VIDEOELEVATOR
from elevator.patch import Patch

__all__ = ["CrossFrameAttention"]

Keys: TypeAlias = Literal["first", "first+previous", "first+own"]
Backend: TypeAlias = Literal["native", "xformers", "flash", "sage"]

logger = logging.getLogger(__name__)

# Processors that compute plain attention, by name: whichever of them ran a layer, softmax(QK)V is
# what is lost by replacing it. Fusion of Q, K and V keeps the separate projections in place, and
# slices and the kernel of xformers are honoured. Those of the last line choose kernels that are
# not.
_PLAIN = {"AttnProcessor", "AttnProcessor2_0", "FusedAttnProcessor2_0", "SlicedAttnProcessor"}
_OWN_BACKEND = {"XFormersAttnProcessor": "xformers"}
_KERNELS = {"XLAFlashAttnProcessor2_0", "AttnProcessorNPU"}

_unusable: dict[tuple[str, str, torch.dtype, int], str] = {}
"""Backend, device, dtype and channels per head that were tried in vain, and why."""

_SUPPORTED = "a 2-D diffusers UNet such as UNet2DConditionModel, whose batch rows are the frames"


@final
@dataclass(frozen=True)
class CrossFrameAttention(Patch):
    """Inflate a 2-D network: self-attention takes its keys and values from other frames.

    The rows of a batch are clips of `current_frames()` consecutive frames, whatever prompts and
    guidance multiply them: `(g b f)`. Enable attention slicing, xformers or fused projections
    before; while the patch is on they would replace it, which is caught at the next call.

    Attributes:
        keys: frames attended to. "first": the first one of the clip (the paper's);
            "first+previous", "first+own": that one and another.
        backend: kernel of the inflated layers, by diffusers' name for it. None: xformers where it
            ran the layer before, else what diffusers' `attention_backend`, `set_attention_backend`
            or `DIFFUSERS_ATTN_BACKEND` chose. A kernel that is not installed, or not made for the
            layer's device, dtype or head size, gives way to PyTorch's own with one warning.
    """

    keys: Keys = "first"
    backend: Backend | None = None

    paper: ClassVar[str | None] = (
        VIDEOELEVATOR
        + """

@article{khachatryan2023text2videozero,
  title = {Text2Video-Zero: Text-to-Image Diffusion Models are Zero-Shot Video Generators},
  author = {Khachatryan, Levon and Movsisyan, Andranik and Tadevosyan, Vahram and
            Henschel, Roberto and Wang, Zhangyang and Navasardyan, Shant and Shi, Humphrey},
  journal = {arXiv preprint arXiv:2303.13439},
  year = {2023}
}"""
    )

    def __post_init__(self) -> None:
        """Refuse an unknown choice of keys or kernel."""
        if self.keys not in get_args(Keys):
            raise ValueError(f"keys must be one of {', '.join(get_args(Keys))}; got {self.keys!r}")
        if self.backend not in (None, *get_args(Backend)):
            raise ValueError(
                f"backend must be None or one of {', '.join(get_args(Backend))}; "
                f"got {self.backend!r}"
            )

    def check(self, module: nn.Module) -> Iterable[str]:
        """Why a network cannot be inflated."""
        try:
            _self_attention(getattr(module, "_orig_mod", module))
        except CheckError as error:
            yield from error.problems

    @contextmanager
    def apply(self, module: nn.Module) -> Iterator[None]:
        """Inflate `module` within the `with` block; on exit every processor is the one before.

        Args:
            module: a 2-D diffusers network, compiled or not.

        Raises:
            CheckError: the network has no plain self-attention over single frames to inflate.
        """
        module = getattr(module, "_orig_mod", module)  # the network inside torch.compile's wrapper
        inflated = tuple(
            (name, attn, _CrossFrameProcessor(self.keys, attn.processor, self.backend))
            for name, attn in _self_attention(module)
        )
        before = _processors(module)
        guard = module.register_forward_pre_hook(_Guard(inflated))
        try:
            for _, attn, processor in inflated:
                attn.set_processor(processor)
            yield
        finally:
            guard.remove()
            for part, original in before:
                if part.processor is not original:
                    part.set_processor(original)
            _forget(module)


class _CrossFrameProcessor:
    """Runs one self-attention layer with the keys and values of other frames."""

    def __init__(self, keys: Keys, plain: Any, backend: str | None) -> None:
        self.keys = keys
        self.plain = plain
        self.slice_size: int | None = getattr(plain, "slice_size", None)
        self.told: tuple[int | None, str] = (None, "native")
        # Under this name a network's `set_attention_backend` finds it.
        self._attention_backend = backend or _OWN_BACKEND.get(type(plain).__name__)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Map `(b f) n c` or `(b f) c h w` to the same shape."""
        if encoder_hidden_states is not None or attention_mask is not None:
            given = "attention_mask" if encoder_hidden_states is None else "encoder_hidden_states"
            raise HookError(
                f"a self-attention layer under CrossFrameAttention was given {given}, which "
                "belongs to the frame's own keys and not to those of another frame; "
                f"call the network without {given} for its self-attention"
            )
        # A compiler cannot look into context variables; the guard has looked for it.
        published, backend = self.told if torch.compiler.is_compiling() else self.look()
        frames = _whole(published, hidden_states.shape[0])

        x = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)

        clips = x.unflatten(0, (-1, frames))  # b f n c
        attended = clips[:, : _projected(self.keys, frames)]
        query = _heads(attn, attn.to_q(clips), attn.norm_q)  # b f n heads d
        key = _heads(attn, attn.to_k(attended), attn.norm_k)
        value = _heads(attn, attn.to_v(attended), None)
        if self.keys == "first":
            # One set of keys per clip: its frames are so many more queries, nothing is copied.
            query, key, value = (part.flatten(1, 2) for part in (query, key, value))
        else:
            key, value = (_pair(self.keys, part, frames) for part in (key, value))
            query, key, value = (part.flatten(0, 1) for part in (query, key, value))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        out = self._attend(query, key, value, attn.scale, x.shape[1], backend)

        out = out.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)
        for layer in attn.to_out:  # a projection and its dropout
            out = layer(out)
        if hidden_states.ndim == 4:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor

    def look(self) -> tuple[int | None, str]:
        """What is published now: frames of a clip, and the backend of attention."""
        return current_frames(), _name_of(self._attention_backend)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, tokens: int, backend: str
    ) -> Tensor:
        """Attention of `(rows, heads, n, d)`; sliced, `slice_size` heads of one frame at a time."""
        if self.slice_size is None:
            return _attention(q, k, v, scale, backend)
        out = torch.empty_like(q)
        for row, head in product(range(q.shape[0]), range(0, q.shape[1], self.slice_size)):
            some = (slice(row, row + 1), slice(head, head + self.slice_size))
            for start in range(0, q.shape[2], tokens):
                at = (*some, slice(start, start + tokens))
                out[at] = _attention(q[at], k[some], v[some], scale, backend)
        return out


def _name_of(backend: str | None) -> str:
    """The name of a backend of diffusers; of its active one where none is chosen."""
    from diffusers.models import attention_dispatch as dispatch

    if backend is None:
        backend, _ = dispatch._AttentionBackendRegistry.get_active_backend()
    return str(dispatch.AttentionBackendName(backend).value)


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
    """Attention of `(rows, heads, n, d)` by a backend, or PyTorch's own if that cannot be used."""
    case = (backend, q.device.type, q.dtype, q.shape[-1])
    if backend != "native" and case not in _unusable:
        try:
            return _dispatched(q, k, v, scale, backend)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # every kernel has errors of its own for what it cannot do
            _give_up(case, " ".join(str(error).split()) or type(error).__name__)
    return scaled_dot_product_attention(q, k, v, scale=scale)


def _give_up(case: tuple[str, str, torch.dtype, int], why: str) -> None:
    """Remember that a backend cannot be used for a case, and say so once for every reason."""
    known = any(backend == case[0] and why == told for (backend, *_), told in _unusable.items())
    _unusable[case] = why
    if not known:
        logger.warning(
            "%s attention cannot be used on %s for %s and %d channels per head (%s): layers "
            "inflated by CrossFrameAttention run PyTorch's scaled_dot_product_attention, with the "
            "same result up to rounding",
            *case,
            why,
        )


def _dispatched(q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
    """Attention of `(rows, heads, n, d)` through diffusers, which wants `(rows, n, heads, d)`."""
    from diffusers import utils
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    packages = {
        "xformers": ("xformers", utils.is_xformers_available),
        "flash": ("flash-attn", utils.is_flash_attn_available),
        "sage": ("sageattention", utils.is_sageattention_available),
    }
    package, installed = packages.get(backend, (backend, lambda: True))
    if not installed():
        raise RuntimeError(f"{package} is not installed")
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out: Tensor = dispatch_attention_fn(q, k, v, scale=scale, backend=backend)
    return out.transpose(1, 2)


def _whole(frames: int | None, rows: int) -> int:
    """Frames per clip as published by whoever calls the network, if `rows` are whole clips."""
    if frames is None:
        raise HookError(
            f"CrossFrameAttention cannot tell how many of the {rows} batch rows are frames of one "
            "clip; give attach(..., frames=...), or call the network through el.denoiser(...)"
        )
    if frames < 1 or rows % frames:
        raise HookError(
            f"a batch of {rows} rows is not a whole number of clips of {frames} frames, so "
            "CrossFrameAttention cannot find the first frame of each; make frames=... the frames "
            "per clip and call the network with whole clips (guidance and several prompts repeat "
            "whole clips)"
        )
    return frames


def _projected(keys: Keys, frames: int) -> int:
    """How many leading frames of a clip some frame attends to: only these need K and V."""
    return {"first": 1, "first+previous": max(frames - 1, 1), "first+own": frames}[keys]


def _heads(attn: Any, x: Tensor, norm: nn.Module | None) -> Tensor:
    """Split the channels into heads, `... c` to `... heads d`, and normalise each head."""
    x = x.unflatten(-1, (attn.heads, -1))
    return x if norm is None else norm(x)


def _pair(keys: Keys, x: Tensor, frames: int) -> Tensor:
    """Tokens of the first and of the other frame, for each frame: `b m n ...` to `b f 2n ...`."""
    first = x[:, :1]
    other = x if keys == "first+own" else torch.cat([first, x[:, : frames - 1]], dim=1)
    return torch.cat([first.expand_as(other), other], dim=2)


class _Guard:
    """A forward pre-hook that raises when somebody else's processor runs an inflated layer.

    It stays outside of what is compiled, and tells the processors there what they cannot see.
    """

    def __init__(self, inflated: tuple[tuple[str, Any, _CrossFrameProcessor], ...]) -> None:
        self.inflated = inflated

    @torch.compiler.disable
    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for name, attn, processor in self.inflated:
            processor.told = processor.look()
            if attn.processor is not processor:
                raise HookError(
                    f"the attention processor of {type(module).__name__}.{name} was replaced by "
                    f"{type(attn.processor).__name__} while CrossFrameAttention was on, so its "
                    "frames would no longer see each other; enable xformers, attention slicing, "
                    "fused projections or other processors before attaching, not inside the block"
                )


def _processors(module: nn.Module) -> list[tuple[Any, Any]]:
    """Every attention layer of a network with the processor that runs it now."""
    parts: Iterable[Any] = module.modules()
    return [(part, part.processor) for part in parts if hasattr(part, "set_processor")]


def _forget(module: nn.Module) -> None:
    """Take our processors out of what `fuse_qkv_projections` keeps for unfusing."""
    kept = getattr(module, "original_attn_processors", None) or {}
    for name, processor in kept.items():
        if isinstance(processor, _CrossFrameProcessor):
            kept[name] = processor.plain


def _self_attention(module: nn.Module) -> list[tuple[str, Any]]:
    """The self-attention layers of a 2-D network by name, or why it cannot be inflated."""
    from diffusers.models.attention_processor import Attention

    kind = type(module).__name__
    if not hasattr(module, "attn_processors"):
        raise CheckError([f"{kind} has no attn_processors to inflate; give {_SUPPORTED}"])
    names = {type(part).__name__ for part in module.modules()}
    mixing = [n for n in names if "Temporal" in n or "AnimateDiff" in n or "Motion" in n]
    if mixing:
        raise CheckError(
            [f"{kind} already mixes frames (it has a {min(mixing)}); give {_SUPPORTED}"]
        )
    layers = [
        (name, part)
        for name, part in module.named_modules()
        # with added keys a layer is self- and cross-attention in one: found here, refused below
        if isinstance(part, Attention) and (not part.is_cross_attention or part.added_kv_proj_dim)
        if ".fuser." not in name  # GLIGEN's, which attend to the boxes of the frame itself
    ]
    if not layers:
        raise CheckError([f"{kind} has no self-attention layer to inflate; give {_SUPPORTED}"])
    used = {type(attn.processor).__name__: name for name, attn in layers}
    problems = [
        f"{kind}.{name} is run by {processor}, which does more than plain attention and would be "
        "lost; give the layer AttnProcessor2_0 if it can do without, or inflate another network"
        for processor, name in used.items()
        if processor not in _PLAIN | _KERNELS | _OWN_BACKEND.keys()
    ]
    if problems:
        raise CheckError(problems)
    for processor in sorted(used.keys() & _KERNELS):
        logger.warning(
            "%s of %s stands aside while CrossFrameAttention is on: inflated layers run PyTorch's "
            "scaled_dot_product_attention, as lean in memory, with the same result up to rounding",
            processor,
            kind,
        )
    return layers
