"""Models of transformers that look at pictures and talk about them, by AutoModelForImageTextToText:
LLaVA, LLaVA-NeXT, SmolVLM, BLIP-2, InstructBLIP.

They read the conversation with the pictures where they were shown. What was computed of both is
kept between turns, and used again as long as no other picture is added.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForImageTextToText, AutoProcessor

from multimodal.backends.base import Backend, ImageRequest, TextRequest
from multimodal.backends.chat_template import ChatTemplate
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.talking import Prompt, Talker, opens
from multimodal.cards import ModelCard
from multimodal.errors import CardError
from multimodal.messages import Description, Event, TextDelta

if TYPE_CHECKING:
    from PIL.Image import Image

DESCRIBE = "Describe this picture."


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model and the processor of the folder `files`."""
    check_folder(card, files)
    processor: Any = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        files, local_files_only=True, trust_remote_code=False
    )
    if not (card.chat_template or getattr(processor, "chat_template", None)):
        raise CardError(
            f"{card.name}: its checkpoint has no chat template; write one as 'chat_template'"
        )
    return ImageText(card, from_folder(AutoModelForImageTextToText, card, files, device), processor)


class ImageText(Talker):
    """One loaded model."""

    def __init__(self, card: ModelCard, model: Any, processor: Any) -> None:
        super().__init__(card, model, processor.tokenizer, ChatTemplate(processor, card))
        self._processor = processor

    def run(
        self, request: TextRequest | ImageRequest, stop: threading.Event
    ) -> Generator[Event, None, None]:
        """Answer a conversation with pictures, or describe one picture for another model."""
        if isinstance(request, ImageRequest):
            return self._describe(request, stop)
        return super().run(request, stop)

    def _describe(
        self, request: ImageRequest, stop: threading.Event
    ) -> Generator[Event, None, None]:
        question = request.question or DESCRIBE
        asked = TextRequest((("user", question),), pictures=((0, request.image),))
        words: list[str] = []
        with closing(super().run(asked, stop)) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    words.append(event.text)
                else:
                    yield event
        seen = "".join(words).strip()
        yield Description(replace(request.part, description=seen), seen)

    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        said = [
            {"role": role, "content": _parts(text, sum(at == turn for at, _ in request.pictures))}
            for turn, (role, text) in enumerate(request.turns)
        ]
        text = self._template.text(system, said)
        pictures = [picture for _, picture in request.pictures]
        encoded = self._processor(
            text=[text],
            images=pictures or None,
            add_special_tokens=not opens(self._tokenizer, text),
            return_tensors="pt",
        )
        tokens: list[int] = encoded.pop("input_ids")[0].tolist()
        encoded.pop("attention_mask", None)
        return Prompt(tokens, self._inputs(encoded), _digest(pictures), self._last_seen(tokens))

    def _inputs(self, encoded: Any) -> dict[str, Any]:
        model: Any = self._model
        return {
            name: tensor.to(model.device, model.dtype)
            if tensor.is_floating_point()
            else tensor.to(model.device)
            for name, tensor in encoded.items()
        }

    def _last_seen(self, tokens: list[int]) -> int:
        """Behind the last token that stands for a picture."""
        config = getattr(self._model, "config", None)
        sign = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        return max((at + 1 for at, token in enumerate(tokens) if token == sign), default=0)


def _parts(text: str, pictures: int) -> list[dict[str, str]]:
    """A picture that was sent without a word is to be described."""
    words = {"type": "text", "text": text or DESCRIBE}
    return [*({"type": "image"} for _ in range(pictures)), words]


def _digest(pictures: list[Image]) -> str:
    """A name for these pictures in this order."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.mode}{picture.size}".encode())
        digest.update(picture.tobytes())
    return digest.hexdigest() if pictures else ""
