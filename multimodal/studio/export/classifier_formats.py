"""Picture classifiers as folders: in the layout of the Hugging Face hub, and in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import AutoModelForImageClassification

from multimodal.backends.classifier.engine import load_image_processor
from multimodal.backends.onnx.classifier import LOGITS, PIXELS, PictureGraph
from multimodal.backends.tokenizer_files import LOCAL
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.studio.export.classifier_source import (
    ClassifierReference,
    ClassifierSource,
    OpenedClassifier,
    classifier_logits,
    pictures,
    prepare,
)
from multimodal.studio.export.formats import WrittenFile
from multimodal.studio.export.onnx_card import write_card
from multimodal.studio.export.onnx_facts import HALF_NOTICE, classifier_facts, held_bytes
from multimodal.studio.export.onnx_graph import DYNAMIC, write_graph
from multimodal.studio.export.plan import SOURCE, Check

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class ClassifierExporter:
    """As `formats.Exporter` says, of classifiers in the layout of the hub."""

    def check(self, source_type: str, config: Any) -> None:
        """Whatever transformers loads, it saves."""

    def write(
        self, source: ClassifierSource, quantization: str, folder: Path, name: str
    ) -> WrittenFile:
        kind = source.stored if quantization == SOURCE else quantization
        source.model.to(TYPES[kind]).save_pretrained(folder)
        source.processor.save_pretrained(folder)
        return WrittenFile(folder, kind)

    def finish(
        self, source: ClassifierSource, card: ModelCard, written: Sequence[WrittenFile]
    ) -> list[str]:
        return []

    def open(self, written: WrittenFile) -> OpenedClassifier:
        return _Folder(written.path)

    def more_checks(self, written: WrittenFile, reference: ClassifierReference) -> list[Check]:
        return []


class OnnxClassifierExporter(ClassifierExporter):
    """As `formats.Exporter` says, of classifiers in ONNX."""

    def write(
        self, source: ClassifierSource, quantization: str, folder: Path, name: str
    ) -> WrittenFile:
        model = source.model.to(TYPES[quantization])
        prepared = torch.from_numpy(prepare(source.processor, pictures()[0]))
        # An example of one picture would make the exporter take their number for a constant.
        pixels = torch.cat([prepared, prepared]).to(model.dtype)
        write_graph(_Logits(model).eval(), (pixels,), folder, (PIXELS,), (LOGITS,), ({0: DYNAMIC},))
        source.config.save_pretrained(folder)
        source.processor.save_pretrained(folder)
        return WrittenFile(folder, quantization)

    def finish(
        self, source: ClassifierSource, card: ModelCard, written: Sequence[WrittenFile]
    ) -> list[str]:
        (one,) = written
        kind = one.quantization
        write_card(one.path, card, kind, classifier_facts(held_bytes(one.path, kind)))
        return [HALF_NOTICE] if kind == "f16" else []

    def open(self, written: WrittenFile) -> OpenedClassifier:
        return _Graph(written.path)


class _Logits(nn.Module):
    """The model with its logits as the one output."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return self.model(pixel_values=pixel_values).logits


class _Folder:
    """A folder as transformers reads it, in 32 bits; as `OpenedClassifier` says."""

    def __init__(self, folder: Path) -> None:
        try:
            self._model: Any = AutoModelForImageClassification.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, **LOCAL
            ).eval()
            self._processor = load_image_processor(folder)
        except (OSError, ValueError, RuntimeError) as error:
            raise BackendError(f"The exported folder cannot be loaded: {error}") from error

    @property
    def labels(self) -> Mapping[int, str]:
        found: Mapping[int, str] = self._model.config.id2label
        return found

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        return prepare(self._processor, image)

    def logits(self, image: Image.Image) -> NDArray[np.float32]:
        return classifier_logits(self._model, self._processor, image)

    def close(self) -> None:
        del self._model


class _Graph(PictureGraph):
    """A folder as ONNX Runtime reads it, by the chat's own engine; as `OpenedClassifier` says."""

    def close(self) -> None:
        del self._session
