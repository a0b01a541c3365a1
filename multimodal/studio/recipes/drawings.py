"""What is measured and shown of a model that learns to draw: how much of the noise in held-out
pictures it finds, what it draws at an evaluation, and how much of that it copied."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from multimodal.studio.context import JobContext
from multimodal.studio.data.kept_pictures import PICTURES, read_picture
from multimodal.studio.data.prepare import Row
from multimodal.studio.evaluation.copies import copied_share
from multimodal.studio.recipes.denoising_dataset import as_pixels

LOOKS = 4
"""Amounts of noise at which a held-out picture is measured."""
ROWS = 2
"""Of the sheet with what is drawn at an evaluation."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The share of the noise in each held-out picture that was found before the first step."""

    found: list[float]


class NoisyPictures(Protocol):
    """Held-out pictures, each LOOKS times in a row."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def found_shares(
    pictures: NoisyPictures,
    batch: int,
    squared_errors: Callable[[list[dict[str, Any]]], torch.Tensor],
) -> list[float]:
    """The share of the noise in each picture that is found, from 0 to 1. `squared_errors`: of the
    noise in each of some items, the mean over its values; shape (items,)."""
    errors: list[float] = []
    for start in range(0, len(pictures), batch):
        items = [pictures[at] for at in range(start, min(start + batch, len(pictures)))]
        errors += squared_errors(items).tolist()
    means = (sum(errors[at : at + LOOKS]) / LOOKS for at in range(0, len(errors), LOOKS))
    return [max(0.0, 1 - mean) for mean in means]


def copied_drawings(
    drawn: Sequence[Image.Image], data: Path, learned: Sequence[Row], test: Sequence[Row], side: int
) -> float:
    """The share of `drawn` that are nearly copies of pictures of `learned`, compared at `side`
    pixels; `data` is the folder of a job's data."""

    def pixels(pictures: Iterable[Image.Image]) -> torch.Tensor:
        return torch.stack([as_pixels(one, side).flatten() for one in pictures])

    def kept(rows: Sequence[Row]) -> torch.Tensor:
        return pixels(read_picture(data / PICTURES / row["image"]) for row in rows)

    return copied_share(pixels(drawn), kept(learned), kept(test))


def show_drawings(
    job: JobContext, step: int, drawn: Sequence[Image.Image], prompt: str, told: str
) -> None:
    """On the page of the job, in one picture. `prompt` says what was asked for, `told` what the
    picture holds."""
    png = io.BytesIO()
    _contact_sheet(drawn).save(png, "PNG")
    job.show_picture(step, prompt, told, png.getvalue())


def _contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """All in one, column by column; all are of one size."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (-(-len(pictures) // ROWS) * width, ROWS * height))
    for at, picture in enumerate(pictures):
        sheet.paste(picture, (at // ROWS * width, at % ROWS * height))
    return sheet
