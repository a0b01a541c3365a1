"""The pictures of a job as latents, with the noise that is put into them.

A picture is read by the decoder's other half once, before the first step: as it is, or in VARIANTS
crops and mirror images of which each epoch takes the next. Latents of a mirrored picture are not
mirrored latents, so both come from pixels. Which noise, and how much of it, depends on the seed,
the epoch and the picture alone, so a job that is resumed sees what one that ran through sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from multimodal.studio.recipes.picture_dataset import LEAST_CROP

VARIANTS = 4
"""Of a picture that is varied."""


@dataclass(frozen=True, slots=True)
class EncodedCaption:
    """What a pipeline's text encoders make of one caption, as arguments of the pipeline: of the
    caption and of none, each with a batch of one."""

    embeddings: Mapping[str, torch.Tensor]

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What the U-Net reads, without the batch."""
        words = {"encoder_hidden_states": self.embeddings["prompt_embeds"][0]}
        if (pooled := self.embeddings.get("pooled_prompt_embeds")) is not None:
            words["text_embeds"] = pooled[0]
        return words


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """`latents`: (variants, channels, side, side), fp16. `time_ids`: (variants, 6), of each the
    size of the whole picture, where its crop begins, and the size of the crop, each in pixels with
    the height before the width (SDXL: Podell et al. 2023, section 2.2)."""

    latents: torch.Tensor
    time_ids: torch.Tensor
    caption: str


class LatentDataset(Dataset[dict[str, Any]]):
    """Each picture is there `looks` times, with amounts of noise spread over all there are. An item
    is what the U-Net is called with, and as `labels` what it is to find. `scheduler`: diffusers'
    DDPMScheduler; `guidance`: how strongly a distilled model is guided, as it reads that."""

    def __init__(
        self,
        pictures: Sequence[EncodedPicture],
        captions: Mapping[str, EncodedCaption],
        scheduler: Any,
        looks: int = 1,
        seed: int = 0,
        guidance: torch.Tensor | None = None,
    ) -> None:
        self._pictures, self._captions, self._scheduler = pictures, captions, scheduler
        self._looks, self._seed, self._guidance = looks, seed, guidance
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._pictures) * self._looks

    def __getitem__(self, index: int) -> dict[str, Any]:
        at, look = divmod(index, self._looks)
        picture, config = self._pictures[at], self._scheduler.config
        random = np.random.default_rng((self._seed, self.epoch, index))
        variant = (self.epoch + at) % len(picture.latents)
        latents = picture.latents[variant].float()
        noise = torch.from_numpy(random.standard_normal(tuple(latents.shape), np.float32))
        share = (look + random.random()) / self._looks
        timestep = torch.tensor([int(config.num_train_timesteps * share)])
        item = {
            "sample": self._scheduler.add_noise(latents[None], noise[None], timestep)[0],
            "timestep": timestep[0],
            "labels": noise,
            **self._captions[picture.caption].inputs,
        }
        if config.prediction_type == "v_prediction":
            item["labels"] = self._scheduler.get_velocity(latents[None], noise[None], timestep)[0]
        if "text_embeds" in item:
            item["time_ids"] = picture.time_ids[variant]
        if self._guidance is not None:
            item["timestep_cond"] = self._guidance
        return item


def collate_latents(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """A batch of what the U-Net is called with."""
    batch: dict[str, Any] = {name: torch.stack([it[name] for it in items]) for name in items[0]}
    added = {name: batch.pop(name) for name in ("text_embeds", "time_ids") if name in batch}
    return {**batch, "added_cond_kwargs": added} if added else batch


def crop_square(
    picture: Image.Image, side: int, random: np.random.Generator | None = None, flips: bool = False
) -> tuple[Image.Image, list[int]]:
    """A square of `side` pixels, and its time_ids (`EncodedPicture`): the middle of the picture,
    or with `random` any part of at least LEAST_CROP of its shorter side, turned left to right every
    other time if it may be."""
    width, height = picture.size
    if random is not None and flips and random.random() < 0.5:
        picture = ImageOps.mirror(picture)
    box = min(width, height) * (1.0 if random is None else random.uniform(LEAST_CROP, 1))
    spare = width - box, height - box
    left, top = (one * (0.5 if random is None else random.random()) for one in spare)
    square = picture.resize(
        (side, side), Image.Resampling.BICUBIC, (left, top, left + box, top + box)
    )
    scale = side / box
    return square, [height, width, round(top * scale), round(left * scale), side, side]
