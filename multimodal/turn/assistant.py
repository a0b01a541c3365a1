"""How a turn flows: decide, lease, run, tell. Holds no state between turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal.backends.base import Backend
from multimodal.catalog.cards import Catalog, ModelCard, Profile
from multimodal.catalog.defaults import DefaultModels
from multimodal.catalog.offer import Offer
from multimodal.errors import BackendError, MultimodalError, TurnStoppedError
from multimodal.events import (
    Done,
    EngineEvent,
    ImageDescribed,
    ImageGenerated,
    ImageStored,
    Notice,
    PartAnnotated,
    Progress,
    RouteChosen,
    SpeechGenerated,
    SpeechStored,
    SpeechTranscribed,
    StepFinished,
    TextDelta,
    TurnEvent,
)
from multimodal.media.ingestion import MediaFolder
from multimodal.memory.manager import MemoryManager
from multimodal.messages import AudioPart, Conversation, Finish, Outcome, Route, Step, Task, Timing
from multimodal.requests import ImageGenerationRequest, Request, TranscriptionRequest, TTSRequest
from multimodal.runner import Runner
from multimodal.turn.draft import Draft
from multimodal.turn.request_builder import RequestBuilder, annotate, missing_voice_notice
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
        offer: Offer | None = None,
    ) -> None:
        self.catalog = catalog
        self.profile = profile
        self.offer = offer or Offer(catalog, profile)
        self.memory = memory
        self.media = media
        self.defaults = DefaultModels(profile)
        self._cards = tuple(map(catalog.card, profile.names))
        self._router = Router(catalog, profile, self.defaults)
        self._runner = Runner(memory, self.offer.resident)
        self._requests = RequestBuilder(media, self.languages)

    def reply(
        self, conversation: Conversation, stop: threading.Event
    ) -> Generator[TurnEvent, None, None]:
        """Answer the newest message; the last event is Done.

        Setting `stop`, or closing the stream, ends the work and gives the lease back. Raises the
        errors of `errors.py`; what was streamed before stays valid.
        """
        turn, is_stopped = _Turn(conversation), False
        try:
            route = None
            while route is None or (route.again and not stop.is_set()):
                route = self._router.decide(turn.conversation)
                yield turn.saw(RouteChosen(route))
                yield from self._follow(route, turn, stop)
        except TurnStoppedError:
            is_stopped = True
        yield Done(turn.outcome(is_stopped or stop.is_set()))

    def transcribe(
        self, part: AudioPart, card: str, stop: threading.Event, **how: Any
    ) -> Generator[EngineEvent, None, None]:
        """Transcribe one recording with the card of that name; the last event is a
        SpeechTranscribed. `how`: the fields of TranscriptionRequest."""

        def request() -> Request:
            return TranscriptionRequest(self.media.waveform(part), **how)

        yield from self._runner.run(self.catalog.card(card), request, stop)

    def listen(
        self, waveform: NDArray[np.float32], card: str, stop: threading.Event, **how: Any
    ) -> Generator[EngineEvent, None, None]:
        """The same for sound that is kept nowhere: mono, 16 kHz, shape (samples,)."""
        request = TranscriptionRequest(waveform, **how)
        yield from self._runner.run(self.catalog.card(card), lambda: request, stop)

    def speak(
        self, request: TTSRequest, card: str, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Only say one text aloud, with the card of that name; yields Progress and SentenceSpoken,
        at last one SpeechGenerated."""
        yield from self._runner.run(self.catalog.card(card), lambda: request, stop)

    def draw(
        self, request: ImageGenerationRequest, card: str, stop: threading.Event
    ) -> Generator[EngineEvent | ImageStored, None, None]:
        """Only make pictures, with the card of that name; yields Progress, Notice, Usage and one
        ImageStored a picture."""
        found = self.catalog.card(card)
        with closing(self._runner.run(found, lambda: request, stop)) as events:
            for event in events:
                if isinstance(event, ImageGenerated):
                    yield _store_picture(event, request, found, self.media)
                else:
                    yield event

    def languages(self) -> tuple[str, ...]:
        """Those that the text model reads which answers now; () for any."""
        name = self.defaults.name(Task.TEXT)
        return self.catalog.card(name).languages if name else ()

    def _follow(self, route: Route, turn: _Turn, stop: threading.Event) -> Iterator[TurnEvent]:
        if route.answer is not None:
            yield turn.saw(TextDelta(route.answer))
        for step in route.steps:
            yield from self._run_step(step, turn, stop)
            if step is route.steps[-1] and not route.again:
                yield from turn.answer_from_pictures(step)
        if route.aloud is not None and not stop.is_set():
            yield from self._speak_answer(route.aloud, turn, stop)
        elif not route.again and (
            told := missing_voice_notice(route, turn.conversation, self._cards)
        ):
            yield turn.saw(Notice(told))

    def _run_step(
        self, step: Step, turn: _Turn, stop: threading.Event, asked: Request | None = None
    ) -> Generator[TurnEvent, None, None]:
        """One step under one lease; what it asks is made from the conversation unless given."""
        with self._runner.open(self.catalog.card(step.card), stop) as run:
            for told in run.acquire():
                yield turn.saw(told)
            yield Progress(DOING[step.task] if asked is None else "Speaking")
            started = time.monotonic()
            request = asked or self._requests.request(step, turn.conversation)
            title = self.catalog.card(step.card).title
            for sentence in self._requests.notices(request, step, turn.conversation, title):
                yield turn.saw(Notice(sentence))
            with closing(run.run(request)) as events:
                for event in events:
                    yield turn.saw(self._kept(event, step, request, turn))
            lease, run_s = run.lease, time.monotonic() - started - run.switch_s
            times = lease.wait_s, lease.load_s + run.switch_s, run_s, lease.evicted
            yield turn.saw(StepFinished(Timing(step.card, step.task, *times)))

    def _kept(self, event: EngineEvent, step: Step, request: Request, turn: _Turn) -> TurnEvent:
        """What the engine made, stored; what it heard or saw, attached to the person's message."""
        match event:
            case ImageGenerated() if isinstance(request, ImageGenerationRequest):
                return _store_picture(event, request, self.catalog.card(step.card), self.media)
            case SpeechGenerated(wav):
                return SpeechStored(self.media.add_audio(wav, "answer.wav"))
            case SpeechTranscribed() | ImageDescribed():
                if isinstance(event, ImageDescribed):
                    turn.answers.append(event.answer)
                return PartAnnotated(annotate(step, turn.conversation, event))
            case ImageGenerated():
                raise BackendError(f"{step.card} drew a picture that nobody asked for.")
        return event

    def _speak_answer(self, step: Step, turn: _Turn, stop: threading.Event) -> Iterator[TurnEvent]:
        """Speak the answer; where that cannot be done it stands as it is, and why is told."""
        if (
            request := self._requests.tts_request(turn.draft.reply.text, turn.conversation)
        ) is None:
            return
        try:
            with closing(self._run_step(step, turn, stop, request)) as events:
                yield from events
        except TurnStoppedError:
            raise
        except MultimodalError as error:
            yield turn.saw(Notice(f"The answer was not spoken. {error}"))


class _Turn:
    """What one turn has come to so far."""

    def __init__(self, conversation: Conversation) -> None:
        self.draft = Draft(conversation)
        self.answers: list[str] = []
        """To what was asked about pictures, by models that only look."""

    @property
    def conversation(self) -> Conversation:
        return self.draft.conversation

    def saw(self, event: TurnEvent) -> TurnEvent:
        self.draft = self.draft.apply(event)
        return event

    def answer_from_pictures(self, step: Step) -> Iterator[TurnEvent]:
        """Where looking was the last step, what was found is the reply."""
        if step.task is Task.IMAGE and self.answers:
            yield self.saw(TextDelta("\n\n".join(self.answers)))

    def outcome(self, is_stopped: bool) -> Outcome:
        outcome, seconds = self.draft.outcome, self.draft.seconds
        finish: Finish = outcome.usage.finish if outcome.usage else "stop"
        return replace(outcome, finish="stopped" if is_stopped else finish, seconds=seconds)


def _store_picture(
    made: ImageGenerated, request: ImageGenerationRequest, card: ModelCard, media: MediaFolder
) -> ImageStored:
    """Store a picture in the media folder; its file tells how it was made."""
    facts = {"prompt": request.prompt, "seed": str(made.seed), "model": card.title}
    if request.negative_prompt:
        facts["negative prompt"] = request.negative_prompt
    return ImageStored(media.add_generated(made.png, request.prompt, facts))
