"""The pictures of a job with the noise that is put into them.

Which noise, how much of it, and how a picture is varied depends on the seed, the epoch and the
picture alone, so a job that is resumed sees what one that ran through sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from multimodal.studio.data.kept_pictures import PICTURES, read_picture
from multimodal.studio.data.prepare import Row
from multimodal.studio.recipes.picture_dataset import vary
from multimodal.studio.settings import Augmentation

TIMESTEPS = 1000
DROPPED = 0.1
"""How often a picture is learned without its class, for classifier-free guidance: the share of Ho
and Salimans (2022)."""


class DenoisingDataset(Dataset[dict[str, Any]]):
    """`rows` are those of `studio.data.pictures` in the job's data folder `data`. Each picture is
    there `looks` times, with amounts of noise spread over all there are; an item is what
    `DenoisingModel` takes. `is_learned`: classes are dropped now and then."""

    def __init__(
        self,
        rows: Sequence[Row],
        data: Path,
        labels: Sequence[str],
        side: int,
        looks: int = 1,
        augmentation: Augmentation = "none",
        is_learned: bool = False,
        seed: int = 0,
    ) -> None:
        self._rows, self._folder, self._side = rows, data / PICTURES, side
        self._numbers = {label: at for at, label in enumerate(labels)}
        self._looks, self._augmentation = looks, augmentation
        self._is_learned, self._seed = is_learned, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._rows) * self._looks

    def __getitem__(self, index: int) -> dict[str, Any]:
        at, look = divmod(index, self._looks)
        random = np.random.default_rng((self._seed, self.epoch, index))
        number = self._numbers[self._rows[at]["label"]]
        if self._is_learned and random.random() < DROPPED:
            number = len(self._numbers)
        picture = read_picture(self._folder / self._rows[at]["image"])
        if self._augmentation != "none":
            picture = vary(picture, random, self._augmentation == "crops_and_flips")
        pixels = as_pixels(picture, self._side)
        noise = random.standard_normal(tuple(pixels.shape), np.float32)
        return {
            "pixel_values": pixels,
            "labels": number,
            "noise": torch.from_numpy(noise),
            "timesteps": int(TIMESTEPS * (look + random.random()) / self._looks),
        }


def as_pixels(picture: Image.Image, side: int) -> torch.Tensor:
    """A square of `side` pixels from the middle, shape (3, side, side), in [-1, 1]."""
    square = ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
    values = np.asarray(square, np.float32).transpose(2, 0, 1) / 127.5 - 1
    return torch.from_numpy(np.ascontiguousarray(values))


def collate_noisy(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of what `DenoisingModel` takes."""
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": torch.tensor([item["labels"] for item in items]),
        "noise": torch.stack([item["noise"] for item in items]),
        "timesteps": torch.tensor([item["timesteps"] for item in items]),
    }
