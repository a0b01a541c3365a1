"""Picture classifiers in ONNX, in the folder that `multimodal export --to onnx` writes: the graph,
the image processor, and config.json with the names of the classes.

Pictures are prepared, and answers put in words, as `backends/classifier` does both.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from PIL import Image
from transformers import AutoConfig

from multimodal.backends.base import Backend
from multimodal.backends.classifier.answers import candidates, sentence
from multimodal.backends.classifier.engine import load_image_processor
from multimodal.backends.engine_options import parse_options
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.onnx.options import OnnxClassifierOptions
from multimodal.backends.onnx.session import open_session
from multimodal.backends.tokenizer_files import LOCAL
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard
from multimodal.events import EngineEvent, ImageDescribed
from multimodal.requests import ImageDescriptionRequest

PIXELS, LOGITS = "pixel_values", "logits"


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model of the folder `files`; runs on the CPU. Raises BackendError."""
    options = parse_options(card, OnnxClassifierOptions)
    return OnnxClassifier(card, PictureGraph(files, options.threads), options)


class PictureGraph:
    """The graph with what prepares its pictures. `labels`: the names of its classes."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self._session: InferenceSession = open_session(folder, threads)
        self._is_half = self._session.get_inputs()[0].type == "tensor(float16)"
        self._processor = load_image_processor(folder)
        self.labels: Mapping[int, str] = AutoConfig.from_pretrained(folder, **LOCAL).id2label

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Of shape (1, channels, height, width)."""
        found: Any = self._processor(images=image.convert("RGB"), return_tensors="np")[PIXELS]
        return np.asarray(found, np.float32)

    def logits(self, image: Image.Image) -> NDArray[np.float32]:
        """Of shape (classes,)."""
        pixels = self.prepare(image).astype(np.float16 if self._is_half else np.float32)
        (found,) = self._session.run([LOGITS], {PIXELS: pixels})
        return np.asarray(found[0], np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Adds up to 1."""
    powers = np.exp(logits - logits.max())
    shares: NDArray[np.float32] = powers / powers.sum()
    return shares


class OnnxClassifier(LoadedModel[PictureGraph]):
    """Answers every question about a picture with its likeliest classes."""

    _does = "look"

    def __init__(
        self, card: ModelCard, graph: PictureGraph, options: OnnxClassifierOptions
    ) -> None:
        super().__init__(card, graph)
        self._options = options

    def run(
        self, request: ImageDescriptionRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Yield one ImageDescribed; nothing where `stop` was set meanwhile. Raises BackendError
        after `close`."""

        def work(emit: Emit, stopped: Stopped) -> None:
            graph = self._model
            if stopped():
                return
            shares = softmax(graph.logits(request.image)).tolist()
            if stopped():
                return
            found = candidates(shares, graph.labels)
            told = sentence(found, self._options.threshold, self._options.candidates)
            emit(ImageDescribed(told, told))

        return self._worker.stream(work, stop)
