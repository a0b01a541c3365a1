"""Safetensors: a folder in the layout of the Hugging Face hub, complete without any other file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from multimodal.backends.tokenizer_files import LOCAL
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.studio.export.folder_texts import FolderTexts, full_generation_config
from multimodal.studio.export.formats import WrittenFile
from multimodal.studio.export.opened import OpenedModel, Prediction
from multimodal.studio.export.plan import SOURCE, Check
from multimodal.studio.export.reference import Reference, greedy, log_probabilities
from multimodal.studio.export.source import Source

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NEAR_TIE = 1e-3


class SafetensorsExporter:
    """As `formats.Exporter` says."""

    def check(self, source_type: str, config: Any) -> None:
        """Whatever transformers loads, it saves."""

    def write(self, source: Source, quantization: str, folder: Path, name: str) -> WrittenFile:
        kind = source.stored if quantization == SOURCE else quantization
        model = source.model.to(TYPES[kind])  # in place, so that no second copy is held
        model.generation_config = full_generation_config(source)
        model.save_pretrained(folder)
        source.tokenizer.save_pretrained(folder)
        return WrittenFile(folder, kind)

    def finish(self, source: Source, card: ModelCard, written: Sequence[WrittenFile]) -> list[str]:
        return []

    def open(self, written: WrittenFile) -> OpenedModel:
        return _Folder(written.path)

    def more_checks(self, written: WrittenFile, reference: Reference) -> list[Check]:
        return []


class _Folder(FolderTexts):
    """A folder as transformers reads it, in 32 bits; as `OpenedModel` says."""

    near_tie = NEAR_TIE

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, **LOCAL
            )
            self._model.train(False)
            super().__init__(folder)
        except (OSError, ValueError, RuntimeError) as error:
            raise BackendError(f"The exported folder cannot be loaded: {error}") from error

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        return greedy(self._model, tokens, count)[0]

    def log_probabilities(self, tokens: Sequence[int]) -> list[Prediction]:
        rows = log_probabilities(self._model, tokens)
        every = torch.arange(rows.shape[-1])
        return [Prediction(every, row) for row in rows]

    def is_tied(self) -> bool:
        """In memory, where a change of one is one of the other, and in the file alike."""
        output, inputs = self._model.get_output_embeddings(), self._model.get_input_embeddings()
        is_one = output.weight.data_ptr() == inputs.weight.data_ptr()
        return is_one and "lm_head.weight" not in _names(self._folder)

    def close(self) -> None:
        del self._model


def _names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names.update(file.keys())
    return names
