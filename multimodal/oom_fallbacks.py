"""What is done for a request that found its device full, in order, each once and told in words:

1. The memory manager gives back what is only cached, evicts idle models, brings part of the model.
2. The same is asked in a smaller way: a smaller picture to look at or to draw, then less context,
   then fewer guesses at once.
3. The model runs on the CPU, for this request only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from multimodal.backends.base import Backend
from multimodal.catalog.architectures import ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager
from multimodal.requests import (
    ImageDescriptionRequest,
    ImageGenerationRequest,
    Request,
    TextRequest,
    TranscriptionRequest,
)

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST_SIDE = 224
"""Pixels; no model that sees reads less."""
SMALLEST_DRAWING = 256
GRID = 8
"""Sides of what a diffusion model draws are multiples of it."""
USUAL_DRAWING = 512
SMALLEST_CONTEXT = 512


def fallbacks(
    memory: MemoryManager[Backend], lease: Lease[Backend], request: Request
) -> Iterator[tuple[str, Request]]:
    """(what was done, what to ask now); what costs least first."""
    while (told := memory.recover_from_oom(lease)) is not None:
        yield told, request
    for told, less in smaller(request, lease.card):
        yield told, less
    if (told := memory.cpu_fallback(lease)) is not None:
        yield told, request


def smaller(request: Request, card: ModelCard) -> Iterator[tuple[str, Request]]:
    """(what was given up, the request without it), one after another; each keeps what the ones
    before gave up."""
    if (with_small := _smaller_pictures(request)) is not None:
        request = with_small
        yield "The device was full; the picture was made smaller.", request
    if isinstance(request, ImageGenerationRequest) and (drawing := _smaller_drawing(request, card)):
        yield f"The device was full; {drawing.width} x {drawing.height} pixels are drawn.", drawing
    tokens = max((card.context_tokens or 0) // 2, SMALLEST_CONTEXT)
    if isinstance(request, TextRequest) and tokens < (card.context_tokens or 0):
        request = replace(request, context_tokens=tokens)
        yield f"The device was full; at most {request.context_tokens:,} tokens are read.", request
    if isinstance(request, TranscriptionRequest):
        yield "The device was full; one guess at a time was followed.", replace(request, beams=1)


def _smaller_pictures(request: Request) -> Request | None:
    if isinstance(request, ImageDescriptionRequest):
        halved = _halved(request.image)
        return None if halved is None else replace(request, image=halved)
    if not isinstance(request, TextRequest):
        return None
    messages = tuple(
        replace(turn, images=tuple(_halved(picture) or picture for picture in turn.images))
        for turn in request.messages
    )
    return replace(request, messages=messages) if messages != request.messages else None


def _smaller_drawing(
    request: ImageGenerationRequest, card: ModelCard
) -> ImageGenerationRequest | None:
    shape, own = card.architecture, card.drawing
    side = shape.picture_side if isinstance(shape, ModulesArchitecture) else None
    usual = side or USUAL_DRAWING
    sides = (request.width or own.width or usual, request.height or own.height or usual)
    width, height = (max(SMALLEST_DRAWING, side // 2 // GRID * GRID) for side in sides)
    return replace(request, width=width, height=height) if (width, height) < sides else None


def _halved(picture: Image) -> Image | None:
    """None for a picture that is small already."""
    if max(picture.size) <= SMALLEST_SIDE:
        return None
    scale = max(0.5, SMALLEST_SIDE / max(picture.size))
    return picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
