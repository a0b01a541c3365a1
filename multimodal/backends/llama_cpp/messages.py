"""A conversation with pictures as llama.cpp reads it.

Pictures go in as data: URIs that are made here from pixels, and what a person types goes in as
text alone, so nothing anybody writes can make the engine fetch an address or open a file. The
engine's sign for a picture is drawn by chance at its start; text cannot stand for one either.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from multimodal.backends.describing import DESCRIBE
from multimodal.requests import ChatMessage, TextRequest

if TYPE_CHECKING:
    from PIL.Image import Image

CHARACTERS_PER_TOKEN = 4

Content = str | list[dict[str, Any]]


def as_messages(request: TextRequest, after: str) -> list[dict[str, Any]]:
    """The turns, each with the pictures it shows before its words. `after` stands behind each
    picture, where the model was trained so."""
    return [{"role": turn.role, "content": _content(turn, after)} for turn in request.messages]


def length(content: Content, picture_tokens: int) -> int:
    """In characters, a picture as many as would take its tokens."""
    if isinstance(content, str):
        return len(content)
    picture = picture_tokens * CHARACTERS_PER_TOKEN
    return sum(len(part["text"]) if "text" in part else picture for part in content)


def pictures_in(content: Content) -> int:
    return 0 if isinstance(content, str) else sum("image_url" in part for part in content)


def _content(turn: ChatMessage, after: str) -> Content:
    """The engine puts a new line between two texts, but none beside a picture: so what is between
    two pictures is a text of its own, and what is behind the last one begins the words."""
    if not turn.images:
        return turn.text
    parts: list[dict[str, Any]] = []
    for picture in turn.images:
        if parts and after:
            parts.append({"type": "text", "text": after})
        parts.append({"type": "image_url", "image_url": {"url": _data_uri(picture)}})
    return [*parts, {"type": "text", "text": after + (turn.text or DESCRIBE)}]


def _data_uri(picture: Image) -> str:
    png = io.BytesIO()
    picture.convert("RGB").save(png, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
