"""Which of the detector's objects are said, and how surely: each is looked at a second time.

The part of the picture inside a box goes through the ImageNet classifier. Where that sees the same
kind of thing, the object is likely right; where it is sure of something else (a beetle where the
detector sees a bird), likely wrong. The probability of being right is logistic in the detector's
score, in the share of the classifier's probability that the category's own classes have, and in
that of the likeliest other class.

The weights were fitted to 68 boxes of 41 pictures whose objects were written down by eye before,
and tried on 122 boxes of 44 others: of those at 0.8 and more, 62 of 63 were right; between 0.6 and
0.8, 7 of 14. People need no second look, for which ImageNet has no class either: of 69 found at
0.4 and more in all the pictures, none was wrong.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from multimodal.backends.describer.labels import LIKELY, Classifier, Labels, Vocabulary

SIDE = 300
PERSON = "person"


@dataclass(frozen=True, slots=True)
class Category:
    """One of COCO's, with its everyday name. `imagenet`: classes and groups of ImageNet that are
    the same thing or a kind of it; () where ImageNet has none."""

    name: str
    plural: str
    imagenet: frozenset[str]


@dataclass(frozen=True, slots=True)
class Box:
    """Edges as shares of the picture's width and height, 0 to 1, from the top left."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """As a share of the picture's."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def overlap(self, other: Box) -> float:
        """Intersection over union."""
        common = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        if common.right <= common.left or common.bottom <= common.top:
            return 0.0
        return common.area / (self.area + other.area - common.area)


@dataclass(frozen=True, slots=True)
class Detection:
    """`score`: the network's own, 0 to 1."""

    category: Category
    score: float
    box: Box


def read_categories(path: Path) -> dict[int, Category]:
    """COCO's categories by the number that the network gives them."""
    rows = (line.split("\t") for line in path.read_text("utf-8-sig").splitlines()[1:])
    return {
        int(number): Category(name, plural, frozenset(filter(None, imagenet.split(", "))))
        for number, name, plural, imagenet in rows
    }


class Detector:
    """Objects of COCO's 80 categories, found by SSD MobileNet v2 in OpenCV's DNN engine.

    The network and its configuration are those of TensorFlow's detection zoo
    (`ssd_mobilenet_v2_coco_2018_03_29`): the whole picture is scaled to 300 x 300 pixels, so what
    is smaller than about a thirtieth of a side is missed. How sure it is of a thing that COCO has
    no category for says little (a beetle is a bird at 0.99).

    It is read anew for each picture and dropped after it: it and the text reader are then never in
    memory together, which would take 0.17 GB more. `detect` is thread-safe.
    """

    def __init__(self, graph: Path, config: Path, categories: dict[int, Category]) -> None:
        self._graph, self._config = str(graph), str(config)
        self._categories = categories
        self._network()  # what is damaged is told now and not with the first picture

    def _network(self) -> cv2.dnn.Net:
        network = cv2.dnn.readNetFromTensorflow(self._graph, self._config)
        # Winograd convolutions keep a second copy of the weights and are no faster here.
        network.enableWinograd(False)
        return network

    def detect(self, image: Image.Image, least_score: float) -> list[Detection]:
        """What is found in an RGB picture with at least that score, the surest first."""
        network = self._network()
        # Scaled without smoothing, as the network was trained.
        network.setInput(cv2.dnn.blobFromImage(np.asarray(image), size=(SIDE, SIDE)))
        rows = network.forward()[0, 0]
        found = []
        for _, number, score, *edges in rows.tolist():
            category = self._categories.get(int(number))
            if score >= least_score and category is not None:
                box = Box(*(min(1.0, max(0.0, edge)) for edge in edges))
                found.append(Detection(category, score, box))
        return sorted(found, key=lambda detection: -detection.score)


LEAST_SCORE = 0.3
PERSON_SCORE = 0.4
SURE = 0.8
POSSIBLE = 0.6
OPPOSED = 0.6
"""Of the classifier's probability, what another class has where only sure objects are said."""
INTERCEPT, SCORE_WEIGHT, SUPPORT_WEIGHT, OPPOSITION_WEIGHT = 0.67, 0.32, 0.63, -0.92
SUPPORT_FLOOR, SUPPORT_UNIT = 0.02, 0.1
MOST_CHECKED = 12
"""Boxes looked at a second time, the surest first; 40 ms each."""
CHECKED_AT_ONCE = 4
MARGIN = 0.1
"""Of a box's longer side, by which its square is larger than it."""
SAME_PLACE = 0.6
"""Intersection over union from which on two categories are two names for one thing."""
SCENES = {
    "bridge", "building", "dam", "dock", "fountain", "grocery store", "home theater", "house",
    "landscape", "patio", "pier", "place of worship", "shop", "stage", "viaduct",
}  # fmt: skip
PARTS = {
    "book jacket", "car mirror", "car wheel", "crash helmet", "disk brake", "dock", "grille",
    "horse cart", "oxcart", "pillow", "quilt", "space bar", "suit", "toilet seat", "wing",
}  # fmt: skip
WORN = {"piece of clothing", "footwear", "armor", "hat"}


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object that is said. Unless `is_sure`, it is said with doubt."""

    category: Category
    box: Box
    is_sure: bool


@dataclass(frozen=True, slots=True)
class LabelRelation:
    """What the label of the whole picture adds to its objects. `category`: the name of that which
    the label is a kind of; `is_scene`: it names the place; `is_implied`: it is a broader word for
    an object, or what people wear; `is_kind`: it is a kind of `category`, not a part of it (a
    wheel) or another thing beside it."""

    category: str | None = None
    is_kind: bool = False
    is_scene: bool = False
    is_implied: bool = False


class ObjectFinder:
    """Detector, classifier and what they know of each other's names."""

    def __init__(
        self,
        detector: Detector,
        categories: Sequence[Category],
        classifier: Classifier,
        vocabulary: Vocabulary,
    ) -> None:
        self._detector = detector
        self._classifier = classifier
        self._vocabulary = vocabulary
        self._categories = categories
        self.plurals = {c.name: c.plural for c in categories}
        self._indices = {c.name: vocabulary.indices(c.imagenet) for c in categories}

    def find(
        self, image: Image.Image, is_colourless: bool, stop: threading.Event
    ) -> tuple[FoundObject, ...]:
        """The objects of an RGB picture; () once `stop` is set. Without colour only people are
        ever sure: both networks learned from colour photographs."""
        detections = self._detector.detect(image, LEAST_SCORE)
        people = [d for d in detections if d.category.name == PERSON and d.score >= PERSON_SCORE]
        found = [FoundObject(person.category, person.box, True) for person in people]
        things = [d for d in detections if d.category.name != PERSON]
        likely = [pair for pair in self._checked(image, things, stop) if pair[1] >= POSSIBLE]
        if stop.is_set():
            return ()
        for detection, probability in suppress_overlapping(likely):
            if is_colourless and probability < SURE:
                continue
            is_sure = probability >= SURE and not is_colourless
            found.append(FoundObject(detection.category, detection.box, is_sure))
        return tuple(found)

    def relate_label(self, labels: Labels, objects: Sequence[FoundObject]) -> LabelRelation:
        """How the label of the picture goes with its objects."""
        if labels.certainty < LIKELY:
            return LabelRelation()
        first = self._vocabulary.names.index(labels.others[0].word)
        words = {labels.best.word, labels.others[0].word}
        seen = {found.category.name for found in objects}
        kinds = [name for name, indices in self._indices.items() if first in indices]
        category = next((name for name in kinds if name in seen), kinds[0] if kinds else None)
        groups = set(self._vocabulary.groups[first])
        worn = PERSON in seen and bool(WORN & (groups | words))
        broad = any(
            labels.best.word in self._vocabulary.groups[index]
            for name in seen
            for index in self._indices[name]
        )
        names = {word for c in self._categories if c.name == category for word in c.imagenet}
        is_kind = bool(names & (groups | {labels.others[0].word}) - PARTS)
        return LabelRelation(category, is_kind, bool(SCENES & (groups | words)), worn or broad)

    def _checked(
        self, image: Image.Image, detections: list[Detection], stop: threading.Event
    ) -> list[tuple[Detection, float]]:
        """With the probability that each is right; that of all but the surest from its score. What
        is neither sure nor unopposed is left out."""
        checked: list[tuple[Detection, float]] = []
        for start in range(0, min(MOST_CHECKED, len(detections)), CHECKED_AT_ONCE):
            if stop.is_set():
                return []
            some = detections[start : min(start + CHECKED_AT_ONCE, MOST_CHECKED)]
            regions = [_square(image, detection.box) for detection in some]
            classes = self._classifier.region_probabilities(image, regions)
            for detection, probabilities in zip(some, classes, strict=True):
                own = self._indices[detection.category.name]
                support = sum(probabilities[index] for index in own) if own else None
                others = (p for index, p in enumerate(probabilities) if index not in own)
                opposition = max(others)
                probability = likelihood(detection.score, support, opposition)
                if probability >= SURE or opposition < OPPOSED:
                    checked.append((detection, probability))
        rest = detections[MOST_CHECKED:]
        return checked + [(detection, likelihood(detection.score, None, 0.0)) for detection in rest]


def likelihood(score: float, support: float | None, opposition: float) -> float:
    """The probability that an object is right. `support`: the classifier's probability of the
    category's own classes, None where it has none; `opposition`: that of the likeliest other."""
    score = min(score, 0.999)
    sum_ = INTERCEPT + SCORE_WEIGHT * math.log(score / (1 - score)) + OPPOSITION_WEIGHT * opposition
    if support is not None:
        sum_ += SUPPORT_WEIGHT * math.log((support + SUPPORT_FLOOR) / SUPPORT_UNIT)
    return 1 / (1 + math.exp(-sum_))


def suppress_overlapping(found: Sequence[tuple[Detection, float]]) -> list[tuple[Detection, float]]:
    """Of objects of two categories in the same place only the likelier one."""
    kept: list[tuple[Detection, float]] = []
    for detection, probability in sorted(found, key=lambda pair: -pair[1]):
        box = detection.box
        if all(
            other.category == detection.category or other.box.overlap(box) < SAME_PLACE
            for other, _ in kept
        ):
            kept.append((detection, probability))
    return kept


def _square(image: Image.Image, box: Box) -> tuple[float, float, float, float]:
    """The square around a box, in pixels, cut at the picture's edges."""
    width, height = image.size
    across, down = (box.right - box.left) * width, (box.bottom - box.top) * height
    half = max(2.0, max(across, down) * (0.5 + MARGIN))
    x, y = (box.left + box.right) / 2 * width, (box.top + box.bottom) / 2 * height
    return max(0.0, x - half), max(0.0, y - half), min(width, x + half), min(height, y + half)
