"""The texts of an exported folder in transformers' layout: its tokenizer, its chat template and the
tokens that end an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig

from multimodal.backends.tokenizer_files import LOCAL
from multimodal.errors import RequestError
from multimodal.studio.export.opened import Messages
from multimodal.studio.export.reference import render
from multimodal.studio.export.source import Source


def full_generation_config(source: Source) -> GenerationConfig:
    """The model's own, with every token that ends an answer."""
    made: GenerationConfig = source.model.generation_config
    ends = list(source.end_ids)
    made.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    made.bos_token_id = source.tokenizer.bos_token_id
    return made


class FolderTexts:
    """What `OpenedModel` says of texts."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError and ValueError."""
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **LOCAL)
        told = GenerationConfig.from_pretrained(folder, **LOCAL).eos_token_id
        self._ends = [it for it in (told if isinstance(told, list) else [told]) if it is not None]

    def tokenize(self, text: str) -> list[int]:
        return list(self._tokenizer(text)["input_ids"])

    def render(self, messages: Messages) -> str | None:
        if not self._tokenizer.chat_template:
            return None
        try:
            return render(self._tokenizer, messages)
        except TemplateError as error:
            raise RequestError(str(error)) from error

    def end_ids(self) -> set[int]:
        return set(self._ends)

    def ends_with(self, token: int) -> bool:
        return token in self._ends
