"""“Read aloud”: an answer said by a voice of the profile, heard while it is made.

The page asks with an action (`ReadAloud`), which is checked like any other: whose conversation,
which message. What comes back is an address of the sound that nobody can guess, for this one
answer; the browser plays it as it comes, and leaving it ends the work. The words come with it:
where nothing here speaks the language, or its voice cannot be had, the page says so in a sentence
and offers the browser's own voice.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from multimodal.api.event_streams import events
from multimodal.api.speech_synthesis import encode_sentences, next_sentence
from multimodal.backends.speech.speakers import language_of_script, missing_voice_error
from multimodal.backends.speech.spoken_text import spoken_text
from multimodal.build import Program
from multimodal.errors import MultimodalError, RequestError
from multimodal.events import EngineEvent
from multimodal.media.audio_encoder import FORMATS, AudioEncoder
from multimodal.requests import TTSRequest
from multimodal.web.spoken_reply import speaking_card, usual_language, voice_of

MAX_TICKETS = 500
"""Answers whose sound can be fetched; the oldest go first."""
TICKET_BYTES = 24
GONE = "This sound is no longer there. Press “Read aloud” again."
HEADERS = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}


Speak = Callable[[threading.Event], Generator[EngineEvent, None, None]]
"""Says one answer; setting the event ends it."""


class AnswerReader:
    """Hands out addresses and serves the sound behind them."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._tickets: OrderedDict[str, Speak] = OrderedDict()

    def prepare(self, owner: str, chat: str, message: str) -> dict[str, Any]:
        """For the page: the `address` of the sound, or `why` there is none; with the `words` and
        their `language`, for the browser's own voice. Raises RequestError where there is no such
        answer, or nothing to say."""
        found = self._program.store.load(owner, chat)
        answer = next((m.text for m in found.messages if m.id == message), "")
        language = (
            language_of_script(answer) or found.controls.speak_in or usual_language(self._program)
        )
        words = spoken_text(answer, language)
        if not words:
            raise RequestError("There is no word in this answer to read aloud.")
        said = {"words": words, "language": language}
        card = speaking_card(self._program, language, found.controls)
        if card is None:
            why = str(missing_voice_error(self._program.cards, language))
            return {"address": "", "why": why, **said}
        voice = voice_of(card, language, found.controls)
        request = TTSRequest(words, language, None, voice, found.controls.speed)
        speak = self._program.assistant.speak
        return {"address": self.address(lambda stop: speak(request, card.name, stop)), **said}

    def address(self, speak: Speak) -> str:
        """Where a page hears what `speak` says."""
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        with self._lock:
            self._tickets[ticket] = speak
            if len(self._tickets) > MAX_TICKETS:
                self._tickets.popitem(last=False)
        return f"aloud/{ticket}"

    def routes(self) -> list[Route]:
        return [Route("/aloud/{ticket}", self._serve)]

    async def _serve(self, request: Request) -> Response:
        with self._lock:
            speak = self._tickets.get(request.path_params["ticket"])
        if speak is None:
            return PlainTextResponse(GONE, 404, HEADERS)
        stream = events(speak, request)
        try:
            first = await next_sentence(stream)
        except MultimodalError as error:
            return PlainTextResponse(str(error), 503, HEADERS)
        if first is None:
            return PlainTextResponse(GONE, 404, HEADERS)
        kind = "pcm" if request.query_params.get("format") == "pcm" else "mp3"
        sound = encode_sentences(first, stream, AudioEncoder(kind))
        return StreamingResponse(sound, headers=HEADERS, media_type=FORMATS[kind].media_type)
