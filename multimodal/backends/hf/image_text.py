"""Models of transformers that look at pictures and talk about them, by AutoModelForImageTextToText:
LLaVA, LLaVA-NeXT, SmolVLM, BLIP-2, InstructBLIP.

They read the conversation with the pictures where they were shown. What was computed of both is
kept between turns, and used again as long as no other picture is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from multimodal.backends.base import Backend
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.hf.chat_model import Prompt, begins_with_bos
from multimodal.backends.hf.chat_template import ChatTemplate
from multimodal.backends.hf.picture_processor import (
    check_picture,
    fill_missing_settings,
    load_processor,
)
from multimodal.backends.hf.vision_chat import VisionChatModel, chat_messages, digest
from multimodal.catalog.cards import ModelCard
from multimodal.errors import CardError
from multimodal.requests import TextRequest

QFORMER_TOKENS = 128
"""Of a question, the Q-Former of InstructBLIP reads the last so many, as in its authors' code
(LAVIS, blip2_vicuna_instruct); it has no positions for a long one."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model and the processor of the folder `files`."""
    check_folder(card, files)
    processor = load_processor(card, files)
    if not (card.chat_template or getattr(processor, "chat_template", None)):
        raise CardError(
            f"{card.name}: its checkpoint has no chat template; write one as 'chat_template'"
        )
    model = from_folder(AutoModelForImageTextToText, card, files, device)
    fill_missing_settings(processor, model, files)
    loaded = ImageText(card, model, processor)
    loaded.check()
    return loaded


class ImageText(VisionChatModel):
    def __init__(self, card: ModelCard, model: Any, processor: Any) -> None:
        sign = str(getattr(processor, "image_token", "") or "<image>")
        super().__init__(card, model, processor.tokenizer, ChatTemplate(processor, card, [sign]))
        self._processor = processor

    def _check_prompt(self, prompt: Prompt) -> None:
        """Raise BackendError, too, where a picture in it would not be seen."""
        super()._check_prompt(prompt)
        if prompt.about:
            check_picture(self._card, self._model, prompt.tokens, dict(prompt.inputs))

    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        text = self._template.text(system, chat_messages(request))
        pictures = list(request.images)
        encoded = self._processor(
            text=[text],
            images=pictures or None,
            add_special_tokens=not begins_with_bos(self._tokenizer, text),
            return_tensors="pt",
        )
        if (second := getattr(self._processor, "qformer_tokenizer", None)) is not None:
            cut = second([text], truncation=True, max_length=QFORMER_TOKENS, return_tensors="pt")
            encoded["qformer_input_ids"] = cut["input_ids"]
            encoded["qformer_attention_mask"] = cut["attention_mask"]
        tokens: list[int] = encoded.pop("input_ids")[0].tolist()
        encoded.pop("attention_mask", None)
        sign = self._model.config.image_token_id
        seen_until = max((at + 1 for at, token in enumerate(tokens) if token == sign), default=0)
        return Prompt(tokens, dict(encoded), digest(pictures), seen_until)

    def _beside(self, prompt: Prompt) -> Mapping[str, torch.Tensor]:
        model = self._model
        return {
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in prompt.inputs.items()
        }
