"""What `VideoUpscalePipeline` says of a clip: its words, and the rows they are encoded to."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.errors import CheckError
from elevator.recipes import UpscalePreset

__all__ = ["encoded", "require_one_per_clip", "rows_of_call", "words_of_call"]


def words_of_call(
    numbers: UpscalePreset, prompt: str | list[str] | None, negative: str | list[str] | None
) -> tuple[str | list[str], str | list[str]]:
    """Prompts with the words of quality, and what to avoid; one string for all clips, or a list."""
    given = [prompt or ""] if isinstance(prompt, str) or prompt is None else prompt
    words = [", ".join(filter(None, (one, numbers.quality))) for one in given]
    against = numbers.negative if negative is None else negative
    return words[0] if len(words) == 1 else words, against


def encoded(pipe: Any, prompt: str | Sequence[str], clips: int) -> Float[Tensor, "b n d"]:
    """The text encoder's last hidden state for a prompt per clip, or one for all.

    Raises:
        CheckError: there is no text encoder.
    """
    if pipe.text_encoder is None or pipe.tokenizer is None:
        raise CheckError(
            [
                "this pipeline has no text encoder; give prompt_embeds, and with guidance "
                "negative_prompt_embeds"
            ]
        )
    texts = [prompt] * clips if isinstance(prompt, str) else list(prompt)
    texts = [pipe.maybe_convert_prompt(text, pipe.tokenizer) for text in texts]
    ids = pipe.tokenizer(
        texts,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return pipe.text_encoder(ids.to(pipe._execution_device))[0]


def require_one_per_clip(
    clips: int,
    words: tuple[str | list[str], str | list[str]],
    embeds: tuple[Tensor | None, Tensor | None],
) -> None:
    """Refuse another number of prompts, or rows of embeddings, than of clips.

    Args:
        clips: how many are made.
        words: prompts, and what to avoid.
        embeds: embeddings that were given instead of them.

    Raises:
        CheckError: neither one for all nor one per clip.
    """
    prompts, against = ([text] if isinstance(text, str) else text for text in words)
    for name, one in (
        ("prompts", prompts if embeds[0] is None else None),
        ("negative prompts", against),
        ("rows of prompt_embeds", embeds[0]),
        ("rows of negative_prompt_embeds", embeds[1]),
    ):
        if one is not None and len(one) not in (1, clips):
            raise CheckError([f"{len(one)} {name} for {clips} clips; give one, or one per clip"])


def rows_of_call(
    pipe: Any,
    clips: int,
    words: tuple[str | list[str], str | list[str]],
    embeds: tuple[Tensor | None, Tensor | None],
    *,
    guided: bool,
) -> Float[Tensor, "rows n d"]:
    """Rows of the network's batch: with guidance the negative prompts, then the prompts.

    Args:
        pipe: the pipeline.
        clips: how many are made.
        words: prompts, and what to avoid.
        embeds: embeddings that were given instead of them.
        guided: whether there is guidance.
    """
    rows, against = embeds
    if rows is None:
        rows = pipe.encode_prompt(words[0], clips)
    rows = rows.expand(clips, -1, -1)
    if not guided:
        return rows
    if against is None:
        against = pipe.encode_prompt(words[1], clips)
    return torch.cat([against.expand(clips, -1, -1), rows])
