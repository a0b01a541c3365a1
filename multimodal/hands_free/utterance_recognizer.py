"""What is said in an utterance, heard as fast as the model that hears can."""

from __future__ import annotations

import threading
from contextlib import closing

from multimodal.errors import TurnStoppedError
from multimodal.events import SpeechTranscribed, Transcription
from multimodal.hands_free.listener import NOTHING
from multimodal.hands_free.turn_detection import Samples
from multimodal.turn.assistant import Assistant

SURE_WORDS = 3
"""Words that tell the language; one alone may be of any."""


class UtteranceRecognizer:
    """Hears one person. For one thread at a time.

    An utterance that is too short to tell the language is supposed to be in the one of those before
    it. `language` (ISO 639-1): the one that was set, which then holds.
    """

    def __init__(
        self, assistant: Assistant, card: str, language: str | None, stop: threading.Event
    ) -> None:
        self._assistant = assistant
        self._card = card
        self._language = language
        self._stop = stop
        self._supposed: str | None = None

    def recognize(self, samples: Samples) -> Transcription:
        """The words of `samples`, "" where there are none. Raises the errors of
        `Assistant.listen`."""
        try:
            found = self._heard(samples)
        except TurnStoppedError:
            return NOTHING
        if len(found.text.split()) >= SURE_WORDS or len(found.text) >= 5 * SURE_WORDS:
            self._supposed = found.language
        return found

    def _heard(self, samples: Samples) -> Transcription:
        found = NOTHING
        events = self._assistant.listen(
            samples,
            self._card,
            self._stop,
            language=self._language,
            likely=self._supposed,
            is_utterance=True,
        )
        with closing(events):
            for event in events:
                if isinstance(event, SpeechTranscribed):
                    found = Transcription(event.spoken.text.strip(), event.spoken.language)
        return found
