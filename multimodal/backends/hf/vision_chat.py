"""What models that see and talk do alike: a conversation with the pictures where they were shown,
and one picture described for another model."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from typing import Any

from PIL import Image

from multimodal.backends.base import ImageDescriptionRequest, TextRequest
from multimodal.backends.describing import DESCRIBE, describe
from multimodal.backends.hf.chat_model import ChatModel
from multimodal.events import Event


class VisionChatModel(ChatModel):
    """One loaded model."""

    def run(
        self, request: TextRequest | ImageDescriptionRequest, stop: threading.Event
    ) -> Generator[Event, None, None]:
        """Answer a conversation with pictures, or describe one picture for another model."""
        talk = super().run
        if isinstance(request, ImageDescriptionRequest):
            return describe(request, lambda asked: talk(asked, stop))
        return talk(request, stop)


def chat_messages(request: TextRequest) -> list[dict[str, Any]]:
    """The turns as chat templates read them, each with a part for every picture it shows."""
    return [
        {"role": role, "content": _parts(text, sum(at == turn for at, _ in request.pictures))}
        for turn, (role, text) in enumerate(request.turns)
    ]


def sample_request() -> TextRequest:
    """A question about a picture, to try a model with."""
    return TextRequest((("user", DESCRIBE),), pictures=((0, Image.new("RGB", (48, 32))),))


def _parts(text: str, pictures: int) -> list[dict[str, str]]:
    """A picture that was sent without a word is to be described."""
    words = {"type": "text", "text": text or DESCRIBE}
    return [*({"type": "image"} for _ in range(pictures)), words]


def digest(pictures: list[Image.Image]) -> str:
    """A name for these pictures in this order."""
    found = hashlib.sha256()
    for picture in pictures:
        found.update(f"{picture.mode}{picture.size}".encode())
        found.update(picture.tobytes())
    return found.hexdigest() if pictures else ""
