"""What a picture shows: EfficientNet-Lite2 over ImageNet-1k, summed into everyday words.

Probabilities of all classes of a group are added ("tabby" 0.1 and "Egyptian cat" 0.6 make "cat"
0.7), and the most specific name that is likely enough is said. Confidence is the mean over the
picture and its mirror image, which tempers single confident mistakes. It is the network's own: no
labelled pictures could be had to fit a calibration on. The thresholds were set by hand on the
18 pictures of scikit-image, where two of five sure names are wrong (both of drawings or
of things ImageNet has no class for: a horse's silhouette is called a dog, the moon an animal).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from PIL import Image

SIDE = 260
CROP = 0.875
SURE = 0.55
LIKELY = 0.3
NAMED = 5


@dataclass(frozen=True, slots=True)
class Name:
    """A word for what is seen and its probability."""

    word: str
    probability: float


@dataclass(frozen=True, slots=True)
class Labels:
    """`best`: the word to say; `closer`: a more specific one; `others`: the likeliest classes."""

    best: Name
    closer: Name | None
    others: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The 1,000 class names, and for each its groups from the most specific."""

    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()[1:]]
        groups = (tuple(filter(None, row[2].split(", "))) for row in rows)
        return cls(tuple(row[1] for row in rows), tuple(groups))

    def choose(self, probabilities: Sequence[float]) -> Labels:
        """The name to say for `probabilities` of the 1,000 classes, which sum to 1."""
        order = sorted(range(len(self.names)), key=lambda i: -probabilities[i])
        others = tuple(Name(self.names[i], probabilities[i]) for i in order[:NAMED])
        first = order[0]
        if probabilities[first] >= SURE:
            return Labels(others[0], None, others)
        mass: dict[str, float] = {}
        for index, groups in enumerate(self.groups):
            for group in groups:
                mass[group] = mass.get(group, 0.0) + probabilities[index]
        sizes = {group: sum(group in groups for groups in self.groups) for group in mass}
        likely = [group for group in mass if mass[group] >= LIKELY]
        if not likely or probabilities[first] >= max(mass[group] for group in likely):
            return Labels(others[0], None, others)
        sure = [group for group in likely if mass[group] >= SURE] or likely
        best = min(sure, key=lambda group: (sizes[group], group))
        closer = others[0] if best in self.groups[first] else None
        return Labels(Name(best, mass[best]), closer, others)


class Classifier:
    """The loaded network; `probabilities` is thread-safe."""

    def __init__(self, weights: Path) -> None:
        self._network = EfficientNet.from_name("efficientnet-lite2")
        self._network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._network.eval()

    def probabilities(self, image: Image.Image) -> list[float]:
        """Of the 1,000 classes, for an RGB picture."""
        pixels = _prepare(image)
        with torch.inference_mode():
            both = torch.from_numpy(np.stack([pixels, pixels[:, :, ::-1].copy()]))
            mean: list[float] = self._network(both).softmax(-1).mean(0).tolist()
        return mean


def _prepare(image: Image.Image) -> NDArray[np.float32]:
    """The centre of the picture as the network was trained: (3, 260, 260), (x - 127) / 128."""
    width, height = image.size
    side = min(width, height) * CROP
    left, top = (width - side) / 2, (height - side) / 2
    scaled = image.resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    pixels = (np.asarray(scaled, dtype=np.float32) - 127.0) / 128.0
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
