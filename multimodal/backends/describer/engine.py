"""Pictures without a vision-language model: objects, labels, text, faces and colours in words.

A model of 135 million parameters cannot be trusted to write a caption from labels, so the caption
is composed by rule, says how sure it is, and is given to the text model as context for questions.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from multimodal.backends.base import Backend, cores
from multimodal.backends.describer.caption import Findings, answer, description
from multimodal.backends.describer.findings import FaceFinder, TextReader, colours, is_colourless
from multimodal.backends.describer.labels import Classifier, Vocabulary
from multimodal.backends.describer.objects import Detector, ObjectFinder, read_categories
from multimodal.backends.describer.options import DescriberOptions
from multimodal.backends.engine_options import parse_options
from multimodal.backends.loaded import LoadedModel
from multimodal.catalog.cards import ModelCard, shipped_models
from multimodal.errors import BackendError, MultimodalError
from multimodal.events import EngineEvent, ImageDescribed
from multimodal.requests import ImageDescriptionRequest

WEIGHTS = "efficientnet-lite2.pth"
GRAPH = "ssd-mobilenet-v2.pb"
GRAPH_CONFIG = "ssd-mobilenet-v2.pbtxt"
VOCABULARY = "imagenet-1k.tsv"
CATEGORIES = "coco.tsv"


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the classifier and the detector from `files` and the readers from their packages; runs
    on the CPU."""
    threads = parse_options(card, DescriberOptions).threads or min(2, cores())
    labels = shipped_models() / "labels"
    classifier, vocabulary = Classifier(files / WEIGHTS), Vocabulary.read(labels / VOCABULARY)
    categories = read_categories(labels / CATEGORIES)
    detector = Detector(files / GRAPH, files / GRAPH_CONFIG, categories)
    finder = ObjectFinder(detector, tuple(categories.values()), classifier, vocabulary)
    tools = Detectors(classifier, vocabulary, finder, TextReader(threads), FaceFinder())
    return ImageDescriber(card, tools)


@dataclass(frozen=True, slots=True)
class Detectors:
    """What looks at a picture, each at one thing."""

    classifier: Classifier
    vocabulary: Vocabulary
    objects: ObjectFinder
    text: TextReader
    faces: FaceFinder


class ImageDescriber(LoadedModel[Detectors]):
    """Describes pictures by rule."""

    _does = "look"

    def run(
        self, request: ImageDescriptionRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Yield one ImageDescribed; nothing when `stop` was set between two stages.

        Raises BackendError when an engine fails, or after `close`."""
        try:
            found = self._look(request, stop)
        except MultimodalError:
            raise
        except Exception as error:  # of torch, ONNX Runtime or OpenCV
            raise BackendError(f"{self._card.title} failed on this picture: {error}") from error
        if found is not None:
            yield ImageDescribed(description(found), answer(found, request.focus, request.question))

    def _look(self, request: ImageDescriptionRequest, stop: threading.Event) -> Findings | None:
        tools, image = self._model, request.image
        colourless = is_colourless(image)
        if stop.is_set():
            return None
        labels = tools.vocabulary.choose(tools.classifier.probabilities(image))
        if stop.is_set():
            return None
        objects = tools.objects.find(image, colourless, stop)
        if stop.is_set():
            return None
        text = tools.text.read(image, stop)
        if stop.is_set():
            return None
        faces = tools.faces.count(image)
        if stop.is_set():
            return None
        relation, sent = tools.objects.relate_label(labels, objects), request.original_size
        seen = labels, text, faces, colours(image), colourless, image.size, sent
        return Findings(*seen, objects, relation, tools.objects.plurals)
