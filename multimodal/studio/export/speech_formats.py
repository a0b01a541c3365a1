"""Whisper as a folder in ONNX: two graphs, and what transformers reads beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal.backends.onnx.whisper import WhisperFolder
from multimodal.catalog.cards import ModelCard
from multimodal.studio.export.formats import WrittenFile
from multimodal.studio.export.onnx_card import write_card
from multimodal.studio.export.onnx_facts import HALF_NOTICE, speech_facts
from multimodal.studio.export.onnx_format import TYPES
from multimodal.studio.export.plan import Check
from multimodal.studio.export.speech_source import OpenedWhisper, SpeechReference, SpeechSource
from multimodal.studio.export.whisper_graph import write_whisper


class OnnxWhisperExporter:
    """As `formats.Exporter` says, of Whisper in ONNX."""

    def check(self, source_type: str, config: Any) -> None:
        """Every Whisper model is taken."""

    def write(
        self, source: SpeechSource, quantization: str, folder: Path, name: str
    ) -> WrittenFile:
        model = source.model.to(TYPES[quantization])  # in place, so that no second copy is held
        write_whisper(model, folder)
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        source.tokenizer.save_pretrained(folder)
        source.extractor.save_pretrained(folder)
        return WrittenFile(folder, quantization)

    def finish(
        self, source: SpeechSource, card: ModelCard, written: Sequence[WrittenFile]
    ) -> list[str]:
        (one,) = written
        kind = one.quantization
        write_card(one.path, card, kind, speech_facts(source.config, one.path, kind))
        return [HALF_NOTICE] if kind == "f16" else []

    def open(self, written: WrittenFile) -> OpenedWhisper:
        return _Folder(written.path)

    def more_checks(self, written: WrittenFile, reference: SpeechReference) -> list[Check]:
        return []


class _Folder(WhisperFolder):
    """A folder as ONNX Runtime reads it, by the chat's own engine; as `OpenedWhisper` says."""

    def encode(self, features: NDArray[np.float32]) -> Any:
        return self.graphs.encode(features)

    def key_values(self, sound: Any) -> list[NDArray[np.float32]]:
        return [it.numpy() for it in sound]

    def tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens)))

    def close(self) -> None:
        del self.graphs
