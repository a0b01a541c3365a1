"""What models that see and talk do alike: a conversation with the pictures where they were shown,
and one picture described for another model."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Sequence
from typing import Any

from PIL import Image

from multimodal.backends.describing import DESCRIBE, describe
from multimodal.backends.hf.chat_model import AdaptedChat, ChatModel
from multimodal.events import EngineEvent
from multimodal.requests import ChatMessage, ImageDescriptionRequest, TextRequest


class VisionChatModel(ChatModel):
    def run(
        self, request: TextRequest | ImageDescriptionRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Answer a conversation with pictures, or describe one picture for another model."""
        talk = super().run
        if isinstance(request, ImageDescriptionRequest):
            return describe(request, lambda asked: talk(asked, stop))
        return talk(request, stop)

    def run_adapted(
        self,
        request: TextRequest | ImageDescriptionRequest,
        stop: threading.Event,
        adapted: AdaptedChat,
    ) -> Generator[EngineEvent, None, None]:
        """`run` with that adapter on."""
        talk = super().run_adapted
        if isinstance(request, ImageDescriptionRequest):
            return describe(request, lambda asked: talk(asked, stop, adapted))
        return talk(request, stop, adapted)

    def _samples(self) -> list[TextRequest]:
        pictured = ChatMessage("user", DESCRIBE, (Image.new("RGB", (48, 32)),))
        return [*super()._samples(), TextRequest((pictured,))]


def chat_messages(request: TextRequest) -> list[dict[str, Any]]:
    """The turns as chat templates read them, each with a part for every picture it shows."""
    return [{"role": turn.role, "content": _parts(turn)} for turn in request.messages]


def _parts(turn: ChatMessage) -> list[dict[str, str]]:
    """A picture that was sent without a word is to be described."""
    words = {"type": "text", "text": turn.text or DESCRIBE}
    return [*({"type": "image"} for _ in turn.images), words]


def digest(pictures: Sequence[Image.Image]) -> str:
    """A name for these pictures in this order."""
    found = hashlib.sha256()
    for picture in pictures:
        found.update(f"{picture.mode}{picture.size}".encode())
        found.update(picture.tobytes())
    return found.hexdigest() if pictures else ""
