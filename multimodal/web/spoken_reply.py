"""A reply said aloud while it is written, sentence by sentence, for a conversation in speech."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from multimodal.backends.speech.growing_text import GrowingText
from multimodal.backends.speech.speakers import (
    choose_speaker,
    language_of_script,
    languages_of,
    missing_voice_error,
    speaking_cards,
)
from multimodal.build import Program
from multimodal.catalog.cards import ModelCard
from multimodal.events import EngineEvent, SentenceSpoken
from multimodal.messages import Controls
from multimodal.requests import TTSRequest
from multimodal.web.replies import RunningReply

HELD_S = 0.1
"""Between two looks whether a sentence is still held back."""
WAIT_S = 0.5
"""At most, between two looks whether the sound is still wanted."""


@dataclass
class Timeline:
    """What is said when in a sound that is played as it is made. Thread-safe."""

    _ends_s: list[tuple[float, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, spoken: SentenceSpoken) -> None:
        with self._lock:
            begin_s = self._ends_s[-1][0] if self._ends_s else 0.0
            self._ends_s.append((begin_s + spoken.seconds, spoken.text))

    @property
    def seconds(self) -> float:
        with self._lock:
            return self._ends_s[-1][0] if self._ends_s else 0.0

    def between(self, start_s: float, end_s: float) -> str:
        """The sentences that sound from `start_s` to `end_s` after the beginning."""
        found, begin_s = [], 0.0
        with self._lock:
            for until_s, text in self._ends_s:
                if begin_s < end_s and until_s > start_s:
                    found.append(text)
                begin_s = until_s
        return " ".join(found)


@dataclass(frozen=True)
class SpokenReply:
    """How one reply is said: one under way, or the words of one that has ended. `language` is what
    an answer in Latin letters is taken for."""

    program: Program
    reply: RunningReply | str
    controls: Controls
    language: str
    timeline: Timeline = field(default_factory=Timeline)
    is_held: Callable[[float], bool] = lambda made_s: False
    """Whether the next sentence is to wait, with so many seconds made; asked again and again."""

    def sentences(self, stop: threading.Event) -> Generator[EngineEvent, None, None]:
        """The events of each sentence, as soon as it is written; ends with the reply.

        Raises RequestError where no voice speaks the language of the answer, and the errors of
        `Assistant.speak`.
        """
        text: GrowingText | None = None
        language, card = self.language, None
        for written, is_whole in self._written(stop):
            if text is None:
                if not written.strip():
                    continue
                language = language_of_script(written) or self.language
                text = GrowingText(language)
            for sentence in text.next_sentences(written, is_whole):
                card = card or self._card(language)
                while self.is_held(self.timeline.seconds) and not stop.wait(HELD_S):
                    pass
                yield from self._said(sentence, language, card, stop)

    def _said(
        self, sentence: str, language: str, card: ModelCard, stop: threading.Event
    ) -> Iterator[EngineEvent]:
        request = TTSRequest(
            sentence, language, None, voice_of(card, language, self.controls), self.controls.speed
        )
        for event in self.program.assistant.speak(request, card.name, stop):
            if isinstance(event, SentenceSpoken):
                self.timeline.add(event)
            yield event

    def _written(self, stop: threading.Event) -> Iterator[tuple[str, bool]]:
        """The words of the reply as they grow, and whether they are all."""
        reply, seen = self.reply, -1
        if isinstance(reply, str):
            yield reply, True
            return
        while not stop.is_set():
            newest = reply.wait(seen, WAIT_S, lambda: not stop.is_set())
            is_whole = reply.is_done
            draft = reply.draft
            if draft is not None and (newest > seen or is_whole):
                yield draft.reply.text, is_whole
            if is_whole or reply.stop.is_set():
                return
            seen = newest

    def _card(self, language: str) -> ModelCard:
        card = speaking_card(self.program, language, self.controls)
        if card is None:
            raise missing_voice_error(self.program.cards, language)
        return card


def usual_language(program: Program) -> str:
    """The one of the profile's first voice; what an answer in Latin letters is taken for."""
    able = speaking_cards(program.cards)
    return next((code for card in able for code in languages_of(card)), "en")


def speaking_card(program: Program, language: str, controls: Controls) -> ModelCard | None:
    """The one with the voice that was chosen where it speaks that language, else the first."""
    cards = program.cards
    return choose_speaker(cards, language, controls.voice) or choose_speaker(cards, language)


def voice_of(card: ModelCard, language: str, controls: Controls) -> str | None:
    """The voice that was chosen where the card has it for that language; None for its usual one."""
    able = (voice.name for voice in card.voices if language in voice.languages)
    return next((name for name in able if name == controls.voice), None)
