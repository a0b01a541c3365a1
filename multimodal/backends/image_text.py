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
from transformers import AutoModelForImageTextToText, AutoProcessor

from multimodal.backends.base import Backend, TextRequest
from multimodal.backends.chat_template import ChatTemplate
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.seeing import SeeingTalker, digest, shown
from multimodal.backends.talking import Prompt, opens
from multimodal.cards import ModelCard
from multimodal.errors import CardError


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model and the processor of the folder `files`."""
    check_folder(card, files)
    processor: Any = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        files, local_files_only=True, trust_remote_code=False
    )
    if not (card.chat_template or getattr(processor, "chat_template", None)):
        raise CardError(
            f"{card.name}: its checkpoint has no chat template; write one as 'chat_template'"
        )
    return ImageText(card, from_folder(AutoModelForImageTextToText, card, files, device), processor)


class ImageText(SeeingTalker):
    """One loaded model."""

    def __init__(self, card: ModelCard, model: Any, processor: Any) -> None:
        sign = str(getattr(processor, "image_token", "") or "<image>")
        super().__init__(card, model, processor.tokenizer, ChatTemplate(processor, card, [sign]))
        self._processor = processor

    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        text = self._template.text(system, shown(request))
        pictures = [picture for _, picture in request.pictures]
        encoded = self._processor(
            text=[text],
            images=pictures or None,
            add_special_tokens=not opens(self._tokenizer, text),
            return_tensors="pt",
        )
        tokens: list[int] = encoded.pop("input_ids")[0].tolist()
        encoded.pop("attention_mask", None)
        return Prompt(tokens, dict(encoded), digest(pictures), self._last_seen(tokens))

    def _beside(self, prompt: Prompt) -> Mapping[str, torch.Tensor]:
        model = self._model
        return {
            name: tensor.to(model.device, model.dtype)
            if tensor.is_floating_point()
            else tensor.to(model.device)
            for name, tensor in prompt.inputs.items()
        }

    def _last_seen(self, tokens: list[int]) -> int:
        """Behind the last token that stands for a picture."""
        config = self._model.config
        sign = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        return max((at + 1 for at, token in enumerate(tokens) if token == sign), default=0)
