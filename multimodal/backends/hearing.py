"""What every speech engine does alike: long recordings in pieces, then in English where wanted.

An engine that is given half an hour at once works out the spectrum of all of it: two gigabytes for
Whisper base. Cut at quiet moments into pieces of two minutes, the length costs nothing.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from multimodal.backends.base import SpeechRequest, stream
from multimodal.backends.loaded import Loaded
from multimodal.cards import ModelCard
from multimodal.errors import RequestError
from multimodal.events import Event, Notice, Progress, Segment, Transcript
from multimodal.languages import language_name
from multimodal.sound import SAMPLE_RATE

PIECE_S = 120
SEARCH_S = 5
ENGLISH = "en"
TEMPERATURES = (0.0, 0.4)
"""A window that repeats itself is heard once more at the second; more tries would delay a stop."""

Model = TypeVar("Model")
Emit = Callable[[Event], None]
Stopped = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Manner:
    """How to hear: `task` is transcribe or translate, then `into` another language; `beams` are the
    guesses followed at once, the card's number unless given. `stopped` tells an engine that can
    look between two words."""

    task: str
    language: str | None
    beams: int | None
    stopped: Stopped = lambda: False
    into: str = ENGLISH


@dataclass(frozen=True, slots=True)
class Heard:
    """What is said, in which language, and when; "" and no segment where nobody speaks."""

    text: str
    language: str | None
    segments: tuple[Segment, ...] = ()


class Hearer(Loaded[Model], ABC):
    """One loaded speech model."""

    _does = "listen"

    def run(self, request: SpeechRequest, stop: threading.Event) -> Generator[Event, None, None]:
        """Yield Progress as it goes, then one Transcript; its text is "" where nobody speaks.

        Raises RequestError for a language that the model does not know.
        """
        self.check_language(request.language)
        return stream(lambda emit, stopped: self._hear(request, emit, stopped), stop)

    @abstractmethod
    def words(
        self,
        piece: NDArray[np.float32],
        manner: Manner,
        heard: Callable[[int], bool],
    ) -> Heard:
        """What is said in `piece`; its segments count from the start of `piece`.

        Calls `heard(samples)` now and then, and ends early once that returns False.
        """

    def languages(self) -> tuple[str, ...]:
        """Those that may be asked for (ISO 639-1); () for any."""
        return self._card.languages

    def translates(self, into: str = ENGLISH) -> bool:
        """Whether it can write in that language what is said in another one."""
        return into in self._card.translates_to

    def as_written(self, text: str) -> str:
        """The whole of what was heard, as a person would write it down."""
        return text

    def check_language(self, language: str | None) -> None:
        """Raise RequestError for one that this model cannot be asked for."""
        known = self.languages()
        if language and known and language not in known:
            raise unknown_language(self._card, language, known)

    def _hear(self, request: SpeechRequest, emit: Emit, stopped: Stopped) -> None:
        manner = Manner("transcribe", request.language, request.beams, stopped)
        heard = self._pass(request, manner, emit)
        made: dict[str, Heard] = {}
        for into in _foreign(request, heard):
            if not self.translates(into):
                emit(Notice(_untranslated(self._card, into)))
            elif not stopped():
                told = replace(manner, task="translate", language=heard.language, into=into)
                made[into] = self._pass(request, told, emit)
        if not stopped():
            english, wanted = made.get(ENGLISH), made.get(request.translate_to or "")
            part = replace(
                request.part,
                transcript=heard.text,
                language=heard.language if heard.text else None,
                english=english.text if english else None,
                translation=wanted.text if wanted else None,
            )
            emit(Transcript(part, heard.segments, english.segments if english else ()))

    def _pass(self, request: SpeechRequest, manner: Manner, emit: Emit) -> Heard:
        verb = "Listening" if manner.task == "transcribe" else "Translating"
        words: list[str] = []
        segments: list[Segment] = []
        stopped = manner.stopped
        for start, piece in pieces(request.waveform, PIECE_S):

            def heard(samples: int, start: int = start) -> bool:
                emit(Progress(verb, min(1.0, (start + samples) / len(request.waveform))))
                return not stopped()

            found = self.words(piece, manner, heard)
            if found.text:
                manner = replace(manner, language=manner.language or found.language)
                words.append(found.text)
                segments += _later(found.segments, start / SAMPLE_RATE)
            if not heard(len(piece)):
                break
        return Heard(self.as_written(" ".join(words)), manner.language, tuple(segments))


def _foreign(request: SpeechRequest, heard: Heard) -> list[str]:
    """The languages in which what was heard is wanted, and which it is not in."""
    wanted = []
    if request.english_unless and heard.language not in request.english_unless:
        wanted.append(ENGLISH)
    if request.translate_to and heard.language != request.translate_to:
        wanted.append(request.translate_to)
    return list(dict.fromkeys(wanted)) if heard.text else []


def _untranslated(card: ModelCard, into: str) -> str:
    other = "" if into == ENGLISH else f" into {language_name(into)}"
    return f"{card.title} does not translate{other}; what it heard was left as it is."


def unknown_language(card: ModelCard, language: str, known: Sequence[str]) -> RequestError:
    some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return RequestError(
        f"{card.title} does not know the language {language!r}. Take one of {some}, or choose "
        "another model."
    )


def _later(segments: tuple[Segment, ...], by_s: float) -> list[Segment]:
    return [replace(s, start_s=s.start_s + by_s, end_s=s.end_s + by_s) for s in segments]


def pieces(
    waveform: NDArray[np.float32], longest_s: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(start, samples) of pieces that are at most so long, each cut at the quietest moment of its
    last five seconds."""
    start, longest, search = 0, longest_s * SAMPLE_RATE, SEARCH_S * SAMPLE_RATE
    while start < len(waveform):
        end = min(start + longest, len(waveform))
        if end < len(waveform):
            tail = np.abs(waveform[end - search : end])
            smooth = np.convolve(tail, np.ones(SAMPLE_RATE // 10, np.float32), mode="same")
            end = end - search + int(smooth.argmin())
        yield start, waveform[start:end]
        start = end
