"""LoRA and textual-inversion files on a pipeline, through diffusers and PEFT."""

import os
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from elevator.errors import CheckpointError
from elevator.hosts.single_files import is_lora
from elevator.hosts.sources import Source, failed, read_header, reason, weight_file

__all__ = ["Lora", "TextualInversion", "add_lora", "add_textual_inversion"]

Lora = Source | tuple[Source, float | int]
"""A file, or a file and its scale."""
TextualInversion = Source | tuple[Source, str]
"""A file, or a file and the token that stands for it."""

_LORA_FILE = "a LoRA as one .safetensors file (PEFT or kohya format)"
_INVERSION_FILE = "a textual inversion as one .safetensors file"


def add_lora(pipeline: Any, files: Sequence[Lora] | Source) -> None:
    """Put LoRA files on a pipeline's network and text encoder, all active at once.

    Each file becomes a PEFT adapter named after it: `pipeline.set_adapters(names, scales)` changes
    the scales afterwards.

    Args:
        pipeline: any pipeline with `load_lora_weights`; changed in place.
        files: safetensors files in PEFT or kohya format, each alone or with its scale (1 if not
            given).

    Raises:
        CheckpointError: a file is missing, a pickle, no LoRA, or does not fit the network.
    """
    names: list[str] = []
    scales: list[float] = []
    for source, scale in _pairs(files, 1.0, "scale"):
        path = weight_file(source, _LORA_FILE)
        if not is_lora(read_header(path)):
            raise CheckpointError(f"{path} holds no LoRA factors; expected {_LORA_FILE}")
        if not hasattr(pipeline.unet, "load_lora_adapter"):
            raise CheckpointError(
                f"{path} cannot be put on a {type(pipeline.unet).__name__}: diffusers has no LoRA "
                "for this network; give the LoRA to the T2I, or use a T2V with a motion adapter"
            )
        names.append(_name(path, names))
        scales.append(float(scale))
        _load(pipeline, path, names[-1])
    if names:
        pipeline.set_adapters(names, scales)


def _pairs(files: Any, default: Any, what: str) -> Iterator[tuple[Source, Any]]:
    """Every file with what stands beside it, or the default."""
    for item in [files] if isinstance(files, (str, os.PathLike)) else files:
        pair = item if isinstance(item, tuple) else (item, default)
        if len(pair) != 2 or not isinstance(pair[0], (str, os.PathLike)):
            raise CheckpointError(
                f"{item!r} is not a path; give a list of paths or of (path, {what}) pairs"
            )
        yield pair


def _load(pipeline: Any, path: Path, name: str) -> None:
    network = type(pipeline.unet).__name__
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
            pipeline.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=name,
                use_safetensors=True,
                local_files_only=True,
            )
    except Exception as error:  # peft, torch and diffusers each have their own
        raise CheckpointError(
            f"{path} does not fit this {network} ({reason(error)}); use a LoRA made for the same "
            "family of models"
        ) from error
    if not any(name in adapters for adapters in pipeline.get_list_adapters().values()):
        raise CheckpointError(
            f"{path} has no layer for this {network}; expected names that begin with unet. or "
            "text_encoder. (PEFT), lora_unet_ or lora_te_ (kohya); use a LoRA made for the same "
            "family of models"
        )


def _name(path: Path, taken: Collection[str]) -> str:
    """The adapter of a file: its name, without the dots that would be read as submodules."""
    stem = re.sub(r"\W", "_", path.stem)
    names = (stem, *(f"{stem}_{i}" for i in range(1, len(taken) + 1)))
    return next(name for name in names if name not in taken)


def add_textual_inversion(pipeline: Any, files: Sequence[TextualInversion] | Source) -> None:
    """Teach a pipeline's tokenizer and text encoder new tokens.

    Args:
        pipeline: a pipeline with one tokenizer and text encoder; changed in place.
        files: safetensors files, each alone (the token is read from the file) or with its token.

    Raises:
        CheckpointError: a file is missing, a pickle, holds more than one embedding, has no token,
            or does not fit the text encoder.
    """
    for source, token in _pairs(files, None, "token"):
        path = weight_file(source, _INVERSION_FILE)
        header = read_header(path)
        if len(header) != 1:
            raise CheckpointError(
                f"{path} holds {len(header)} tensors ({', '.join(sorted(header)[:3])}); expected "
                "one embedding for one text encoder, as textual inversions of Stable Diffusion 1.x "
                "and 2.x have"
            )
        if token is None and "emb_params" in header:
            raise CheckpointError(
                f'{path} does not name its token; give (path, token), such as ("{path.name}", '
                f'"<{path.stem}>")'
            )
        try:
            pipeline.load_textual_inversion(
                str(path), token=token, use_safetensors=True, local_files_only=True
            )
        except Exception as error:  # tokenizers, transformers and diffusers each have their own
            raise failed(path, "a textual inversion of this text encoder", error) from error
