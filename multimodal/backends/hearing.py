"""What every speech engine does alike: long recordings in pieces, then in English where wanted.

An engine that is given half an hour at once works out the spectrum of all of it: two gigabytes for
Whisper base. Cut at quiet moments into pieces of two minutes, the length costs nothing.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multimodal.backends.base import SpeechRequest, stream
from multimodal.messages import Event, Progress, Transcript
from multimodal.sound import SAMPLE_RATE

PIECE_S = 120
SEARCH_S = 5
TEMPERATURES = (0.0, 0.4)
"""A window that repeats itself is heard once more at the second; more tries would delay a stop."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to hear: `task` is transcribe or translate, `beams` are the guesses followed at once,
    the card's number unless given."""

    task: str
    language: str | None
    beams: int | None


class Hearer(ABC):
    """One loaded speech model."""

    def run(self, request: SpeechRequest, stop: threading.Event) -> Generator[Event, None, None]:
        """Yield Progress as it goes, then one Transcript; its text is "" where nobody speaks."""
        return stream(lambda emit, stopped: self._hear(request, emit, stopped), stop)

    @abstractmethod
    def close(self) -> None:
        """Free the model."""

    @abstractmethod
    def words(
        self,
        piece: NDArray[np.float32],
        manner: Manner,
        heard: Callable[[int], bool],
    ) -> tuple[str, str | None]:
        """What is said in `piece`, and in which language.

        Calls `heard(samples)` now and then, and ends early once that returns False.
        """

    def _hear(
        self,
        request: SpeechRequest,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> None:
        manner = Manner("transcribe", request.language, request.beams)
        text, language = self._pass(request, manner, emit, stopped)
        english = None
        foreign = bool(request.english_unless) and language not in request.english_unless
        if text and foreign and not stopped():
            manner = Manner("translate", language, request.beams)
            english, _ = self._pass(request, manner, emit, stopped)
        if not stopped():
            heard = replace(
                request.part, transcript=text, language=language if text else None, english=english
            )
            emit(Transcript(heard))

    def _pass(
        self,
        request: SpeechRequest,
        manner: Manner,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> tuple[str, str | None]:
        verb = "Listening" if manner.task == "transcribe" else "Translating"
        words: list[str] = []
        for start, piece in pieces(request.waveform, PIECE_S):

            def heard(samples: int, start: int = start) -> bool:
                emit(Progress(verb, min(1.0, (start + samples) / len(request.waveform))))
                return not stopped()

            text, found = self.words(piece, manner, heard)
            if text:
                manner = replace(manner, language=manner.language or found)
                words.append(text)
            if not heard(len(piece)):
                break
        return " ".join(words), manner.language


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
