"""What every speech engine does alike: long recordings in pieces, then in English where wanted.

An engine that is given half an hour at once works out the spectrum of all of it: two gigabytes for
Whisper base. Cut at quiet moments into pieces of two minutes, the length costs nothing.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from multimodal.backends.loaded import LoadedModel
from multimodal.backends.speech.voice_activity import Window, split_audio, windows
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard
from multimodal.errors import RequestError
from multimodal.events import (
    EngineEvent,
    Notice,
    Progress,
    Segment,
    SpeechTranscribed,
    Transcription,
)
from multimodal.languages import language_name
from multimodal.media.audio import SAMPLE_RATE
from multimodal.requests import TranscriptionRequest

PIECE_S = 120
ENGLISH = "en"
FRAMES_PER_S = 100

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class TranscribeOptions:
    """How to hear: `task` is transcribe or translate, then `into` another language; `beams` are the
    guesses followed at once, the card's number unless given. `stopped` tells an engine that can
    look between two words.

    `language`: the one spoken throughout; None where the engine finds out. `likely`: the one spoken
    most so far, for what is too short to tell. `is_utterance`: whether it is one utterance, which
    may then be heard in a quicker way. `prompt`: words that may occur, as they are spelt.
    `temperature`: of the first try, 0 unless given."""

    task: str
    language: str | None
    beams: int | None
    stopped: Stopped = lambda: False
    into: str = ENGLISH
    likely: str | None = None
    is_utterance: bool = False
    prompt: str = ""
    temperature: float = 0.0


class SpeechRecognizer(LoadedModel[Model], ABC):
    _does = "listen"
    has_prompt_input = False
    """Whether it reads words that may occur, and tries again at a temperature."""

    def __init__(
        self, card: ModelCard, model: Model, beams: int = 1, language: str | None = None
    ) -> None:
        """`beams`: guesses that are followed at once unless a request says otherwise. `language`:
        the one that is heard unless a request names one; None where the engine finds out."""
        super().__init__(card, model)
        self._beams = beams
        self._default = language

    def run(
        self, request: TranscriptionRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Yield Progress as it goes, then one SpeechTranscribed; "" where nobody speaks.

        Raises RequestError for a language that the model does not know, and for a prompt or a
        temperature where it takes none.
        """
        self.check_language(request.language)
        for field, given in (("prompt", request.prompt), ("temperature", request.temperature)):
            if given and not self.has_prompt_input:
                raise RequestError(
                    f"{self._card.title} takes no {field}. Leave it out, or choose a Whisper model."
                )
        return self._worker.stream(lambda emit, stopped: self._hear(request, emit, stopped), stop)

    def words(
        self, piece: NDArray[np.float32], manner: TranscribeOptions, heard: Callable[[int], bool]
    ) -> Transcription:
        """What is said in `piece`; its segments count from the start of `piece`.

        Calls `heard(samples)` behind each window, and ends early once that returns False.
        """
        segments: list[Segment] = []
        for window in windows(piece):
            segments += self.segments(window, manner)
            manner = replace(manner, likely=dominant_language(segments) or manner.likely)
            if not heard(window.end):
                break
        return Transcription.of(segments, manner.language or self._default or manner.likely)

    @abstractmethod
    def segments(self, window: Window, manner: TranscribeOptions) -> Iterable[Segment]:
        """What is said in `window`, by the clock of its recording."""

    def languages(self) -> tuple[str, ...]:
        """Those that may be asked for (ISO 639-1); () for any."""
        return self._card.languages

    def translates(self, into: str) -> bool:
        """Whether it can write in that language what is said in another one."""
        return into in self._card.translates_to

    def restore_spelling(self, text: str) -> str:
        """The whole of what was heard, as a person would write it down."""
        return text

    def check_language(self, language: str | None) -> None:
        """Raise RequestError for one that this model cannot be asked for."""
        known = self.languages()
        if language and known and language not in known:
            raise unknown_language(self._card, language, known)

    def _hear(self, request: TranscriptionRequest, emit: Emit, stopped: Stopped) -> None:
        manner = TranscribeOptions(
            "transcribe",
            request.language,
            request.beams,
            stopped,
            likely=request.likely,
            is_utterance=request.is_utterance,
            prompt=request.prompt,
            temperature=request.temperature or 0.0,
        )
        heard = self._pass(request, manner, emit)
        made: dict[str, Transcription] = {}
        for into in _foreign(request, heard):
            if not self.translates(into):
                other = "" if into == ENGLISH else f" into {language_name(into)}"
                told = f"{self._card.title} does not translate{other}"
                emit(Notice(f"{told}; what it heard was left as it is."))
            elif not stopped():
                spoken = heard.language if len(heard.languages) == 1 else manner.language
                other_pass = replace(manner, task="translate", language=spoken, into=into)
                made[into] = self._pass(request, other_pass, emit)
        if not stopped():
            found = heard if heard.text else Transcription("", None)
            translation = made.get(request.translate_to or "")
            emit(SpeechTranscribed(found, made.get(ENGLISH), translation))

    def _pass(
        self, request: TranscriptionRequest, manner: TranscribeOptions, emit: Emit
    ) -> Transcription:
        verb = "Listening" if manner.task == "transcribe" else "Translating"
        words: list[str] = []
        segments: list[Segment] = []
        stopped = manner.stopped
        for start, piece in split_audio(request.waveform, PIECE_S):

            def heard(samples: int, start: int = start) -> bool:
                emit(Progress(verb, min(1.0, (start + samples) / len(request.waveform))))
                return not stopped()

            found = self.words(piece, manner, heard)
            if found.text:
                words.append(found.text)
                segments += _offset_segments(found.segments, start / SAMPLE_RATE)
                manner = replace(manner, likely=dominant_language(segments) or found.language)
            if not heard(len(piece)):
                break
        language = manner.language or manner.likely
        return Transcription(self.restore_spelling(" ".join(words)), language, tuple(segments))


def _foreign(request: TranscriptionRequest, heard: Transcription) -> list[str]:
    """The languages in which what was heard is wanted, and which it is not in."""
    wanted, spoken, known = [], set(heard.languages), request.translate_to_english_unless
    if known and not spoken <= set(known):
        wanted.append(ENGLISH)
    if request.translate_to and spoken != {request.translate_to}:
        wanted.append(request.translate_to)
    return list(dict.fromkeys(wanted)) if heard.text else []


def dominant_language(segments: Sequence[Segment]) -> str | None:
    """The language that takes up most of the time; None where no segment names one."""
    seconds: dict[str, float] = {}
    for segment in segments:
        if segment.language:
            spoken_s = segment.end_s - segment.start_s
            seconds[segment.language] = seconds.get(segment.language, 0.0) + spoken_s
    return max(seconds, key=seconds.__getitem__, default=None)


def unknown_language(card: ModelCard, language: str, known: Sequence[str]) -> RequestError:
    some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return RequestError(
        f"{card.title} does not know the language {language!r}. Take one of {some}, or choose "
        "another model."
    )


def _offset_segments(segments: tuple[Segment, ...], by_s: float) -> list[Segment]:
    frames = round(by_s * FRAMES_PER_S)
    return [
        replace(
            s,
            start_s=s.start_s + by_s,
            end_s=s.end_s + by_s,
            statistics=s.statistics and replace(s.statistics, seek=s.statistics.seek + frames),
        )
        for s in segments
    ]
