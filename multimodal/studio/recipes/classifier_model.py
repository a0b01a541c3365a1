"""The classifier that a job begins with: a checkpoint with an output for each of the job's classes,
or random weights in the shape that its card states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessorPil

from multimodal.backends.checkpoints import check_folder
from multimodal.backends.classifier.engine import load_image_processor
from multimodal.backends.tokenizer_files import LOCAL
from multimodal.catalog.sources import UntrainedSource
from multimodal.errors import BackendError
from multimodal.memory.devices.device_errors import device_error
from multimodal.studio.context import JobContext
from multimodal.studio.estimate import classifier_part, picture_side


@dataclass(frozen=True, slots=True)
class Classifier:
    """`labels`: the classes in the order of its outputs. `knows_them`: whether the checkpoint told
    just these apart before."""

    model: Any
    processor: Any
    labels: tuple[str, ...]
    knows_them: bool


def load_classifier(job: JobContext, labels: Sequence[str]) -> Classifier:
    """With an output for each of `labels`, in fp32, on the CPU; what is new in it is drawn from
    PyTorch's random numbers. The classes of a checkpoint that knows just them keep its order.
    Raises BackendError for weights that are missing or damaged."""
    if isinstance(job.start.card.source, UntrainedSource):
        return _untrained(job, tuple(labels))
    known = _classes(job)
    return _checkpoint(job, known if set(known) == set(labels) else tuple(labels), known)


def load_checkpoint(job: JobContext) -> Classifier:
    """With the classes that it knows. Raises BackendError."""
    if isinstance(job.start.card.source, UntrainedSource):
        raise BackendError(f"{job.start.card.title} knows nothing yet; fine-tune it first.")
    known = _classes(job)
    return _checkpoint(job, known, known)


def _classes(job: JobContext) -> tuple[str, ...]:
    """Those of a checkpoint, in the order of its outputs."""
    check_folder(job.start.card, job.start.files)
    known = AutoConfig.from_pretrained(job.start.files, **LOCAL).id2label
    return tuple(known[at] for at in sorted(known))


def _checkpoint(job: JobContext, labels: tuple[str, ...], known: tuple[str, ...]) -> Classifier:
    start = job.start
    try:
        model, found = AutoModelForImageClassification.from_pretrained(
            start.files,
            dtype=torch.float32,
            use_safetensors=True,
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **_names(labels),
            **LOCAL,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if (told := device_error(error, start.card.title)) is not None:
            raise told from error
        raise BackendError(f"{start.card.title} could not be loaded: {error}") from error
    if missing := sorted(found["missing_keys"]):
        raise BackendError(
            f"{start.card.title}: the checkpoint lacks {len(missing)} of the model's weights, such "
            f"as {missing[0]}. Fetch it again."
        )
    return Classifier(model, load_image_processor(start.files), labels, labels == known)


def _untrained(job: JobContext, labels: tuple[str, ...]) -> Classifier:
    card = job.start.card
    if (part := classifier_part(card)) is None:
        raise BackendError(
            f"{card.title}: its card names no AutoModelForImageClassification of transformers."
        )
    config = AutoConfig.for_model(**{**part.config, **_names(labels)})
    build: Any = AutoModelForImageClassification.from_config
    model = build(config, dtype=torch.float32)
    side = picture_side(card)
    processor = ViTImageProcessorPil(size={"height": side, "width": side})
    return Classifier(model, processor, labels, False)


def _names(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: at for at, label in enumerate(labels)},
    }
