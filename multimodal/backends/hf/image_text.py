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
from multimodal.backends.hf.chat_model import Prompt
from multimodal.backends.hf.picture_processor import check_picture, fill_missing_settings
from multimodal.backends.hf.picture_prompts import PicturePrompts, load_chat_processor
from multimodal.backends.hf.vision_chat import VisionChatModel
from multimodal.catalog.cards import ModelCard
from multimodal.requests import TextRequest


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model and the processor of the folder `files`."""
    check_folder(card, files)
    processor = load_chat_processor(card, files)
    model = from_folder(AutoModelForImageTextToText, card, files, device)
    fill_missing_settings(processor, model, files)
    loaded = ImageText(card, model, processor)
    loaded.check()
    return loaded


class ImageText(VisionChatModel):
    def __init__(self, card: ModelCard, model: Any, processor: Any) -> None:
        self._prompts = PicturePrompts(card, model, processor)
        super().__init__(card, model, processor.tokenizer, self._prompts.template)

    def _check_prompt(self, prompt: Prompt) -> None:
        """Raise BackendError, too, where a picture in it would not be seen."""
        super()._check_prompt(prompt)
        if prompt.about:
            check_picture(self._card, self._model, prompt.tokens, dict(prompt.inputs))

    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        return self._prompts.build(request, system)

    def _beside(self, prompt: Prompt) -> Mapping[str, torch.Tensor]:
        model = self._model
        return {
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in prompt.inputs.items()
        }
