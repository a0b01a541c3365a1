"""What of a recording is speech, joined, for engines that would invent words for the rest; and
where on the recording's own clock each word was said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from faster_whisper.vad import SpeechTimestampsMap, get_speech_timestamps
from numpy.typing import NDArray

from multimodal.backends.hearing import pieces
from multimodal.events import Segment
from multimodal.sound import SAMPLE_RATE

WINDOW_S = 30
SHORTEST = SAMPLE_RATE // 10
"""A shorter window is filled up with silence: convolutions need something to go over."""
MARGIN_S = 0.4
"""Of quiet, which the detector leaves before and after what it takes for speech."""


@dataclass(frozen=True, slots=True)
class Speech:
    """All speech of a recording, without the pauses. `clock` knows what was left out."""

    samples: NDArray[np.float32]
    clock: SpeechTimestampsMap

    def reached(self, end_s: float) -> int:
        """The sample of the recording at which that moment of the speech is."""
        return int(self.clock.get_original_time(end_s, is_end=True) * SAMPLE_RATE)

    def segment(self, start_s: float, end_s: float, text: str) -> Segment:
        """What was said between two moments of the speech, by the recording's clock. Engines are
        not exact: what begins or ends in the margin beyond a pause belongs on its near side."""
        start_s, end_s = (min(s, len(self.samples) / SAMPLE_RATE) for s in (start_s, end_s))
        first = int(self.clock.get_chunk_index(start_s))
        last = max(first, int(self.clock.get_chunk_index(end_s, is_end=True)))
        if first < last and self._end_s(first) - start_s < MARGIN_S:
            start_s, first = self._end_s(first), first + 1
        if first < last and end_s - self._end_s(last - 1) < MARGIN_S:
            end_s, last = self._end_s(last - 1), last - 1
        start = float(self.clock.get_original_time(start_s, first))
        end = float(self.clock.get_original_time(end_s, last))
        return Segment(start, max(start, end), text)

    def _end_s(self, span: int) -> float:
        return float(self.clock.chunk_end_sample[span]) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Window:
    """Speech to be heard at once: at most 30 s, from `start_s` to `end_s` of all of it."""

    samples: NDArray[np.float32]
    start_s: float
    end_s: float
    speech: Speech

    @property
    def reached(self) -> int:
        """The sample of the recording that the window ends with."""
        return self.speech.reached(self.end_s)

    def segment(self, start_s: float, end_s: float, text: str) -> Segment:
        """What was said between two moments of this window, by the recording's clock."""
        start_s, end_s = (min(self.start_s + s, self.end_s) for s in (start_s, end_s))
        return self.speech.segment(start_s, end_s, text)

    def whole(self, text: str) -> Segment:
        """What was said in this window, for an engine that does not know when."""
        return self.segment(0.0, self.end_s - self.start_s, text)


def speech_of(recording: NDArray[np.float32]) -> Speech | None:
    """The speech of `recording` (16 kHz); None where nobody speaks."""
    spans = get_speech_timestamps(recording)
    if not spans:
        return None
    samples = np.concatenate([recording[span["start"] : span["end"]] for span in spans])
    return Speech(samples, SpeechTimestampsMap(spans, SAMPLE_RATE))


def windows(recording: NDArray[np.float32]) -> Iterator[Window]:
    """The speech of `recording`, in order, cut at quiet moments."""
    if (speech := speech_of(recording)) is None:
        return
    for start, samples in pieces(speech.samples, WINDOW_S):
        end_s = (start + len(samples)) / SAMPLE_RATE
        filled = np.pad(samples, (0, max(0, SHORTEST - len(samples))))
        yield Window(filled, start / SAMPLE_RATE, end_s, speech)
