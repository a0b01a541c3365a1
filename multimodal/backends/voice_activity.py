"""What of a recording is speech, in windows for engines that would invent words for the rest, and
where on the recording's own clock each word of a window was said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from faster_whisper.vad import SpeechTimestampsMap, get_speech_timestamps
from numpy.typing import NDArray

from multimodal.backends.hearing import pieces
from multimodal.messages import Segment
from multimodal.sound import SAMPLE_RATE

WINDOW_S = 30
SHORTEST = SAMPLE_RATE // 10
"""A shorter window is filled up with silence: convolutions need something to go over."""


@dataclass(frozen=True, slots=True)
class Window:
    """Speech to be heard at once: at most 30 s, without the pauses between. `start_s` and `end_s`
    are its place in all speech of the recording; `clock` knows what was left out before."""

    samples: NDArray[np.float32]
    start_s: float
    end_s: float
    clock: SpeechTimestampsMap

    @property
    def reached(self) -> int:
        """The sample of the recording that the window ends with."""
        return int(self.clock.get_original_time(self.end_s, is_end=True) * SAMPLE_RATE)

    def segment(self, start_s: float, end_s: float, text: str) -> Segment:
        """What was said between two moments of this window, by the recording's clock."""
        start_s, end_s = (min(self.start_s + s, self.end_s) for s in (start_s, end_s))
        start = float(self.clock.get_original_time(start_s))
        end = float(self.clock.get_original_time(end_s, is_end=True))
        return Segment(start, max(start, end), text)

    def whole(self, text: str) -> Segment:
        """What was said in this window, for an engine that does not know when."""
        return self.segment(0.0, self.end_s - self.start_s, text)


def windows(recording: NDArray[np.float32]) -> Iterator[Window]:
    """The speech of `recording` (16 kHz), in order; nothing where nobody speaks."""
    spans = get_speech_timestamps(recording)
    if not spans:
        return
    clock = SpeechTimestampsMap(spans, SAMPLE_RATE)
    speech = np.concatenate([recording[span["start"] : span["end"]] for span in spans])
    for start, samples in pieces(speech, WINDOW_S):
        end_s = (start + len(samples)) / SAMPLE_RATE
        filled = np.pad(samples, (0, max(0, SHORTEST - len(samples))))
        yield Window(filled, start / SAMPLE_RATE, end_s, clock)
