"""Says which of its classes a picture shows, by any image classifier of transformers.

Read are a checkpoint's config.json, its safetensors and its image processor, which prepares
pictures by PIL whether or not torchvision is installed.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from multimodal.backends.base import Backend
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.classifier.answers import candidates, sentence
from multimodal.backends.classifier.options import ClassifierOptions
from multimodal.backends.engine_options import parse_options
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.tokenizer_files import LOCAL
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard
from multimodal.catalog.sources import UntrainedSource
from multimodal.errors import BackendError
from multimodal.events import EngineEvent, ImageDescribed
from multimodal.requests import ImageDescriptionRequest


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load model and image processor of the folder `files`. Raises BackendError for a model that
    was never trained."""
    if isinstance(card.source, UntrainedSource):
        raise BackendError(
            f"{card.title} knows nothing yet; fine-tune it first, by multimodal finetune "
            f"--method classify --model {card.base}"
        )
    check_folder(card, files)
    model = from_folder(AutoModelForImageClassification, card, files, device)
    return ImageClassifier(card, model, load_image_processor(files))


def load_image_processor(files: Path) -> Any:
    """That of the folder `files`, which prepares pictures by PIL."""
    return AutoImageProcessor.from_pretrained(files, backend="pil", **LOCAL)  # type: ignore[no-untyped-call]


class ImageClassifier(LoadedModel[Any]):
    """Answers every question about a picture with its likeliest classes."""

    _does = "look"

    def __init__(self, card: ModelCard, model: Any, processor: Any) -> None:
        super().__init__(card, model)
        self._processor = processor
        self._options = parse_options(card, ClassifierOptions)

    def run(
        self, request: ImageDescriptionRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Yield one ImageDescribed; nothing where `stop` was set meanwhile. Raises BackendError
        after `close`, DeviceFullError and DeviceLostError."""

        def work(emit: Emit, stopped: Stopped) -> None:
            model = self._model
            if stopped():
                return
            shares = self._probabilities(model, request.image)
            if stopped():
                return
            found = candidates(shares, model.config.id2label)
            told = sentence(found, self._options.threshold, self._options.candidates)
            emit(ImageDescribed(told, told))

        return self._worker.stream(work, stop)

    @torch.inference_mode()
    def _probabilities(self, model: Any, image: Image.Image) -> list[float]:
        """Of every class, by softmax; they add up to 1."""
        pixels = self._processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        logits = model(pixel_values=pixels.to(model.device, model.dtype)).logits
        shares: list[float] = logits[0].float().softmax(dim=-1).tolist()
        return shares
