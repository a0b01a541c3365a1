"""What a picture shows: EfficientNet-Lite2 over ImageNet-1k, summed into everyday words.

Probabilities of all classes of a group are added ("tabby" 0.1 and "Egyptian cat" 0.6 make "cat"
0.7), and the most specific name that is likely enough is said. A name counts by what it has beyond
chance: "animal" covers 398 of the 1,000 classes, so 40 % for it says nothing.

Probabilities are the mean over the picture and its mirror image, at temperature 0.8. What that
rests on is little: the 20 labelled ImageNet pictures in the foolbox 3.3.4 wheel, which the network
may have been trained on. At temperature 1 the first class was right for 18 of them at a mean
confidence of 0.64; the likeliest temperature is 0.6 (90 % bootstrap interval 0.3 to 0.7), and 0.8
(mean 0.84) claims less than that. With the thresholds below all 20 get a right name. The thresholds
were then set by hand on those and 18 pictures of scikit-image, many of things ImageNet has no
class for (a silhouette, the moon, a retina); no held-out pictures remained to check them on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from PIL import Image

SIDE = 260
CROP = SIDE / (SIDE + 32)
TEMPERATURE = 0.8
CERTAIN = 0.9
SURE = 0.65
LIKELY = 0.4
CLOSER_SHARE = 1 / 3
NAMED = 5


@dataclass(frozen=True, slots=True)
class LabelName:
    """A word for what is seen and its probability."""

    word: str
    probability: float


@dataclass(frozen=True, slots=True)
class Labels:
    """`best`: the word to say; `closer`: a more specific one; `others`: the likeliest classes.

    `certainty`: what `best` has beyond chance, at most 1; compare it with SURE and LIKELY."""

    best: LabelName
    closer: LabelName | None
    others: tuple[LabelName, ...]
    certainty: float


@dataclass(frozen=True)
class Vocabulary:
    """The 1,000 class names, and for each its groups from the most specific."""

    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        rows = [line.split("\t") for line in path.read_text("utf-8-sig").splitlines()[1:]]
        groups = (tuple(filter(None, row[2].split(", "))) for row in rows)
        return cls(tuple(row[1] for row in rows), tuple(groups))

    @cached_property
    def chance(self) -> dict[str, float]:
        """For each group, the share of the classes that belong to it."""
        groups = [group for groups in self.groups for group in groups]
        return {group: groups.count(group) / len(self.names) for group in set(groups)}

    def indices(self, words: Collection[str]) -> frozenset[int]:
        """The classes that are called by one of these words or belong to a group of that name."""
        rows = enumerate(zip(self.names, self.groups, strict=True))
        return frozenset(i for i, (name, groups) in rows if {name, *groups} & set(words))

    def choose(self, probabilities: Sequence[float]) -> Labels:
        """The name to say for `probabilities` of the 1,000 classes, which sum to 1."""
        order = sorted(range(len(self.names)), key=lambda i: -probabilities[i])
        others = tuple(LabelName(self.names[i], probabilities[i]) for i in order[:NAMED])
        first, groups = others[0], self.groups[order[0]]
        if first.probability >= CERTAIN:
            return Labels(first, None, others, first.probability)
        mass = dict.fromkeys(self.chance, 0.0)
        for index, names in enumerate(self.groups):
            for name in names:
                mass[name] += probabilities[index]
        beyond = {name: (mass[name] - p) / (1 - p) for name, p in self.chance.items()}
        for bound in (SURE, LIKELY):
            likely = [g for g in mass if beyond[g] >= bound and mass[g] > first.probability]
            if likely:
                best = min(likely, key=lambda group: (self.chance[group], group))
                near = best in groups and first.probability >= CLOSER_SHARE * mass[best]
                closer = first if near else None
                return Labels(LabelName(best, mass[best]), closer, others, beyond[best])
            if first.probability >= bound:
                break
        return Labels(first, None, others, first.probability)


class Classifier:
    """The loaded network; `probabilities` is thread-safe."""

    def __init__(self, weights: Path) -> None:
        self._network = EfficientNet.from_name("efficientnet-lite2")
        self._network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._network.eval()

    def probabilities(self, image: Image.Image) -> list[float]:
        """Of the 1,000 classes, for an RGB picture, of which the centre is seen."""
        width, height = image.size
        side = min(width, height) * CROP
        left, top = (width - side) / 2, (height - side) / 2
        pixels = _pixels(image, (left, top, left + side, top + side))
        mean: list[float] = self._classes([pixels, pixels[:, :, ::-1]]).mean(0).tolist()
        return mean

    def region_probabilities(
        self, image: Image.Image, regions: Sequence[tuple[float, float, float, float]]
    ) -> list[list[float]]:
        """Of the 1,000 classes, for parts of an RGB picture: left, top, right, bottom in pixels."""
        found = self._classes([_pixels(image, region) for region in regions])
        classes: list[list[float]] = found.tolist()
        return classes

    @torch.inference_mode()
    def _classes(self, pictures: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        with _one_thread():
            logits: torch.Tensor = self._network(torch.from_numpy(np.stack(pictures)))
            return (logits / TEMPERATURE).softmax(-1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """So small a network gains little from a second core and loses much where that core is busy:
    every layer then waits for it (measured: 70 ms on one thread, 600 ms and more on two)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pixels(image: Image.Image, region: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """A part of the picture as the network was trained: (3, 260, 260), (x - 127) / 128."""
    scaled = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=region)
    pixels = (np.asarray(scaled, dtype=np.float32) - 127.0) / 128.0
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
