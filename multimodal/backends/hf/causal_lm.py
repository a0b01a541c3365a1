"""Text models of transformers, by AutoModelForCausalLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from multimodal.backends.base import Backend
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.hf.chat_model import ChatModel, Prompt, tokens_of
from multimodal.backends.hf.chat_template import ChatTemplate
from multimodal.backends.tokenizer_files import load_tokenizer
from multimodal.catalog.cards import ModelCard
from multimodal.requests import TextRequest


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model and the tokenizer of the folder `files`."""
    check_folder(card, files)
    tokenizer = load_tokenizer(files)
    model = CausalLM(card, from_folder(AutoModelForCausalLM, card, files, device), tokenizer)
    model.check()
    return model


class CausalLM(ChatModel):
    def __init__(self, card: ModelCard, model: Any, tokenizer: Any) -> None:
        super().__init__(card, model, tokenizer, ChatTemplate(tokenizer, card))

    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        said = [{"role": turn.role, "content": turn.text} for turn in request.messages]
        return Prompt(list(tokens_of(self._tokenizer, self._template.text(system, said))))
