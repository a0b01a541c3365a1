"""The stretches of a recording in which somebody speaks, for engines that would invent words for
the rest.

A window is an unaltered excerpt of the recording, at most 30 s long. None reaches over a pause of
more than two seconds, so a moment of a window is a moment of the recording plus the window's
start, and no segment can reach over a pause that was left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from faster_whisper.vad import get_speech_timestamps, get_vad_model
from numpy.typing import NDArray

from multimodal.events import Segment
from multimodal.media.audio import SAMPLE_RATE

WINDOW_S = 30
SEARCH_S = 5
LONGEST_PAUSE_S = 2.0
"""A longer one is left out, and ends a window."""
SHORTEST_PAUSE_S = 0.3
"""Between two utterances; a shorter one is part of an utterance."""
EDGE_S = 0.15
"""Of quiet, counted with each utterance: the detector cuts soft consonants off."""
MARGIN_S = LONGEST_PAUSE_S / 2
"""Of the recording, heard before and after the speech of a window."""
SHORTEST = SAMPLE_RATE // 10
"""A shorter window is filled up with silence: convolutions need something to go over."""

Span = tuple[int, int]
"""First sample, and the one after the last, counted from the start of the recording."""


@dataclass(frozen=True, slots=True)
class Window:
    """The samples `start` to `end` of `recording` (float32, mono, 16 kHz), to be heard at once.

    `utterances`: where in it somebody speaks, in order, at least one.
    """

    recording: NDArray[np.float32]
    start: int
    end: int
    utterances: tuple[Span, ...]

    @property
    def samples(self) -> NDArray[np.float32]:
        """Shape (samples,), 0.1 s or more."""
        found = self.recording[self.start : self.end]
        return np.pad(found, (0, max(0, SHORTEST - len(found))))

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        """Seconds of it in which somebody speaks."""
        return spoken_s(self.utterances)

    def segment(self, start_s: float, end_s: float, text: str) -> Segment:
        """What was said between two moments of this window, by the recording's clock.

        Engines are not exact: a start within a pause moves to the next utterance, an end within a
        pause to the one before, unless nothing would be left between them.
        """
        start, end = sorted(self._sample(moment_s) for moment_s in (start_s, end_s))
        later = [span for span in self.utterances if span[1] > start]
        earlier = [span for span in self.utterances if span[0] < end]
        if later and earlier and later[0] <= earlier[-1]:
            start, end = max(start, later[0][0]), min(end, earlier[-1][1])
        return Segment(start / SAMPLE_RATE, end / SAMPLE_RATE, text)

    def whole(self, text: str) -> Segment:
        """What was said in this window, for an engine that does not know when."""
        return self.segment(0.0, self.seconds, text)

    def halves(self, shortest_s: float) -> tuple[Window, Window] | None:
        """The two parts on either side of the longest pause in its middle half, else of its
        quietest moment there; None where a part would be shorter than `shortest_s`."""
        quarter = (self.end - self.start) // 4
        if quarter < shortest_s * SAMPLE_RATE:
            return None
        low, high = self.start + quarter, self.end - quarter
        pauses = [
            (right[0] - left[1], (left[1] + right[0]) // 2)
            for left, right in zip(self.utterances, self.utterances[1:], strict=False)
            if low <= (left[1] + right[0]) // 2 <= high
        ]
        cut = max(pauses)[1] if pauses else low + quietest(self.recording[low:high])
        return self.part(self.start, cut), self.part(cut, self.end)

    def part(self, start: int, end: int) -> Window:
        """The window from sample `start` to `end` of the recording."""
        inside = tuple(
            (max(first, start), min(last, end))
            for first, last in self.utterances
            if first < end and last > start
        )
        return replace(self, start=start, end=end, utterances=inside or ((start, end),))

    def _sample(self, moment_s: float) -> int:
        return min(max(self.start, self.start + round(moment_s * SAMPLE_RATE)), self.end)


def spoken_s(spans: Iterable[Span]) -> float:
    """Seconds of speech in them."""
    return sum(end - start for start, end in spans) / SAMPLE_RATE


def split_audio(
    waveform: NDArray[np.float32], longest_s: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(start, samples) of pieces that are at most so long, each cut at the quietest moment of its
    last five seconds."""
    start, longest, search = 0, longest_s * SAMPLE_RATE, SEARCH_S * SAMPLE_RATE
    while start < len(waveform):
        end = min(start + longest, len(waveform))
        if end < len(waveform):
            end = end - search + quietest(waveform[end - search : end])
        yield start, waveform[start:end]
        start = end


def quietest(samples: NDArray[np.float32]) -> int:
    """The index of the quietest moment, over a tenth of a second."""
    smooth = np.convolve(np.abs(samples), np.ones(SAMPLE_RATE // 10, np.float32), mode="same")
    return int(smooth.argmin())


def utterances(recording: NDArray[np.float32]) -> list[Span]:
    """Where somebody speaks (16 kHz), in order; [] where nobody does. No two overlap."""
    pause_ms, edge_ms = (int(seconds * 1000) for seconds in (SHORTEST_PAUSE_S, EDGE_S))
    found = get_speech_timestamps(
        recording, min_silence_duration_ms=pause_ms, speech_pad_ms=edge_ms
    )
    return [(int(span["start"]), int(span["end"])) for span in found]


def speech_probabilities(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """How likely somebody speaks in each 32 ms of `samples`, shape (windows * 512,), 16 kHz; the
    result has the shape (windows,). Nothing is kept between two calls."""
    return np.asarray(get_vad_model()(samples), np.float32).reshape(-1)


def windows(recording: NDArray[np.float32]) -> Iterator[Window]:
    """The speech of `recording`, in order, cut at long pauses, and at quiet moments where it goes
    on for longer than a window."""
    return windows_of(recording, utterances(recording))


def windows_of(recording: NDArray[np.float32], spans: Sequence[Span]) -> Iterator[Window]:
    """The windows of speech that was found at `spans`."""
    group: list[Span] = []
    reached = 0
    for index, span in enumerate(spans):
        group.append(span)
        following = spans[index + 1][0] if index + 1 < len(spans) else None
        if following is not None and following - span[1] <= LONGEST_PAUSE_S * SAMPLE_RATE:
            continue
        margin = int((MARGIN_S - EDGE_S) * SAMPLE_RATE)
        start = max(reached, group[0][0] - margin)
        reached = min(span[1] + margin, len(recording) if following is None else following)
        whole = Window(recording, start, reached, tuple(group))
        for offset, samples in split_audio(recording[start:reached], WINDOW_S):
            yield whole.part(start + offset, start + offset + len(samples))
        group = []
