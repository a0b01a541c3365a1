"""Objects of COCO's 80 categories, found by SSD MobileNet v2 in OpenCV's DNN engine.

The network and its configuration are those of TensorFlow's detection zoo
(`ssd_mobilenet_v2_coco_2018_03_29`): the whole picture is scaled to 300 x 300 pixels, so what is
smaller than about a thirtieth of a side is missed. How sure it is of a thing that COCO has no
category for says little (a beetle is a bird at 0.99): `objects.py` checks what is found here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

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
    """The network, which is read anew for each picture and dropped after it: it and the text reader
    are then never in memory together, which would take 0.17 GB more. `detect` is thread-safe."""

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
