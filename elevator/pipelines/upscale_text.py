"""What `VideoUpscalePipeline` says of a clip: its words, and the rows they are encoded to."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.errors import CheckError
from elevator.hosts.pipeline import without_notice
from elevator.recipes import UpscalePreset

__all__ = ["Text", "encoded"]

logger = logging.getLogger(__name__)


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
    ids = pipe.tokenizer(
        [_converted(pipe, text) for text in texts],
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return pipe.text_encoder(ids.to(pipe._execution_device))[0]


def _converted(pipe: Any, text: str) -> str:
    """A prompt with the tokens of textual inversion written out."""
    notice = "Token indices sequence length is longer than"  # of a text that is cut to fit later
    with without_notice("transformers.tokenization_utils_base", notice):
        return str(pipe.maybe_convert_prompt(text, pipe.tokenizer))


@final
@dataclass(frozen=True, eq=False)
class Text:
    """What a call is told of its clips; as `VideoUpscalePipeline.__call__` documents it.

    Attributes:
        numbers: the preset, with its words of quality and what it avoids.
        prompt: the caller's, one or one per clip.
        negative: the caller's, instead of the preset's.
        embeds: embeddings instead of prompts.
        negative_embeds: embeddings instead of negative prompts.
    """

    numbers: UpscalePreset
    prompt: str | list[str] | None
    negative: str | list[str] | None
    embeds: Float[Tensor, "p n d"] | None = None
    negative_embeds: Float[Tensor, "q n d"] | None = None

    @property
    def words(self) -> str | list[str]:
        """Prompts with the words of quality; one string for all clips, or a list."""
        given = _listed(self.prompt or "")
        words = [", ".join(filter(None, (one, self.numbers.quality))) for one in given]
        return words[0] if len(words) == 1 else words

    @property
    def against(self) -> str | list[str]:
        """What to avoid, as `words`."""
        return self.numbers.negative if self.negative is None else self.negative

    def require_one_per_clip(self, clips: int) -> None:
        """Refuse another number of prompts, or rows of embeddings, than of clips.

        Raises:
            CheckError: neither one for all nor one per clip.
        """
        for name, one in (
            ("prompts", _listed(self.words) if self.embeds is None else None),
            ("negative prompts", _listed(self.against)),
            ("rows of prompt_embeds", self.embeds),
            ("rows of negative_prompt_embeds", self.negative_embeds),
        ):
            if one is not None and len(one) not in (1, clips):
                raise CheckError(
                    [f"{len(one)} {name} for {clips} clips; give one, or one per clip"]
                )

    def rows(
        self, pipe: Any, clips: int, *, guided: bool
    ) -> tuple[Float[Tensor, "p n d"], Float[Tensor, "q n d"] | None]:
        """Embeddings of the prompts and of what to avoid; no second ones without guidance.

        Warns where the text encoder does not see all that the caller said.
        """
        rows, against = self.embeds, self.negative_embeds if guided else None
        if pipe.tokenizer is not None:
            self._warn(pipe, guided=guided)
        if rows is None:
            rows = pipe.encode_prompt(self.words, clips)
        if guided and against is None:
            against = pipe.encode_prompt(self.against, clips)
        return rows, against

    def batch(self, pipe: Any, clips: int, *, guided: bool) -> Float[Tensor, "rows n d"]:
        """Rows of the network's batch: with guidance the negative prompts, then the prompts."""
        rows, against = self.rows(pipe, clips, guided=guided)
        parts = [rows] if against is None else [against, rows]
        return torch.cat([part.expand(clips, -1, -1) for part in parts])

    def _warn(self, pipe: Any, *, guided: bool) -> None:
        """Name what the caller said in vain; the preset's words are cut without a word."""
        cut: list[str] = []
        if self.embeds is None:
            cut += (f"{part!r} of prompt" for part in _cut(pipe, self.prompt))
        if guided and self.negative_embeds is None:
            cut += (f"{part!r} of negative_prompt" for part in _cut(pipe, self.negative))
        if cut:
            logger.warning(
                "the text encoder takes %d tokens, those of start and end included, and does not "
                "see %s; use fewer words",
                pipe.tokenizer.model_max_length,
                " and ".join(dict.fromkeys(cut)),
            )


def _cut(pipe: Any, texts: str | list[str] | None) -> Iterator[str]:
    """What of texts lies behind the last token that fits."""
    longest = pipe.tokenizer.model_max_length
    for text in _listed(texts or []):
        ids = pipe.tokenizer(_converted(pipe, text), verbose=False).input_ids
        if len(ids) > longest:
            unseen = ids[longest - 1 : -1]
            yield pipe.tokenizer.decode(unseen, clean_up_tokenization_spaces=False)


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts
