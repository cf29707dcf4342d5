r"""The temporal U-Net of Upscale-A-Video: Stable Diffusion's x4 upscaler that knows of time.

Every layer of the image network stays, under its own name. New are, in every transformer, a
convolution over frames before it and attention along time inside it, and after every block a
`TemporalModule`. All of them are neutral when made, so that `TemporalUNet.from_unet2d` starts as
the image network on every frame.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from elevator.errors import CheckError, CheckpointError
from elevator.latent import Latent
from elevator.models.published import Source, fill, known, read_config, read_weights, taken_over
from elevator.models.temporal_attention import Rotary, TemporalTransformer
from elevator.models.temporal_blocks import (
    Downsample,
    FrameConv,
    FrameNorm,
    FrameResnet,
    TemporalModule,
    Upsample,
)

__all__ = ["TemporalUNet"]

ROTARY = 32
"""Channels of a head that rotary positions turn, at most."""

_PLAIN: dict[str, Any] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "dual_cross_attention": False,
    "mid_block_scale_factor": 1,
    "class_embed_type": None,
    "addition_embed_type": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "transformer_layers_per_block": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
}
"""What other networks of the family can be configured for and this one always is."""


class TemporalUNet(ModelMixin, AttentionMixin, ConfigMixin):
    r"""Upscale-A-Video's U-Net (Zhou et al. 2024, arXiv 2312.06640, section 3.2).

    Defaults are the published ones: 1158 tensors, 691 million numbers. Names of arguments are those
    of `UNet2DConditionModel`, hence `attention_head_dim` for the *number* of heads.

    Args:
        sample_size: side of the latents it was trained on; for information.
        in_channels: latent channels and those of the low-resolution frames.
        out_channels: latent channels.
        down_block_types: a name with "CrossAttn" in it for every level with attention.
        up_block_types: as `down_block_types`, from the deepest level up.
        block_out_channels: channels of the levels.
        layers_per_block: residual blocks of a level on the way down; one more on the way up.
        attention_head_dim: heads of every level, or of all.
        cross_attention_dim: width of the text.
        only_cross_attention: whether both attentions of a level attend to the text; one per level,
            or one for all.
        norm_num_groups: groups of every norm.
        norm_eps: of the inherited residual blocks' norms.
        num_class_embeds: labels (noise levels of the low-resolution frames); None for no labels.
        flip_sin_to_cos: cosines first in the embedding of the timestep.
        freq_shift: of that embedding.
        downsample_padding: of the convolutions that halve a side.
        down_temporal_idx: levels on the way down that a `TemporalModule` follows.
        mid_temporal: whether one follows the deepest block.
        up_temporal_idx: as `down_temporal_idx`, on the way up.
        temporal_convolution: convolve over frames before every transformer.
        temporal_attention: attend along time in every transformer.
        rotary: rotary positions in that attention.
        relative_bias: a bias per distance in frames in that attention.
        norm_over_frames: statistics of the residual blocks' norms span all frames given, as
            published; False keeps them apart, as an image network has them.

    Raises:
        CheckError: lists of different lengths, channels that the groups or heads do not divide.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["TemporalTransformer", "FrameResnet"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = 128,
        in_channels: int = 7,
        out_channels: int = 4,
        down_block_types: Sequence[str] = ("DownBlock3D", *("CrossAttnDownBlock3D",) * 3),
        up_block_types: Sequence[str] = (*("CrossAttnUpBlock3D",) * 3, "UpBlock3D"),
        block_out_channels: Sequence[int] = (256, 512, 512, 1024),
        layers_per_block: int = 2,
        attention_head_dim: int | Sequence[int] = 8,
        cross_attention_dim: int = 1024,
        only_cross_attention: bool | Sequence[bool] = (True, True, True, False),
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        num_class_embeds: int | None = 1000,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        downsample_padding: int = 1,
        down_temporal_idx: Sequence[int] = (0, 1, 2, 3),
        mid_temporal: bool = True,
        up_temporal_idx: Sequence[int] = (0, 1, 2, 3),
        temporal_convolution: bool = True,
        temporal_attention: bool = True,
        rotary: bool = True,
        relative_bias: bool = True,
        norm_over_frames: bool = True,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        levels = len(widths)
        heads = _per_level(attention_head_dim, levels)
        crosses = _per_level(only_cross_attention, levels)
        attends = ["CrossAttn" in kind for kind in down_block_types]
        attends_up = ["CrossAttn" in kind for kind in up_block_types]
        _require(widths, heads, crosses, attends, attends_up, norm_num_groups)

        embedding = 4 * widths[0]
        self.conv_in = FrameConv(in_channels, widths[0], 3, padding=1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(widths[0], embedding)
        if num_class_embeds is not None:
            self.class_embedding = nn.Embedding(num_class_embeds, embedding)
        turned = None
        if temporal_attention and rotary:
            used = [width // n for width, n in zip(widths, heads, strict=True)]
            turned = min(ROTARY, *used) // 2 * 2
            self.temporal_rotary_emb = Rotary(turned)  # as published: the blocks have their own

        norms: dict[str, Any] = {"groups": norm_num_groups, "over_frames": norm_over_frames}

        def transformer(level: int, *, only_cross: bool) -> TemporalTransformer:
            return TemporalTransformer(
                widths[level],
                heads[level],
                cross_attention_dim,
                only_cross=only_cross,
                convolution=temporal_convolution,
                attention=temporal_attention,
                rotary=turned,
                relative_bias=relative_bias,
                **norms,
            )

        def resnet(channels: int, out: int) -> FrameResnet:
            return FrameResnet(channels, out, embedding=embedding, eps=norm_eps, **norms)

        def modules(at: Sequence[int], channels: Sequence[int]) -> nn.ModuleDict:
            return nn.ModuleDict(
                {str(i): TemporalModule(channels[i], embedding, **norms) for i in sorted(at)}
            )

        self.down_blocks = nn.ModuleList()
        before = [widths[0], *widths[:-1]]
        for level, width in enumerate(widths):
            ins = [before[level], *[width] * (layers_per_block - 1)]
            self.down_blocks.append(
                _Block(
                    [resnet(channels, width) for channels in ins],
                    [transformer(level, only_cross=crosses[level]) for _ in ins]
                    if attends[level]
                    else [],
                    down=Downsample(width, downsample_padding) if level < levels - 1 else None,
                )
            )
        self.down_temp_blocks = modules(down_temporal_idx, widths)
        deepest = widths[-1]
        self.mid_block = _Block(
            [resnet(deepest, deepest) for _ in range(2)],
            [transformer(levels - 1, only_cross=False)],
        )
        if mid_temporal:
            self.mid_temp_block = TemporalModule(deepest, embedding, **norms)
        skips = _skip_channels(widths, layers_per_block)
        self.up_blocks = nn.ModuleList()
        channels = deepest
        for step, level in enumerate(reversed(range(levels))):
            resnets = []
            for _ in range(layers_per_block + 1):
                resnets.append(resnet(channels + skips.pop(), widths[level]))
                channels = widths[level]
            self.up_blocks.append(
                _Block(
                    resnets,
                    [transformer(level, only_cross=crosses[level]) for _ in resnets]
                    if attends_up[step]
                    else [],
                    up=Upsample(channels) if level else None,
                )
            )
        self.up_temp_blocks = modules(up_temporal_idx, widths[::-1])
        self.conv_norm_out = FrameNorm(norm_num_groups, widths[0], norm_eps, norm_over_frames)
        self.conv_out = FrameConv(widths[0], out_channels, 3, padding=1)

    def forward(
        self,
        sample: Latent,
        timestep: Tensor | float | int,
        encoder_hidden_states: Float[Tensor, "b n d"],
        class_labels: Int[Tensor, " labels"] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Predict for noisy latents.

        Args:
            sample: noisy latents and low-resolution frames, along the channels.
            timestep: one, or one per clip.
            encoder_hidden_states: the text of every clip.
            class_labels: noise level of the low-resolution frames, one per clip or one for all.
            return_dict: give an object with `sample`, and not a tuple.

        Raises:
            CheckError: labels are missing, or given to a network without.
        """
        emb = self._embed(sample, timestep, class_labels)
        text = encoder_hidden_states
        x = self.conv_in(sample)
        skips = [x]
        for level, block in enumerate(self.down_blocks):
            x, made = block(x, emb, text)
            skips += made  # without what the temporal module makes of the last
            x = self._mix(self.down_temp_blocks, level, x, emb)
        x, _ = self.mid_block(x, emb, text)
        if self.config.mid_temporal:
            x = self.mid_temp_block(x, emb)
        count = self.config.layers_per_block + 1
        for step, block in enumerate(self.up_blocks):
            used, skips = skips[-count:], skips[:-count]
            # Sides that were odd on the way down come back as they were.
            size = (skips[-1].shape[3], skips[-1].shape[4]) if skips else None
            x, _ = block(x, emb, text, used, size)
            x = self._mix(self.up_temp_blocks, step, x, emb)
        x = self.conv_out(silu(self.conv_norm_out(x)))
        return UNet3DConditionOutput(sample=x) if return_dict else (x,)

    def _embed(
        self, sample: Tensor, timestep: Tensor | float | int, labels: Tensor | None
    ) -> Tensor:
        known = self.config.num_class_embeds is not None
        if known != (labels is not None):
            raise CheckError(
                [
                    "this TemporalUNet is told the noise level of the low-resolution frames; give "
                    "class_labels=..."
                    if known
                    else "this TemporalUNet has no labels; drop class_labels=..."
                ]
            )
        steps = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        emb = self.time_embedding(self.time_proj(steps.expand(len(sample))).to(sample.dtype))
        return emb if labels is None else emb + self.class_embedding(labels)

    def _mix(self, modules: nn.ModuleDict, place: int, x: Tensor, emb: Tensor) -> Tensor:
        return modules[str(place)](x, emb) if str(place) in modules else x

    def temporal_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of what an image network does not have."""
        new = ("resblock_temporal", "_temporal.", "_temp_block")
        for name, parameter in self.named_parameters():
            if any(part in name for part in new):
                yield name, parameter

    @classmethod
    def from_unet2d(cls, unet: Any, **options: Any) -> "TemporalUNet":
        """An image network with temporal layers, which starts as that network on every frame.

        Args:
            unet: a `UNet2DConditionModel` of Stable Diffusion's kind; it is not changed.
            **options: any argument of this class, such as `temporal_attention=False`. Without
                `norm_over_frames=True` the norms' statistics stay those of single frames.

        Raises:
            CheckError: the network has parts this class has no place for.
        """
        config = dict(unet.config)
        config["attention_head_dim"] = config.get("num_attention_heads") or config.get(
            "attention_head_dim", 8
        )
        problems = _unlike(config)
        if problems:
            raise CheckError([f"TemporalUNet cannot take a {type(unet).__name__} with {problems}"])
        levels = range(len(config["block_out_channels"]))
        given = {
            "down_temporal_idx": tuple(levels),
            "up_temporal_idx": tuple(levels),
            "norm_over_frames": False,
        }
        network = cls(**known(cls, config) | given | options)
        missing, extra = network.load_state_dict(_linear(unet.state_dict()), strict=False)
        new = {name for name, _ in network.temporal_parameters()}
        lost = [name for name in missing if name not in new and not name.endswith(".freqs")]
        return taken_over(network, unet, lost, extra)

    @classmethod
    def from_published(
        cls,
        weights: Source,
        config: str | PathLike[str] | Mapping[str, Any] | None = None,
    ) -> "TemporalUNet":
        """Load `unet_video.bin` as it was published, or tensors of that layout.

        Args:
            weights: the file, or its tensors by name.
            config: `unet_video_config.json` or its content; None for the published numbers.

        Raises:
            CheckpointError: it cannot be read or does not fit, or the configuration asks for parts
                that were never published.
        """
        settings = {} if config is None else read_config(config)
        problems = _unlike(settings)
        kinds = settings.get("temporal_module_config", {}).get("attention_block_types", ())
        if problems or any(kinds):
            raise CheckpointError(
                f"TemporalUNet cannot take a configuration with "
                f"{problems or f'attention_block_types={kinds}'}; give the published one"
            )
        tensors = read_weights(weights)
        network = cls(**known(cls, settings))
        # One parameter under many names, of which formats that refuse shared memory keep one.
        shared = [name for name in network.state_dict() if name.endswith("rotary_emb.freqs")]
        kept = next((tensors[name] for name in shared if name in tensors), None)
        if kept is not None:
            tensors |= {name: kept for name in shared if name not in tensors}
        fill(network, tensors)
        return network.eval()


class _Block(nn.Module):
    """One level of the U-Net: residual blocks, transformers after them, and a change of size.

    The deepest has a transformer after the first of its two residual blocks only.
    """

    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(
        self,
        resnets: Sequence[FrameResnet],
        attentions: Sequence[TemporalTransformer],
        *,
        down: Downsample | None = None,
        up: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        if down is not None:
            self.downsamplers = nn.ModuleList([down])
        if up is not None:
            self.upsamplers = nn.ModuleList([up])
        self.attends, self.halves, self.doubles = len(attentions), down is not None, up is not None
        self.gradient_checkpointing = False

    def run(self, layer: nn.Module, *args: Any) -> Tensor:
        """A layer, kept or computed again for its gradient."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, *args)
        return layer(*args)

    def forward(
        self,
        x: Latent,
        embedding: Float[Tensor, "b e"],
        text: Float[Tensor, "b n d"],
        skips: Sequence[Tensor] = (),
        size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The block's output, and everything on the way to it; `skips` are used from the last."""
        made = []
        for place, resnet in enumerate(self.resnets):
            if skips:
                x = torch.cat([x, skips[-1 - place]], dim=1)
            x = self.run(resnet, x, embedding)
            if place < self.attends:
                x = self.run(self.attentions[place], x, text)
            made.append(x)
        if self.halves:
            x = self.downsamplers[0](x)
            made.append(x)
        if self.doubles:
            x = self.upsamplers[0](x, size)
        return x, made


def _per_level(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * levels


def _skip_channels(widths: Sequence[int], layers: int) -> list[int]:
    """Channels of what the way down leaves for the way up, in its order."""
    channels = [widths[0]]
    for level, width in enumerate(widths):
        channels += [width] * (layers + (level < len(widths) - 1))
    return channels


def _require(
    widths: list[int],
    heads: list[int],
    crosses: list[bool],
    attends: list[bool],
    attends_up: list[bool],
    groups: int,
) -> None:
    """Refuse a configuration that makes no network.

    Raises:
        CheckError: what is wrong, all of it.
    """
    problems = []
    for name, one in (
        ("attention_head_dim", heads),
        ("only_cross_attention", crosses),
        ("down_block_types", attends),
        ("up_block_types", attends_up),
    ):
        if len(one) != len(widths):
            problems.append(f"{name} has {len(one)} entries for {len(widths)} levels; give as many")
    problems += [
        f"{width} channels are no multiple of norm_num_groups={groups}; change one of them"
        for width in sorted(set(widths))
        if width % groups
    ]
    problems += [
        f"{width} channels are no multiple of {count} heads (attention_head_dim); change one"
        for width, count in zip(widths, heads, strict=False)
        if width % count
    ]
    if problems:
        raise CheckError(problems)


def _unlike(config: Mapping[str, Any]) -> str:
    """Settings that this network has no place for, as words; empty if there are none."""
    found = [
        f"{name}={config[name]!r}"
        for name, value in _PLAIN.items()
        if name in config and config[name] != value
    ]
    return ", ".join(found)


def _linear(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the 1x1 convolutions around transformers written as matrices."""
    return {
        name: value.flatten(1) if name.endswith(("proj_in.weight", "proj_out.weight")) else value
        for name, value in tensors.items()
    }
