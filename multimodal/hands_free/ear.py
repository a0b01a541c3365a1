"""What is said in an utterance, heard as fast as the model that hears can."""

from __future__ import annotations

import threading
from contextlib import closing

from multimodal.assistant import Assistant
from multimodal.errors import TurnStoppedError
from multimodal.events import Segment, Transcript
from multimodal.hands_free.listener import Recognition
from multimodal.hands_free.turn_detection import Samples

SURE_WORDS = 3
"""Words that tell the language; one alone may be of any."""
DOUBTFUL = -0.75
"""Mean log-probability of tokens below which an utterance was perhaps heard in a wrong language:
Whisper's authors try again below -1."""


class Ear:
    """Hears one person. For one thread at a time.

    Finding out the language takes Whisper almost as long as writing the words down. So the one of
    the last utterance is supposed, and found out again where the words are doubtful. `language`
    (ISO 639-1): the one that was set, which then holds.
    """

    def __init__(
        self, assistant: Assistant, card: str, language: str | None, stop: threading.Event
    ) -> None:
        self._assistant = assistant
        self._card = card
        self._language = language
        self._stop = stop
        self._supposed: str | None = None

    def recognized(self, samples: Samples) -> Recognition:
        """The words of `samples`, "" where there are none. Raises the errors of
        `Assistant.listen`."""
        try:
            found, is_doubtful = self._heard(samples, self._language or self._supposed)
            if is_doubtful and self._supposed and not self._language:
                found, _ = self._heard(samples, None)
        except TurnStoppedError:
            return Recognition("")
        if len(found.words.split()) >= SURE_WORDS or len(found.words) >= 5 * SURE_WORDS:
            self._supposed = found.language
        return found

    def _heard(self, samples: Samples, language: str | None) -> tuple[Recognition, bool]:
        found, is_doubtful = Recognition(""), False
        events = self._assistant.listen(samples, self._card, self._stop, language)
        with closing(events):
            for event in events:
                if isinstance(event, Transcript):
                    words = (event.part.transcript or "").strip()
                    found = Recognition(words, event.part.language)
                    is_doubtful = _is_doubtful(event.segments)
        return found, is_doubtful


def _is_doubtful(segments: tuple[Segment, ...]) -> bool:
    known = [s.statistics.avg_logprob for s in segments if s.statistics is not None]
    return bool(known) and sum(known) / len(known) < DOUBTFUL
