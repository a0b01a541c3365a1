"""“Read aloud”: an answer said by a voice of the profile, heard while it is made.

The page asks with an action (`ReadAloud`), which is checked like any other: whose conversation,
which message. What comes back is an address of the sound that nobody can guess, for this one
answer; the browser plays it as it comes, and leaving it ends the work. Where nothing here speaks
the language, the sentence that says so comes with the words, so that the browser's own voice can be
offered.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from multimodal.api.drive import events
from multimodal.api.speaking import encoded, next_sentence
from multimodal.audio_encoder import FORMATS, AudioEncoder
from multimodal.backends.base import TTSRequest
from multimodal.backends.speech.speakers import (
    language_of_script,
    languages_of,
    speaker_for,
    speakers,
    without_a_voice,
)
from multimodal.backends.speech.spoken_text import spoken_text
from multimodal.build import Program
from multimodal.cards import ModelCard
from multimodal.errors import MultimodalError, RequestError
from multimodal.messages import Controls

MAX_TICKETS = 500
"""Answers whose sound can be fetched; the oldest go first."""
TICKET_BYTES = 24
GONE = "This sound is no longer there. Press “Read aloud” again."
HEADERS = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}


@dataclass(frozen=True, slots=True)
class _Reading:
    card: ModelCard
    request: TTSRequest


class AnswerReader:
    """Hands out addresses and serves the sound behind them."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._tickets: OrderedDict[str, _Reading] = OrderedDict()

    def receipt(self, owner: str, chat: str, message: str) -> dict[str, Any]:
        """For the page: the `address` of the sound; or `why` there is none, with the `words` and
        their `language`. Raises RequestError where there is no such answer, or nothing to say."""
        found = self._program.store.load(owner, chat)
        answer = next((m.text for m in found.messages if m.id == message), "")
        language = language_of_script(answer) or found.controls.speak_in or self._usual_language()
        words = spoken_text(answer, language)
        if not words:
            raise RequestError("There is no word in this answer to read aloud.")
        card = self._speaker(language, found.controls)
        if card is None:
            why = str(without_a_voice(self._program.cards, language))
            return {"address": "", "why": why, "words": words, "language": language}
        voice = next(
            (
                v.name
                for v in card.voices
                if v.name == found.controls.voice and language in v.languages
            ),
            None,
        )
        reading = _Reading(card, TTSRequest(words, language, None, voice, found.controls.speed))
        return {"address": f"aloud/{self._keep(reading)}"}

    def routes(self) -> list[Route]:
        return [Route("/aloud/{ticket}", self._serve)]

    def _usual_language(self) -> str:
        """The one of the profile's first voice; what an answer in Latin letters is taken for."""
        able = speakers(self._program.cards)
        return next((code for card in able for code in languages_of(card)), "en")

    def _speaker(self, language: str, controls: Controls) -> ModelCard | None:
        cards = self._program.cards
        return speaker_for(cards, language, controls.voice) or speaker_for(cards, language)

    def _keep(self, reading: _Reading) -> str:
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        with self._lock:
            self._tickets[ticket] = reading
            if len(self._tickets) > MAX_TICKETS:
                self._tickets.popitem(last=False)
        return ticket

    async def _serve(self, request: Request) -> Response:
        with self._lock:
            reading = self._tickets.get(request.path_params["ticket"])
        if reading is None:
            return PlainTextResponse(GONE, 404, HEADERS)
        speak = self._program.assistant.speak
        stream = events(lambda stop: speak(reading.request, reading.card.name, stop), request)
        try:
            first = await next_sentence(stream)
        except MultimodalError as error:
            return PlainTextResponse(str(error), 503, HEADERS)
        if first is None:
            return PlainTextResponse(GONE, 404, HEADERS)
        sound = encoded(first, stream, AudioEncoder("mp3"))
        return StreamingResponse(sound, headers=HEADERS, media_type=FORMATS["mp3"].media_type)
