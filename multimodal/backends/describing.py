"""One picture described for another model, by a model that talks about pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

from multimodal.events import EngineEvent, ImageDescribed, TextDelta
from multimodal.media.pixels import SEEN_SIDE, within
from multimodal.requests import ChatMessage, ImageDescriptionRequest, TextRequest

DESCRIBE = "Describe this picture."
"""What is asked where a picture was sent without a word."""


def describe(
    request: ImageDescriptionRequest,
    answer: Callable[[TextRequest], Generator[EngineEvent, None, None]],
) -> Generator[EngineEvent, None, None]:
    """Ask about the picture by `answer`, and yield all it says as one ImageDescribed at the end."""
    question = request.question or DESCRIBE
    asked = TextRequest((ChatMessage("user", question, (within(request.image, SEEN_SIDE),)),))
    words: list[str] = []
    with closing(answer(asked)) as events:
        for event in events:
            if isinstance(event, TextDelta):
                words.append(event.text)
            else:
                yield event
    seen = "".join(words).strip()
    yield ImageDescribed(seen, seen)
