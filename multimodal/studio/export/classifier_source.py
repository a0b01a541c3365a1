"""The picture classifier that is exported, what it makes of some pictures, and the comparison of an
export with that.

The pictures are drawn here, of several sizes and shapes, in colours and in grey: what is compared
is how a picture is prepared, and what is computed of it, not whether a class is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from multimodal.backends.onnx.classifier import softmax
from multimodal.catalog.cards import ModelCard
from multimodal.studio.context import JobContext
from multimodal.studio.export.plan import Check, Latency
from multimodal.studio.export.timing import fastest
from multimodal.studio.recipes.classifier_model import load_checkpoint

SIZES = ((64, 64), (48, 96), (224, 224), (300, 200), (31, 57), (256, 256))
"""Width and height in pixels; half of the pictures are noise, half are slopes of colour."""
TOLERANCES: Mapping[str, float] = {"f32": 1e-4, "bf16": 0.05, "f16": 0.01}
"""By which a probability may differ."""


@dataclass(frozen=True, slots=True)
class ClassifierSource:
    """`model` of transformers, in fp32, on the CPU."""

    model: Any
    processor: Any
    card: ModelCard
    labels: tuple[str, ...]
    stored: str = "f32"

    @property
    def config(self) -> Any:
        return self.model.config


@dataclass(frozen=True, slots=True)
class ClassifierReference:
    """`pixels`: each picture as it is prepared; `shares`: the probabilities of its classes, of
    shape (classes,)."""

    labels: tuple[str, ...]
    pixels: tuple[NDArray[np.float32], ...]
    shares: tuple[NDArray[np.float32], ...]
    picture_ms: float


class OpenedClassifier(Protocol):
    """A classifier that was loaded back, whatever the program that reads it."""

    @property
    def labels(self) -> Mapping[int, str]: ...

    def prepare(self, image: Image.Image) -> NDArray[np.float32]: ...

    def logits(self, image: Image.Image) -> NDArray[np.float32]: ...

    def close(self) -> None: ...


def load_classifier_source(job: JobContext, card: ModelCard) -> ClassifierSource:
    """The weights of `job.start`. Raises BackendError."""
    found = load_checkpoint(job)
    return ClassifierSource(found.model.eval(), found.processor, card, found.labels)


def pictures() -> list[Image.Image]:
    """The same ones each time."""
    random = np.random.default_rng(7)
    found = []
    for at, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if at % 2:
            ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
            pixels = (ramp * random.random(3)).astype(np.uint8)
        image = Image.fromarray(pixels)
        found.append(image.convert("L") if at == len(SIZES) - 1 else image)
    return found


def prepare(processor: Any, image: Image.Image) -> NDArray[np.float32]:
    """Of shape (1, channels, height, width)."""
    made = processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"]
    return np.asarray(made, np.float32)


@torch.no_grad()
def classifier_logits(model: Any, processor: Any, image: Image.Image) -> NDArray[np.float32]:
    """Of shape (classes,)."""
    pixels = torch.from_numpy(prepare(processor, image))
    found: NDArray[np.float32] = model(pixel_values=pixels).logits[0].float().numpy()
    return found


def measure_classifier(source: ClassifierSource) -> ClassifierReference:
    """Run the source; takes seconds."""
    model, processor, seen = source.model, source.processor, pictures()
    seconds = fastest(lambda: classifier_logits(model, processor, seen[0]))
    return ClassifierReference(
        source.labels,
        tuple(prepare(processor, it) for it in seen),
        tuple(softmax(classifier_logits(model, processor, it)) for it in seen),
        seconds * 1000,
    )


def compare_classifier(
    opened: OpenedClassifier, reference: ClassifierReference, quantization: str, file: str
) -> Iterator[Check]:
    """Every check of a classifier that was loaded back."""
    seen, allowed = pictures(), TOLERANCES[quantization]
    shares = [softmax(opened.logits(it)) for it in seen]
    furthest = max(
        float(np.abs(ours - theirs).max())
        for ours, theirs in zip(shares, reference.shares, strict=True)
    )
    yield Check(
        "probabilities",
        file,
        furthest <= allowed,
        f"{furthest:.2g} apart",
        f"at most {allowed:g}",
        f"the largest difference of any class in {len(seen)} pictures",
    )
    same = sum(
        _is_agreed(ours, theirs, allowed)
        for ours, theirs in zip(shares, reference.shares, strict=True)
    )
    yield Check(
        "likeliest class",
        file,
        same == len(seen),
        f"{same} of {len(seen)} pictures",
        f"all, or within {2 * allowed:g} of the likeliest",
        "the number of the likeliest class",
    )
    yield _same_labels(opened.labels, reference.labels, file)
    prepared = [opened.prepare(it) for it in seen]
    equal = sum(map(np.array_equal, prepared, reference.pixels))
    yield Check(
        "prepared pictures",
        file,
        equal == len(seen),
        f"{equal} of {len(seen)} pictures",
        "all",
        "the numbers that the model reads of a picture",
    )


def classifier_latency(
    opened: OpenedClassifier, reference: ClassifierReference, file: str
) -> Latency:
    """Milliseconds a picture, its preparation counted in."""
    (first, *_) = pictures()
    seconds = fastest(lambda: opened.logits(first))
    return Latency(file, "picture", reference.picture_ms, seconds * 1000)


def _is_agreed(ours: NDArray[np.float32], theirs: NDArray[np.float32], allowed: float) -> bool:
    return bool(theirs.max() - theirs[ours.argmax()] <= 2 * allowed)


def _same_labels(told: Mapping[int, str], wanted: Sequence[str], file: str) -> Check:
    names = [told[at] for at in sorted(told)]
    wrong = [ours for ours, theirs in zip(names, wanted, strict=False) if ours != theirs]
    figure = f"{len(names)} classes" + (f", {len(wrong)} under other names" if wrong else "")
    return Check(
        "classes",
        file,
        names == list(wanted),
        figure,
        f"{len(wanted)} classes",
        "the names of the classes, in the order of the outputs",
    )
