"""One picture described for another model, by a model that talks about pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace

from multimodal.backends.base import ImageDescriptionRequest, TextRequest
from multimodal.events import Description, Event, TextDelta
from multimodal.media.pixels import SEEN_SIDE, within

DESCRIBE = "Describe this picture."
"""What is asked where a picture was sent without a word."""


def describe(
    request: ImageDescriptionRequest, answer: Callable[[TextRequest], Generator[Event, None, None]]
) -> Generator[Event, None, None]:
    """Ask about the picture by `answer`, and yield all it says as one Description at the end."""
    question = request.question or DESCRIBE
    asked = TextRequest((("user", question),), pictures=((0, within(request.image, SEEN_SIDE)),))
    words: list[str] = []
    with closing(answer(asked)) as events:
        for event in events:
            if isinstance(event, TextDelta):
                words.append(event.text)
            else:
                yield event
    seen = "".join(words).strip()
    yield Description(replace(request.part, description=seen), seen)
