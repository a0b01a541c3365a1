"""ONNX: a folder with the graph, and what transformers reads beside it, for ONNX Runtime.

Each holds the card of the model that it is (`CARD`), by which this program offers it in the chat
(`studio.results.install_export`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from multimodal.backends.onnx.decoder import Decoder, KeyValues
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.studio.export.folder_texts import FolderTexts, full_generation_config
from multimodal.studio.export.formats import WrittenFile
from multimodal.studio.export.onnx_card import write_card
from multimodal.studio.export.onnx_facts import HALF_NOTICE, held_bytes, text_facts
from multimodal.studio.export.onnx_graph import check_cache, write_decoder
from multimodal.studio.export.opened import OpenedModel, Prediction
from multimodal.studio.export.plan import Check
from multimodal.studio.export.reference import Reference
from multimodal.studio.export.source import Source

TYPES = {"f32": torch.float32, "f16": torch.float16}
NEAR_TIE = 1e-3


class OnnxTextExporter:
    """As `formats.Exporter` says."""

    def check(self, source_type: str, config: Any) -> None:
        if config is not None:
            check_cache(config)

    def write(self, source: Source, quantization: str, folder: Path, name: str) -> WrittenFile:
        model = source.model.to(TYPES[quantization])  # in place, so that no second copy is held
        write_decoder(model, folder)
        model.config.save_pretrained(folder)
        full_generation_config(source).save_pretrained(folder)
        source.tokenizer.save_pretrained(folder)
        return WrittenFile(folder, quantization)

    def finish(self, source: Source, card: ModelCard, written: Sequence[WrittenFile]) -> list[str]:
        (one,) = written
        kind = one.quantization
        size = held_bytes(one.path, kind)
        write_card(one.path, card, kind, text_facts(source.config, card, kind, size))
        return [HALF_NOTICE] if kind == "f16" else []

    def open(self, written: WrittenFile) -> OpenedModel:
        return _Folder(written.path)

    def more_checks(self, written: WrittenFile, reference: Reference) -> list[Check]:
        return []


class _Folder(FolderTexts):
    """A folder as ONNX Runtime reads it, by the chat's own engine; as `OpenedModel` says."""

    near_tie = NEAR_TIE

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(folder)
        except (OSError, ValueError) as error:
            raise BackendError(f"The exported folder cannot be loaded: {error}") from error
        self._decoder: Decoder = Decoder(folder)

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The prompt at once, then token by token through the cache."""
        said: list[int] = []
        new, past = list(tokens), self._decoder.empty()
        while len(said) < count:
            logits, past = self._decoder.read(new, past)
            new = [int(logits[-1].argmax())]
            said += new
        return said

    def log_probabilities(self, tokens: Sequence[int]) -> list[Prediction]:
        """The first half at once, the second in pieces of one token and of several, each behind
        the cache of those before."""
        rows: list[torch.Tensor] = []
        past: KeyValues = self._decoder.empty()
        for size in _pieces(len(tokens)):
            logits, past = self._decoder.read(tokens[past.tokens : past.tokens + size], past)
            rows += torch.log_softmax(torch.from_numpy(logits), -1)
        every = torch.arange(rows[0].shape[-1])
        return [Prediction(every, row) for row in rows]

    def is_tied(self) -> bool | None:
        """A graph knows no ties."""
        return None

    def close(self) -> None:
        del self._decoder


def _pieces(count: int) -> list[int]:
    """Sizes that add up to `count`."""
    sizes = [count // 2]
    while (left := count - sum(sizes)) > 0:
        sizes.append(min(left, 1 if len(sizes) % 2 else 5))
    return [size for size in sizes if size]
