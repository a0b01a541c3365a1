"""The prompt of a model that sees: what the chat asks with, and what its fine-tuning trains behind.

The conversation in the chat template, with a place for every token that the vision part makes of
its pictures, and the pictures prepared as the checkpoint's processor does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multimodal.backends.hf.chat_model import Prompt, begins_with_bos
from multimodal.backends.hf.chat_template import ChatTemplate
from multimodal.backends.hf.picture_processor import load_processor
from multimodal.backends.hf.vision_chat import chat_messages, digest
from multimodal.catalog.cards import ModelCard
from multimodal.errors import CardError
from multimodal.requests import TextRequest

QFORMER_TOKENS = 128
"""Of a question, the Q-Former of InstructBLIP reads the last so many, as in its authors' code
(LAVIS, blip2_vicuna_instruct); it has no positions for a long one."""


def load_chat_processor(card: ModelCard, files: Path) -> Any:
    """The processor of the folder `files`. Raises CardError where neither it nor the card has a
    chat template."""
    processor = load_processor(card, files)
    if not (card.chat_template or getattr(processor, "chat_template", None)):
        raise CardError(
            f"{card.name}: its checkpoint has no chat template; write one as 'chat_template'"
        )
    return processor


class PicturePrompts:
    """`model` is transformers' own, whose settings `processor` has (`fill_missing_settings`)."""

    def __init__(self, card: ModelCard, model: Any, processor: Any) -> None:
        sign = str(getattr(processor, "image_token", "") or "<image>")
        self.template = ChatTemplate(processor, card, [sign])
        self.tokenizer: Any = processor.tokenizer
        self._processor = processor
        self._config = model.config

    @property
    def image_token(self) -> int:
        """The token that stands for a part of a picture."""
        return int(self._config.image_token_id)

    def text(self, request: TextRequest, system: str) -> str:
        """The conversation as words, with one sign for each picture."""
        return self.template.text(system, chat_messages(request))

    def build(self, request: TextRequest, system: str) -> Prompt:
        """What the model reads of the conversation and its pictures."""
        text, pictures = self.text(request, system), list(request.images)
        encoded = self._processor(
            text=[text],
            images=pictures or None,
            add_special_tokens=not begins_with_bos(self.tokenizer, text),
            return_tensors="pt",
        )
        if (second := getattr(self._processor, "qformer_tokenizer", None)) is not None:
            cut = second([text], truncation=True, max_length=QFORMER_TOKENS, return_tensors="pt")
            encoded["qformer_input_ids"] = cut["input_ids"]
            encoded["qformer_attention_mask"] = cut["attention_mask"]
        tokens: list[int] = encoded.pop("input_ids")[0].tolist()
        encoded.pop("attention_mask", None)
        sign = self.image_token
        seen_until = max((at + 1 for at, token in enumerate(tokens) if token == sign), default=0)
        return Prompt(tokens, dict(encoded), digest(pictures), seen_until)
