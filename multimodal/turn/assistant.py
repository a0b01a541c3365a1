"""How a turn flows: decide, lease, run, tell. Holds no state between turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal.backends.base import (
    Backend,
    ImageGenerationRequest,
    Request,
    TranscriptionRequest,
    TTSRequest,
)
from multimodal.catalog.cards import Catalog, Profile
from multimodal.catalog.defaults import DefaultModels
from multimodal.errors import MultimodalError, TurnStoppedError
from multimodal.events import (
    Description,
    Done,
    Event,
    Notice,
    Progress,
    RouteChosen,
    SpeechGenerated,
    SpeechStored,
    TextDelta,
    Transcript,
    Usage,
)
from multimodal.media.audio import SAMPLE_RATE
from multimodal.media.ingestion import MediaFolder
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager
from multimodal.messages import AudioPart, Conversation, Finish, Outcome, Route, Step, Task, Timing
from multimodal.runner import Run, Runner
from multimodal.turn.image_step import store_pictures
from multimodal.turn.request_builder import RequestBuilder, without_voice
from multimodal.turn.router import Router

DOING = {
    Task.TEXT: "Reading",
    Task.SPEECH: "Listening",
    Task.IMAGE: "Looking",
    Task.DRAW: "Drawing",
    Task.TTS: "Speaking",
}
"""What a model does once it is loaded, until it says more itself."""


class Assistant:
    """Answers conversations with the models of one profile. Every method is thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        profile: Profile,
        memory: MemoryManager[Backend],
        media: MediaFolder,
    ) -> None:
        self.catalog = catalog
        self.profile = profile
        self.memory = memory
        self.media = media
        self.defaults = DefaultModels(profile)
        self._cards = tuple(map(catalog.card, profile.names))
        self._router = Router(catalog, profile, self.defaults)
        self._runner = Runner(memory)
        self._requests = RequestBuilder(media, self.languages)

    def reply(
        self, conversation: Conversation, stop: threading.Event
    ) -> Generator[Event, None, None]:
        """Answer the newest message; the last event is Done.

        Setting `stop`, or closing the stream, ends the work and gives the lease back. Raises the
        errors of `errors.py`; what was streamed before stays valid.
        """
        turn = _Turn(conversation)
        try:
            route = turn.decided(self._router.decide(turn.conversation))
            yield RouteChosen(route)
            yield from self._follow(route, turn, stop)
            while route.again and not stop.is_set():
                route = turn.decided(self._router.decide(turn.conversation))
                yield RouteChosen(route)
                yield from self._follow(route, turn, stop)
        except TurnStoppedError:
            turn.finish = "stopped"
        yield Done(turn.outcome("stopped" if stop.is_set() else turn.finish))

    def transcribe(
        self,
        part: AudioPart,
        card: str,
        stop: threading.Event,
        language: str | None = None,
        english: bool = False,
        **how: Any,
    ) -> Generator[Event, None, None]:
        """Transcribe one recording with the card of that name; the last event is a Transcript.

        `language` (ISO 639-1) is detected unless given; `how`: other fields of
        TranscriptionRequest.
        """
        needless = ("en",) if english else ()

        def request() -> Request:
            return TranscriptionRequest(part, self.media.waveform(part), language, needless, **how)

        yield from self._runner.run(self.catalog.card(card), request, stop)

    def listen(
        self,
        waveform: NDArray[np.float32],
        card: str,
        stop: threading.Event,
        **how: Any,
    ) -> Generator[Event, None, None]:
        """The same for sound that is kept nowhere: mono, 16 kHz, shape (samples,); `how`: other
        fields of TranscriptionRequest."""
        part = AudioPart("", "audio/wav", len(waveform) / SAMPLE_RATE)
        request = TranscriptionRequest(part, waveform, **how)
        yield from self._runner.run(self.catalog.card(card), lambda: request, stop)

    def speak(
        self, request: TTSRequest, card: str, stop: threading.Event
    ) -> Generator[Event, None, None]:
        """Only say one text aloud, with the card of that name; yields Progress and SentenceSpoken,
        at last one SpeechGenerated."""
        yield from self._runner.run(self.catalog.card(card), lambda: request, stop)

    def draw(
        self, request: ImageGenerationRequest, card: str, stop: threading.Event
    ) -> Generator[Event, None, None]:
        """Only make pictures, with the card of that name; yields Progress, Notice, Usage and one
        ImageStored a picture."""
        found = self.catalog.card(card)
        with closing(self._runner.run(found, lambda: request, stop)) as events:
            yield from store_pictures(events, request, found, self.media)

    def languages(self) -> tuple[str, ...]:
        """Those that the text model reads which answers now; () for any."""
        name = self.defaults.name(Task.TEXT)
        return self.catalog.card(name).languages if name else ()

    def _follow(self, route: Route, turn: _Turn, stop: threading.Event) -> Iterator[Event]:
        if route.answer is not None:
            yield turn.saw(TextDelta(route.answer))
        for step in route.steps:
            yield from self._run_step(step, turn, stop)
            if step is route.steps[-1] and not route.again:
                yield from turn.answer_from_pictures(step)
        if route.aloud is not None and not stop.is_set():
            yield from self._speak_answer(route.aloud, turn, stop)
        elif not route.again and (told := without_voice(route, turn.conversation, self._cards)):
            yield turn.saw(Notice(told))

    def _run_step(
        self, step: Step, turn: _Turn, stop: threading.Event, asked: Request | None = None
    ) -> Generator[Event, None, None]:
        """One step under one lease; what it asks is made from the conversation unless given."""
        with self._runner.open(self.catalog.card(step.card), stop) as run:
            for event in run.acquire():
                yield turn.saw(event)
            yield Progress(DOING[step.task] if asked is None else "Speaking")
            started = time.monotonic()
            request = asked or self._requests.request(step, turn.conversation)
            title = self.catalog.card(step.card).title
            for told in self._requests.notices(request, step, turn.conversation, title):
                yield turn.saw(Notice(told))
            with closing(self._events(run, request)) as events:
                for event in events:
                    yield turn.saw(event)
            turn.took(run.lease, step, time.monotonic() - started)

    def _speak_answer(self, step: Step, turn: _Turn, stop: threading.Event) -> Iterator[Event]:
        """Speak the answer; where that cannot be done it stands as it is, and why is told."""
        if (request := self._requests.aloud("".join(turn.words), turn.conversation)) is None:
            return
        try:
            with closing(self._run_step(step, turn, stop, request)) as events:
                for event in events:
                    if isinstance(event, SpeechGenerated):
                        event = SpeechStored(self.media.add_audio(event.wav, "answer.wav"))
                    yield event
        except TurnStoppedError:
            raise
        except MultimodalError as error:
            yield turn.saw(Notice(f"The answer was not spoken. {error}"))

    def _events(self, run: Run, request: Request) -> Generator[Event, None, None]:
        """Of the engine, with the pictures that it made stored."""
        with closing(run.run(request)) as events:
            if isinstance(request, ImageGenerationRequest):
                yield from store_pictures(events, request, run.lease.card, self.media)
            else:
                yield from events


@dataclass
class _Turn:
    """What one turn has come to so far."""

    conversation: Conversation
    started_s: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    routes: list[Route] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    usage: Usage | None = None
    finish: Finish = "stop"

    def decided(self, route: Route) -> Route:
        self.routes.append(route)
        return route

    def saw(self, event: Event) -> Event:
        match event:
            case Transcript(part):
                self.conversation = self.conversation.with_part(part)
            case Description(part, answer):
                self.conversation = self.conversation.with_part(part)
                self.answers.append(answer)
            case Notice(text):
                self.notices.append(text)
            case Usage():
                self.usage, self.finish = event, event.finish
            case TextDelta(text):
                self.words.append(text)
                if self.first_token_s is None:
                    self.first_token_s = time.monotonic() - self.started_s
        return event

    def took(self, lease: Lease[Backend], step: Step, run_s: float) -> None:
        self.timings.append(
            Timing(step.card, step.task, lease.wait_s, lease.load_s, run_s, lease.evicted)
        )

    def answer_from_pictures(self, step: Step) -> Iterator[Event]:
        """Where looking was the last step, what was found is the reply."""
        if step.task is Task.IMAGE and self.answers:
            yield self.saw(TextDelta("\n\n".join(self.answers)))

    def outcome(self, finish: Finish) -> Outcome:
        used = self.usage or Usage(0, 0, 0, 0.0, finish, 0)
        return Outcome(
            routes=tuple(self.routes),
            timings=tuple(self.timings),
            notices=tuple(self.notices),
            finish=finish,
            seconds=time.monotonic() - self.started_s,
            first_token_s=self.first_token_s,
            prompt_tokens=used.prompt_tokens,
            cached_tokens=used.cached_tokens,
            completion_tokens=used.completion_tokens,
            decode_s=used.decode_s,
            seed=self.usage.seed if self.usage else None,
            steps=used.steps,
        )
