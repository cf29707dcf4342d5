"""What may be switched on beside a hook, where diffusers has it, and the README's table of both.

`tests/hosts/test_matrix.py` tries what stands here, and `python -m tests.matrix` prints the table.
A feature that diffusers itself lacks for a pipeline is listed with the words in which it fails
without any hook; the test asks for those words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn

from elevator.hosts.layouts import FRAMES_IN_BATCH, LAYOUTS
from elevator.hosts.pipeline import networks_of
from tests.tiny_pipelines import NAMES, described

__all__ = ["FEATURES", "HOOKED", "REFUSED", "Feature", "Lack", "layout", "table"]

HOOKED = tuple(name for name in NAMES if "latents" in described(name))
REFUSED = tuple(name for name in NAMES if "refused" in described(name))


@final
@dataclass(frozen=True)
class Lack:
    """Why diffusers does not have a feature for some pipelines.

    Attributes:
        fails: what the error says when it is switched on there all the same.
        why: the README's footnote.
        of: the classes of networks and pipelines concerned.
    """

    fails: str
    why: str
    of: tuple[str, ...]


@final
@dataclass(frozen=True)
class Feature:
    """Something of diffusers that people switch on for a pipeline.

    Attributes:
        name: head of its column.
        code: how it is switched on, for the README.
        switch_on: does so.
        is_on: whether a network has it, asked after a run.
        changes: whether the latents differ from those without it.
        once: whether it is tried on one pipeline per kind of network only, since it takes long.
        lacks: where diffusers does not have it.
    """

    name: str
    code: str
    switch_on: Callable[[Any], None]
    is_on: Callable[[Any], bool]
    changes: bool = False
    once: bool = False
    lacks: tuple[Lack, ...] = field(default=(), repr=False)

    def lack(self, pipeline: str) -> Lack | None:
        """Why a pipeline cannot have it."""
        kinds = {described(pipeline)["pipeline"], _network(pipeline)}
        return next((lack for lack in self.lacks if kinds & set(lack.of)), None)

    def tried_on(self, pipeline: str) -> bool:
        """Whether it is tried on a pipeline: on the first with its kind of network, if once."""
        same = [name for name in HOOKED if _kind(name) == _kind(pipeline)]
        return not self.once or pipeline == same[0]


def _network(pipeline: str) -> str:
    """Class of a pipeline's network."""
    components = described(pipeline)["components"]
    if "motion_adapter" in components:  # the pipeline puts it into an image network itself
        return "UNetMotionModel"
    cls: str = components.get("unet", components.get("transformer"))["class"]
    return cls.rpartition(".")[2]


def _kind(pipeline: str) -> str:
    """The class of a pipeline's network; all U-Nets are one kind, built of the same blocks."""
    network = _network(pipeline)
    return "UNet" if network.startswith("UNet") else network


# --- features -------------------------------------------------------------------------------------


def _modules(pipe: Any) -> Iterator[nn.Module]:
    return (part for part in pipe.components.values() if isinstance(part, nn.Module))


def _networks(pipe: Any) -> list[Any]:
    return list(networks_of(pipe))


def _offload_models(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def _offload_sequentially(pipe: Any) -> None:
    """As the pipeline's method does, which asks for device cpu:0, where accelerate fails."""
    from accelerate import cpu_offload

    for module in _modules(pipe):
        cpu_offload(module, torch.device("cpu"), offload_buffers=len(module._parameters) > 0)


def _offload_groups(pipe: Any) -> None:
    for network in _networks(pipe):
        network.enable_group_offload(
            onload_device=torch.device("cpu"), offload_type="leaf_level", use_stream=False
        )


def _store_in_float8(pipe: Any) -> None:
    for network in _networks(pipe):
        network.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
        )


def _cache_blocks(pipe: Any) -> None:
    from diffusers import FirstBlockCacheConfig

    for network in _networks(pipe):
        network.enable_cache(FirstBlockCacheConfig(threshold=100.0))  # from the second step on


def _cache_attention(pipe: Any) -> None:
    from diffusers import PyramidAttentionBroadcastConfig

    for network in _networks(pipe):
        config = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_block_identifiers=("blocks",),
            spatial_attention_timestep_skip_range=(0, 1000),
            current_timestep_callback=lambda: 500,
        )
        network.enable_cache(config)


def _add_lora(pipe: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(1)
    for network in _networks(pipe):
        config = LoraConfig(r=2, target_modules=["to_q", "to_query"], init_lora_weights=False)
        if hasattr(network, "add_adapter"):
            network.add_adapter(config)
        else:
            inject_adapter_in_model(config, network)


def _compile(pipe: Any) -> None:
    torch._dynamo.reset()
    for network in _networks(pipe):
        network.compile(backend="eager", fullgraph=True)


def _offloads_groups(network: nn.Module) -> bool:
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    return bool(_is_group_offload_enabled(network))


def _dtypes(network: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in network.parameters()}


_MODULAR = Lack(
    "has no attribute 'enable_model_cpu_offload'",
    "modular pipelines leave offloading to their `ComponentsManager`",
    ("WanModularPipeline",),
)
_NO_CONTEXT = Lack(
    "No cache context is set",
    "diffusers' modular blocks of Wan set no `cache_context`, which this cache asks for",
    ("WanModularPipeline",),
)
_NOT_REGISTERED = Lack(
    "not registered",
    "diffusers does not know the network's blocks for this cache",
    (
        "HunyuanVideo15Transformer3DModel",
        "LTX2VideoTransformer3DModel",
        "SkyReelsV2Transformer3DModel",
    ),
)
_OTHER_NAMES = Lack(
    "Parameter 'hidden_states' not found",
    "the network's blocks name their arguments otherwise than diffusers asks of them here",
    ("Kandinsky5Transformer3DModel",),
)
_BRANCHES = Lack(
    "Data-dependent branching",
    "the network branches on its mask, which no full graph can; without `fullgraph` it compiles",
    ("HunyuanVideo15Transformer3DModel",),
)
_NO_CACHE = Lack(
    "has no attribute 'enable_cache'",
    "the network has no `enable_cache`",
    (
        "CosmosTransformer3DModel",
        "SD3Transformer2DModel",
        "UNet2DConditionModel",
        "UNet3DConditionModel",
        "UNetMotionModel",
        "UNetSpatioTemporalConditionModel",
    ),
)

FEATURES = (
    Feature(
        "offload",
        "pipe.enable_model_cpu_offload()",
        _offload_models,
        lambda network: hasattr(network, "_hf_hook"),
        lacks=(_MODULAR,),
    ),
    Feature(
        "sequential",
        "accelerate.cpu_offload(network), as pipe.enable_sequential_cpu_offload() does",
        _offload_sequentially,
        lambda network: all(parameter.is_meta for parameter in network.parameters()),
    ),
    Feature("groups", "network.enable_group_offload(...)", _offload_groups, _offloads_groups),
    Feature(
        "float8",
        "network.enable_layerwise_casting(...)",
        _store_in_float8,
        lambda network: torch.float8_e4m3fn in _dtypes(network),
        changes=True,
    ),
    Feature(
        "first block",
        "network.enable_cache(FirstBlockCacheConfig(...))",
        _cache_blocks,
        lambda network: bool(network.is_cache_enabled),
        changes=True,
        lacks=(_NO_CACHE, _NO_CONTEXT, _NOT_REGISTERED, _OTHER_NAMES),
    ),
    Feature(
        "broadcast",
        "network.enable_cache(PyramidAttentionBroadcastConfig(...))",
        _cache_attention,
        lambda network: bool(network.is_cache_enabled),
        changes=True,
        lacks=(_NO_CACHE,),
    ),
    Feature(
        "LoRA",
        "network.add_adapter(...)",
        _add_lora,
        lambda network: any("lora_A" in name for name, _ in network.named_parameters()),
        changes=True,
    ),
    Feature(
        "compile",
        'network.compile(backend="eager", fullgraph=True)',
        _compile,
        lambda network: torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0,
        once=True,
        lacks=(_BRANCHES,),
    ),
)


# --- the README's table ---------------------------------------------------------------------------


def layout(pipeline: str) -> str:
    """The latents at a pipeline's step: as listed, or as their number of axes tells."""
    facts = described(pipeline)
    unlisted = FRAMES_IN_BATCH if "frames=" in facts.get("beside", "") else "b c f h w"
    return LAYOUTS.get(facts["pipeline"], unlisted)


def table() -> str:
    """The README's table: a row per pipeline, a column per feature, and why where there is none."""
    notes: list[str] = []
    heads = ["pipeline", "beside", "latents at its step", "hook", "saved"]
    rows = [[*heads, *(feature.name for feature in FEATURES)], ["---"] * (5 + len(FEATURES))]
    for name in (*HOOKED, *REFUSED):
        facts = described(name)
        row = [f"`{facts['pipeline']}`", facts.get("beside", "")]
        if name in REFUSED:
            row += [facts["refused"], "refused", *[""] * (1 + len(FEATURES))]
        else:
            row += [f"`{layout(name).partition(' ->')[0]}`", "yes", "yes"]
            row += [_cell(name, feature, notes) for feature in FEATURES]
        rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    legend = [f"- {feature.name}: `{feature.code}`" for feature in FEATURES]
    return "\n".join([*lines, "", *legend, "", *notes])


def _cell(pipeline: str, feature: Feature, notes: list[str]) -> str:
    lack = feature.lack(pipeline)
    if lack is None:
        return "yes" if feature.tried_on(pipeline) else "(yes)"
    known = [note.partition(" ")[2] for note in notes]
    if lack.why not in known:
        notes.append(f"{len(notes) + 1}. {lack.why}")
        known.append(lack.why)
    return f"no ({known.index(lack.why) + 1})"


if __name__ == "__main__":
    print(table())
