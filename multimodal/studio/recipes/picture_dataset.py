"""The pictures of a job as a trainer takes them, varied while they are learned from.

What is varied, and how, depends on the seed, the epoch and the picture alone, so a job that is
resumed sees what one that ran through sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from multimodal.studio.data.kept_pictures import PICTURES, read_picture
from multimodal.studio.data.prepare import Row
from multimodal.studio.settings import Augmentation

LEAST_CROP = 0.85
"""Of each side, at least so much is kept."""


class EpochDataset(Protocol):
    """What is varied depends on `epoch`."""

    epoch: int


class PictureDataset(Dataset[dict[str, Any]]):
    """`rows` are those of `studio.data.pictures` in the job's data folder `data`. An item has
    `pixel_values` (channels, height, width), float32, and `labels`, its number in `labels`."""

    def __init__(
        self,
        rows: Sequence[Row],
        data: Path,
        processor: Any,
        labels: Sequence[str],
        augmentation: Augmentation = "none",
        seed: int = 0,
    ) -> None:
        self._rows, self._folder, self._processor = rows, data / PICTURES, processor
        self._numbers = {label: at for at, label in enumerate(labels)}
        self._augmentation, self._seed = augmentation, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        picture = read_picture(self._folder / row["image"])
        if self._augmentation != "none":
            random = np.random.default_rng((self._seed, self.epoch, index))
            picture = vary(picture, random, self._augmentation == "crops_and_flips")
        made = self._processor(images=picture, return_tensors="pt")
        return {"pixel_values": made["pixel_values"][0], "labels": self._numbers[row["label"]]}


class EpochCallback(TrainerCallback):
    """Tells the pictures which epoch begins, also where a job is resumed within one."""

    def __init__(self, pictures: EpochDataset) -> None:
        self._pictures = pictures

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._pictures.epoch = int(state.epoch or 0)


def vary(picture: Image.Image, random: np.random.Generator, flips: bool) -> Image.Image:
    """A part of the picture of at least LEAST_CROP of each side, at the size of the whole; turned
    left to right every other time, if it may be."""
    width, height = picture.size
    share = random.uniform(LEAST_CROP, 1)
    left, top = random.uniform(0, (1 - share) * width), random.uniform(0, (1 - share) * height)
    box = (left, top, left + share * width, top + share * height)
    cropped = picture.resize(picture.size, Image.Resampling.BILINEAR, box)
    return ImageOps.mirror(cropped) if flips and random.random() < 0.5 else cropped


def collate(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch: `pixel_values` (pictures, channels, height, width) and `labels` (pictures,)."""
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": torch.tensor([item["labels"] for item in items]),
    }
