"""GGUF: one file for llama.cpp and what is built on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFWriter

from multimodal.catalog.cards import ModelCard
from multimodal.studio.export.formats import WrittenFile
from multimodal.studio.export.gguf_metadata import add_metadata, check_config
from multimodal.studio.export.gguf_tensors import find_architecture, write_tensors
from multimodal.studio.export.llama_cpp_model import LlamaCppModel
from multimodal.studio.export.opened import OpenedModel
from multimodal.studio.export.plan import Check
from multimodal.studio.export.reference import Reference
from multimodal.studio.export.source import Source


class GgufExporter:
    """As `formats.Exporter` says."""

    _card: ModelCard

    def check(self, source_type: str, config: Any) -> None:
        find_architecture(source_type)
        if config is not None:
            check_config(config)

    def write(self, source: Source, quantization: str, folder: Path, name: str) -> WrittenFile:
        self._card = source.card
        path = folder / f"{name}-{quantization}.gguf"
        writer = GGUFWriter(path, find_architecture(source.config.model_type))
        try:
            add_metadata(writer, source, quantization)
            write_tensors(writer, source, quantization)
        finally:
            writer.close()
        return WrittenFile(path, quantization)

    def finish(self, source: Source, card: ModelCard, written: Sequence[WrittenFile]) -> list[str]:
        window = getattr(source.config, "sliding_window", None)
        if source.config.model_type == "mistral" and window is not None:
            return [
                f"Its attention reaches back {window:,} tokens; llama.cpp lets it reach back over "
                "the whole context, which differs only in longer texts."
            ]
        return []

    def open(self, written: WrittenFile) -> OpenedModel:
        return LlamaCppModel(self._card, written.path)

    def more_checks(self, written: WrittenFile, reference: Reference) -> list[Check]:
        return []
