"""Captioned pictures as a trainer takes them: the chat's own prompt, and the caption behind it.

The loss is on the caption and on the token that ends it alone. How a template ends an answer is
found by rendering one; where it ends it by no token at which a reply ends, or writes no answers (as
those of the BLIPs, which have a template of one question), the first such token is put behind the
caption, since a model that is never taught to stop does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import Dataset

from multimodal.backends.hf.chat_model import Prompt, tokens_of
from multimodal.backends.hf.generation import end_tokens
from multimodal.backends.hf.picture_processor import check_picture
from multimodal.backends.hf.picture_prompts import PicturePrompts
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, DataError
from multimodal.media.pixels import SEEN_SIDE, within
from multimodal.requests import ChatMessage, TextRequest
from multimodal.studio.data.kept_pictures import PICTURES, read_picture
from multimodal.studio.data.masks import IGNORED
from multimodal.studio.data.prepare import Row

STAND_IN = "Q7stand0in9Z"
"""Words that no template changes."""
Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CaptionTokens:
    """`answer`: the caption and the token that ends it, as far as there is room (`is_cut`)."""

    prompt: Prompt
    answer: list[int]
    is_cut: bool


class CaptionEncoder:
    """Makes tokens of captions for one model. `max_length`: tokens of a sample beside those of its
    picture. Raises BackendError for a model whose replies no token ends."""

    def __init__(
        self, card: ModelCard, model: Any, prompts: PicturePrompts, max_length: int
    ) -> None:
        self._card, self._model, self._prompts = card, model, prompts
        self._tokenizer = prompts.tokenizer
        self._ends = end_tokens(model, self._tokenizer)
        if not self._ends:
            raise BackendError(
                f"{card.title} has no token that ends a reply, so it could not be taught to stop. "
                "Compare its generation_config.json with that of its authors."
            )
        text = model.config.get_text_config(decoder=True)
        positions = int(getattr(text, "max_position_embeddings", None) or 0)
        self._max_length, self._positions = max_length, positions
        padding = self._tokenizer.pad_token_id
        self.padding: int = self._ends[0] if padding in {None, prompts.image_token} else padding

    def prompt(self, picture: Image.Image, question: str) -> Prompt:
        """What the chat makes of that question; one without a word asks for a description."""
        made = self._prompts.build(self._asked(question, picture), self._card.system_prompt)
        check_picture(self._card, self._model, made.tokens, dict(made.inputs))
        return made

    def encode(self, picture: Image.Image, question: str, caption: str) -> CaptionTokens:
        """Raises DataError where nothing of the caption would be trained."""
        prompt = self.prompt(picture, question)
        answer = self._answer(question, caption)
        most = self._max_length + prompt.tokens.count(self._prompts.image_token)
        room = (min(most, self._positions) if self._positions else most) - len(prompt.tokens)
        if room < 1 or not answer:
            raise DataError(
                f"nothing of “{caption[:40]}” would be trained: what is asked takes all of the "
                f"{self._max_length} tokens; allow more with --max-length, or shorten the question."
            )
        return CaptionTokens(prompt, answer[:room], len(answer) > room)

    def _asked(self, question: str, *pictures: Image.Image) -> TextRequest:
        return TextRequest((ChatMessage("user", question, pictures),))

    def _answer(self, question: str, caption: str) -> list[int]:
        """The tokens of the caption as they follow the prompt, with the one that ends it."""
        # Words alone: signs that stand for pictures are in both texts, or in neither.
        asked = self._asked(question, Image.new("RGB", (1, 1)))
        system = self._card.system_prompt
        before = self._prompts.text(asked, system)
        told = TextRequest((*asked.messages, ChatMessage("assistant", STAND_IN)))
        opening, spaces, end = self._around(before, self._prompts.text(told, system))
        words = self._prompts.template.escaped(caption)
        whole = list(tokens_of(self._tokenizer, f"{before}{opening}{words}{spaces}"))
        known = list(tokens_of(self._tokenizer, before))
        if whole[: len(known)] != known:  # a token lies across the border
            found = self._tokenizer(f"{opening}{words}{spaces}", add_special_tokens=False)
            return [*found["input_ids"], end]
        return [*whole[len(known) :], end]

    def _around(self, before: str, rendered: str) -> tuple[str, str, int]:
        """What the template writes before an answer and behind it, up to the token that ends it,
        and that token."""
        usual = "" if before[-1:].isspace() or not before else " "
        rest = rendered.removeprefix(before) if rendered.startswith(before) else ""
        opening, found, behind = rest.partition(STAND_IN)
        if not found:
            return usual, "", self._ends[0]
        for token in self._ends:
            spaces, ends, _ = behind.partition(str(self._tokenizer.decode([token])))
            if ends and not spaces.strip():
                return opening, spaces, token
        return opening, "", self._ends[0]


class CaptionDataset(Dataset[Item]):
    """`rows` are those of `studio.data.captions` in the job's data folder `data`. An item has
    `input_ids` and `labels` (lists of one length, IGNORED where there is no loss) and `inputs`, the
    tensors of its picture."""

    def __init__(self, rows: Sequence[Row], data: Path, encoder: CaptionEncoder) -> None:
        self._rows, self._folder, self._encoder = rows, data / PICTURES, encoder

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        made = self.encoded(index)
        prompt = made.prompt.tokens
        return {
            "input_ids": [*prompt, *made.answer],
            "labels": [*[IGNORED] * len(prompt), *made.answer],
            "inputs": made.prompt.inputs,
        }

    def encoded(self, index: int) -> CaptionTokens:
        """Raises DataError that names the sample."""
        row = self._rows[index]
        try:
            return self._encoder.encode(self.picture(index), row["question"], row["text"])
        except DataError as error:
            raise DataError(f"{row['name']}: {error}") from error

    def prompt(self, index: int) -> Prompt:
        """What is asked of that picture."""
        return self._encoder.prompt(self.picture(index), self._rows[index]["question"])

    def picture(self, index: int) -> Image.Image:
        """As the chat gives it to a model."""
        return within(read_picture(self._folder / self._rows[index]["image"]), SEEN_SIDE)


class CaptionCollator:
    """A batch of items, padded on the right: `input_ids`, `attention_mask`, `labels` (samples,
    tokens), and the tensors of the pictures, padded with zeros to one shape, which models of
    several tiles a picture leave out. Numbers with a fraction are in `dtype`."""

    def __init__(self, padding: int, dtype: torch.dtype) -> None:
        self._padding, self._dtype = padding, dtype

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        size = len(items), max(len(item["input_ids"]) for item in items)
        made = {
            "input_ids": torch.full(size, self._padding),
            "attention_mask": torch.zeros(size, dtype=torch.long),
            "labels": torch.full(size, IGNORED),
        }
        for at, item in enumerate(items):
            length = len(item["input_ids"])
            made["input_ids"][at, :length] = torch.tensor(item["input_ids"])
            made["attention_mask"][at, :length] = 1
            made["labels"][at, :length] = torch.tensor(item["labels"])
        return {**made, **self.pictures([item["inputs"] for item in items])}

    def pictures(self, inputs: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Those of several prompts as one."""
        found = {name: [one[name] for one in inputs] for name in inputs[0]}
        return {name: self._joined(tensors) for name, tensors in found.items()}

    def _joined(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        largest = [max(sizes) for sizes in zip(*(it.shape[1:] for it in tensors), strict=True)]
        padded = [functional.pad(it, _missing(it, largest)) for it in tensors]
        joined = torch.cat(padded)
        return joined.to(self._dtype) if joined.is_floating_point() else joined


def _missing(tensor: torch.Tensor, largest: Sequence[int]) -> list[int]:
    """What `functional.pad` adds behind each dimension but the first, the last one first."""
    pairs = zip(largest, tensor.shape[1:], strict=True)
    return [size for most, has in reversed(list(pairs)) for size in (0, most - has)]
