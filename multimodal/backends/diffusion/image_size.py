"""How large a picture is made: what was asked, what was trained for, what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from multimodal.catalog.cards import ModelCard
from multimodal.errors import RequestError
from multimodal.requests import ImageGenerationRequest

MIN_SIDE = 64


@dataclass(frozen=True, slots=True)
class ImageSize:
    """In pixels; `notice` says where this is not what was asked for."""

    width: int
    height: int
    notice: str | None = None


def choose_image_size(
    card: ModelCard, trained_for: tuple[int, int], grain: int, request: ImageGenerationRequest
) -> ImageSize:
    """The size to draw, in multiples of `grain`. Raises RequestError for one out of bounds.

    A side that nobody asked for is the card's, or else the checkpoint's own; a picture to draw
    anew keeps its proportions.
    """
    usual = (card.drawing.width or trained_for[0], card.drawing.height or trained_for[1])
    if request.source is not None and request.width is None and request.height is None:
        usual = _in_proportion(request.source.size, usual[0] * usual[1])
    asked = (request.width or usual[0], request.height or usual[1])
    width, height = (max(grain, round(side / grain) * grain) for side in asked)
    most = max(card.drawing.max_pixels, usual[0] * usual[1])
    if min(asked) < MIN_SIDE or width * height > most:
        side = int(math.sqrt(most)) // grain * grain
        raise RequestError(
            f"{card.title} cannot draw {asked[0]}x{asked[1]} pixels: at least {MIN_SIDE} on a side "
            f"and at most {most:,} in all, such as {side}x{side}."
        )
    told = f"Drawn at {width}x{height}, since sides are multiples of {grain} pixels."
    is_as_asked = (width, height) == asked or asked == usual
    return ImageSize(width, height, None if is_as_asked else told)


def _in_proportion(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """About as many pixels with the proportions of `size`."""
    scale = math.sqrt(pixels / (size[0] * size[1]))
    return max(MIN_SIDE, round(size[0] * scale)), max(MIN_SIDE, round(size[1] * scale))
