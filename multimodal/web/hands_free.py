"""“Talk hands-free” on the page: a microphone that stays open, turns found by the server, answers
said while they are written.

An action (`HandsFree`) opens a conversation and returns an address that nobody can guess. The page
posts the sound of the microphone there, less than a tenth of a second at a time, one message after
another; each answer says how far the models are (`phase`) and what was heard. The page itself sends
the words of a turn as if they had been typed, with the address (`SpokenTurn`), and is told where
their answer is heard. No sound is kept.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from multimodal.api.event_streams import in_thread
from multimodal.api.guard import TimedReceive
from multimodal.backends.speech.speakers import missing_voice_error
from multimodal.backends.speech.voice_activity import speech_probabilities
from multimodal.build import Program
from multimodal.catalog.cards import AUTO, ModelCard
from multimodal.errors import CapacityError, MultimodalError, RequestError
from multimodal.events import Progress
from multimodal.hands_free.listener import Listener, Recognize
from multimodal.hands_free.microphone import MicrophoneStream
from multimodal.hands_free.readiness import check_room, load_together, warm_up
from multimodal.hands_free.turn_detection import TurnDetector
from multimodal.hands_free.utterance_recognizer import UtteranceRecognizer
from multimodal.messages import Controls, Task
from multimodal.web.incoming import WHOLE_S, whole_body
from multimodal.web.spoken_reply import SpokenReply, Timeline, speaking_card, usual_language

MOST_OPEN = 8
"""Conversations in speech at once; each keeps a recognizer busy."""
SILENT_S = 30.0
"""Without a message of its page, after which one is over; a muted page sends one a second."""
TICKET_BYTES = 24
LATE_S, EARLY_S = 3.0, 1.0
"""How far what an echo says may lie behind and before the moment that the page plays."""
AHEAD_S = 6.0
"""Of an answer's sound, made before it is heard."""
GONE = "This conversation is over. Press “Talk hands-free” again."
HEADERS = {"Cache-Control": "no-store"}


@dataclass
class LiveConversation:
    """One open microphone. `phase` is "preparing" until the models are there, then "ready"."""

    owner: str
    language: str | None
    stop: threading.Event = field(default_factory=threading.Event)
    phase: str = "preparing"
    told: str = ""
    error: str = ""
    seen_s: float = field(default_factory=time.monotonic)
    timeline: Timeline | None = None
    """Of the newest answer that is said."""
    microphone: MicrophoneStream | None = None
    moment_s: float | None = None
    """Of that answer's sound, which the page plays now."""
    listener: Listener | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def spoken(self, moment_s: float | None) -> str | None:
        """What the answer says around that moment of its sound; None where none is heard."""
        if moment_s is None:
            return None
        if self.timeline is None:
            return ""
        return self.timeline.between(moment_s - LATE_S, moment_s + EARLY_S)

    def is_far_ahead(self, made_s: float) -> bool:
        """Whether an answer of which so many seconds are made waits with the next sentence."""
        if self.stop.is_set() or made_s == 0:
            return False
        is_hearing = self.listener is not None and self.listener.is_hearing
        return is_hearing or made_s - (self.moment_s or 0.0) > AHEAD_S

    def close(self) -> None:
        self.stop.set()
        with self.lock:
            if self.listener is not None:
                self.listener.close()


class HandsFreeService:
    """Serves every person; one conversation a tab is the page's own rule. Thread-safe."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._open: dict[str, LiveConversation] = {}
        self._workers = ThreadPoolExecutor(MOST_OPEN, thread_name_prefix="listen")

    def begin(self, owner: str, controls: Controls) -> dict[str, Any]:
        """Open one: its `address`, under which the models are being loaded.

        Raises RequestError where no model hears, writes or speaks, and CapacityError where the
        models do not fit in memory together, or too many are open.
        """
        language = controls.speak_in or controls.hearing.language or usual_language(self._program)
        cards = self._cards(controls, language)
        check_room(self._program.memory, cards)
        live = LiveConversation(owner, controls.hearing.language)
        with self._lock:
            self._drop_abandoned()
            if len(self._open) >= MOST_OPEN:
                raise CapacityError(
                    "Too many people are talking hands-free at the moment. Try again later, or "
                    "record what you say."
                )
            ticket = secrets.token_urlsafe(TICKET_BYTES)
            self._open[ticket] = live
        self._workers.submit(self._prepare, live, cards, language)
        return {"address": f"listen/{ticket}"}

    def link_reply(self, address: str, owner: str, spoken: SpokenReply) -> SpokenReply:
        """The same answer, as the conversation at `address` hears of itself from now on. It is made
        only a little ahead of what is heard, and not while somebody speaks: on a small machine the
        words that interrupt it would be recognized late."""
        with self._lock:
            live = self._open.get(address.removeprefix("listen/"))
        if live is None or live.owner != owner:
            return spoken
        live.timeline, live.moment_s = spoken.timeline, None
        return replace(spoken, is_held=live.is_far_ahead)

    def routes(self) -> list[Route]:
        return [Route("/listen/{ticket}", self._serve, methods=["POST", "DELETE"])]

    def close(self) -> None:
        with self._lock:
            ending = list(self._open.values())
            self._open.clear()
        for live in ending:
            live.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------ the models

    def _cards(self, controls: Controls, language: str) -> list[ModelCard]:
        """The models that hear, write, and speak `language`. Raises RequestError where one is
        missing."""
        program, names = self._program, self._program.defaults
        hears, writes = names.name(Task.SPEECH), names.name(Task.TEXT)
        if controls.model != AUTO and program.card(controls.model).task is Task.TEXT:
            writes = controls.model
        speaker = speaking_card(program, language, controls)
        if hears is None or writes is None:
            raise RequestError("No model here hears and answers what is said. Type it instead.")
        if speaker is None:
            raise missing_voice_error(program.cards, language)
        catalog = program.catalog
        writer = program.offer.resident(catalog.card(writes))
        return [catalog.card(hears), writer, speaker]

    def _prepare(self, live: LiveConversation, cards: list[ModelCard], language: str) -> None:
        try:
            with closing(load_together(self._program.memory, cards, live.stop)) as events:
                for event in events:
                    if isinstance(event, Progress):
                        share = "" if event.fraction is None else f" {100 * event.fraction:.0f} %"
                        live.told = f"{event.text}{share}"
            warm_up(self._program.assistant, cards[-1], language, live.stop)
            live.phase, live.told = "ready", ""
        except MultimodalError as error:
            live.error = str(error)

    def _recognizer(self, live: LiveConversation) -> Recognize:
        card = self._program.defaults.name(Task.SPEECH) or ""
        ear = UtteranceRecognizer(self._program.assistant, card, live.language, live.stop)
        return lambda samples: self._workers.submit(ear.recognize, samples)

    # ------------------------------------------------------------ the sound

    async def _serve(self, request: Request) -> Response:
        ticket = request.path_params["ticket"]
        with self._lock:
            live = self._open.get(ticket)
        if live is None or live.stop.is_set():
            return JSONResponse({"error": GONE}, 404, HEADERS)
        if request.method == "DELETE":
            self._end(ticket)
            return JSONResponse({}, 200, HEADERS)
        try:
            answer = await self._heard(live, request)
        except MultimodalError as error:
            self._end(ticket)
            return JSONResponse({"error": str(error)}, 400, HEADERS)
        return JSONResponse(answer, 200, HEADERS)

    async def _heard(self, live: LiveConversation, request: Request) -> dict[str, Any]:
        live.seen_s = time.monotonic()
        if live.error:
            raise CapacityError(live.error)
        microphone = live.microphone
        if microphone is None:
            rate = request.query_params.get("rate", "")
            is_number = rate.isdecimal() and len(rate) < 7
            microphone = live.microphone = MicrophoneStream(int(rate) if is_number else 0)
        receive = TimedReceive(request.receive, whole_s=WHOLE_S)
        body = await whole_body(receive, microphone.most_bytes, "The sound")
        if live.phase != "ready":
            return {"phase": live.phase, "told": live.told, "heard": []}
        live.moment_s = moment_s = _moment(request.query_params.get("sounding"))
        heard = await in_thread(lambda: self._fed(live, microphone, body, moment_s))
        return {"phase": live.phase, "told": "", "heard": heard}

    def _fed(
        self,
        live: LiveConversation,
        microphone: MicrophoneStream,
        body: bytes,
        moment_s: float | None,
    ) -> list[dict[str, Any]]:
        with live.lock:
            if live.listener is None:
                detector = TurnDetector(speech_probabilities)
                live.listener = Listener(detector, self._recognizer(live))
            heard = live.listener.feed(microphone.samples(body), live.spoken(moment_s))
        return [{"kind": h.kind, "words": h.words, "language": h.language or ""} for h in heard]

    def _end(self, ticket: str) -> None:
        with self._lock:
            live = self._open.pop(ticket, None)
        if live is not None:
            live.close()

    def _drop_abandoned(self) -> None:
        now_s = time.monotonic()
        for ticket, live in list(self._open.items()):
            if now_s - live.seen_s > SILENT_S or live.stop.is_set():
                del self._open[ticket]
                live.close()


def _moment(text: str | None) -> float | None:
    """Seconds from the beginning of what is played; None where nothing is."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
