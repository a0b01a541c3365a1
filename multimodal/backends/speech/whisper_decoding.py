"""How a Whisper model hears a recording, whichever library runs it.

1. The recording is heard in windows of speech (`voice_activity.py`), each on its own: what was
   written for one is not carried into the next, where it could start a loop.
2. A model of many languages is asked which one each passage is in, unless the person said; where
   the language changes, a window is cut. A passage that is too short, or too uncertain, counts to
   the language around it.
3. A text that repeats itself is a loop, or what was said; one that is far too short for its time
   may leave out what was said again. Such a window is cut at its pauses and each passage heard by
   itself: a fresh start loops no more, and what was really said several times is found once in
   each passage. Where the passages say as much as the whole, the whole is kept.
4. A hearing that is unlikely, has more letters than anybody says in that time, or repeats itself in
   a window that cannot be cut, is tried in other ways: as an utterance, where the engine can, and
   at a higher temperature. Of all tries with words that can be said in that time, the likeliest of
   those that do not repeat themselves is kept; what was really said again is repeated in each.

Whisper's own thresholds (Radford et al. 2022, section 4.5) are in `Hypothesis`.
"""

from __future__ import annotations

import itertools
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multimodal.backends.speech.recognizer import (
    ENGLISH,
    FRAMES_PER_S,
    Model,
    SpeechRecognizer,
    TranscribeOptions,
)
from multimodal.backends.speech.voice_activity import Window, spoken_s, windows
from multimodal.events import Segment, Transcription
from multimodal.media.audio import SAMPLE_RATE

RETRY_TEMPERATURES = (0.4,)
"""After the first try; more would delay a stop."""
SHORTEST_HALF_S = 2.5
"""A repetitive window is not cut into shorter ones."""
PASSAGE_S = 1.5
"""Of speech, that a language is told from."""
PROBES_EVERY_S = 8.0
"""At most one passage, but always two, for so many seconds: each costs a run of the encoder."""
SURE, SURER = 0.5, 5.0
"""A passage changes to a language this probable, or as many times likelier than the last one."""

MAX_COMPRESSION = 2.4
MIN_LOGPROB = -1.0
SURE_LOGPROB = -0.75
"""Of a quick hearing; what is less likely is heard as usual. Of 43 utterances of clear voices one
was less likely (a single word), and of a robot's voice those that were misheard."""
MAX_NO_SPEECH = 0.6
MAX_LETTERS_PER_S = 30.0
MIN_LETTERS_PER_S = 2.5
"""Of speech. Fast talkers say some 20 English letters a second; slow Chinese is 3 signs."""
SPARSE_S = 4.0
"""Of speech in a segment, from which on its letters are counted."""
SAME_LENGTH = 0.04  # the share of letters by which two texts that say as much may differ


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What one try made of a window; times in seconds from the window's start."""

    segments: tuple[Segment, ...]
    speech_s: float

    def without_silence(self, window: Window) -> Hypothesis:
        """Without what stands where nobody speaks."""
        kept = (s for s in self.segments if s.text.strip() and not _is_silence(s, window))
        return replace(self, segments=tuple(kept))

    @property
    def needs_splitting(self) -> bool:
        """Whether something may be said oftener, or less often, than is written."""
        return self.is_repetitive or self.is_sparse

    @property
    def is_repetitive(self) -> bool:
        return compression_ratio(self.text) > MAX_COMPRESSION

    @property
    def is_repeated(self) -> bool:
        """Whether the whole of it is written twice."""
        written = "".join(filter(str.isalnum, self.text.casefold()))
        half = len(written) // 2
        return half > 0 and written[:half] == written[half:]

    @property
    def is_sparse(self) -> bool:
        """Whether a segment has too few letters for its time."""
        return any(
            min(s.end_s - s.start_s, self.speech_s) > SPARSE_S
            and count_letters(s.text) < MIN_LETTERS_PER_S * min(s.end_s - s.start_s, self.speech_s)
            for s in self.segments
        )

    @property
    def text(self) -> str:
        return " ".join(segment.text.strip() for segment in self.segments)

    @property
    def has_plausible_rate(self) -> bool:
        """Whether somebody could say that much in the time that was spoken."""
        return count_letters(self.text) <= MAX_LETTERS_PER_S * max(1.0, self.speech_s)

    @property
    def avg_logprob(self) -> float:
        told = [s.statistics for s in self.segments if s.statistics]
        tokens = sum(len(s.tokens) for s in told)
        return sum(s.avg_logprob * len(s.tokens) for s in told) / tokens if tokens else 0.0

    @property
    def is_accepted(self) -> bool:
        return self.has_plausible_rate and self.avg_logprob >= MIN_LOGPROB


class WhisperRecognizer(SpeechRecognizer[Model]):
    has_prompt_input = True

    @abstractmethod
    def decode(self, samples: NDArray[np.float32], manner: TranscribeOptions) -> Iterator[Segment]:
        """Hear `samples` (at most 30 s) once, in the language and with the beams that `manner`
        names, whatever comes of it; every segment has statistics. Beams count at temperature 0,
        where nothing is drawn by chance.

        An engine that tells segments as it hears them looks at `manner.stopped` between two.
        """

    @abstractmethod
    def language_probabilities(self, samples: NDArray[np.float32]) -> Mapping[str, float]:
        """How probable each language is, from the first 30 s; {} where the model knows only one."""

    def utterance(self, window: Window, manner: TranscribeOptions) -> tuple[Hypothesis, str] | None:
        """Hear one short utterance faster than `decode` does, once, at temperature 0: what was
        said, by the window's clock, and in which language. None where this engine has no such way,
        or gave up on it."""
        return None

    def words(
        self, piece: NDArray[np.float32], manner: TranscribeOptions, heard: Callable[[int], bool]
    ) -> Transcription:
        if manner.is_utterance and (quick := self._utterance(piece, manner)) is not None:
            return quick
        return super().words(piece, manner, heard)

    def segments(self, window: Window, manner: TranscribeOptions) -> Iterator[Segment]:
        for part, language in self._by_language(window, manner):
            yield from self._transcribe(part, manner, language)

    def _utterance(
        self, piece: NDArray[np.float32], manner: TranscribeOptions
    ) -> Transcription | None:
        """The quick hearing of one utterance; None where it is to be heard like anything else."""
        found = list(windows(piece))
        if len(found) != 1 or manner.prompt or manner.temperature:
            return None
        (window,) = found
        if (quick := self.utterance(window, manner)) is None:
            return None
        hypothesis, language = quick
        is_sure = hypothesis.is_accepted and hypothesis.avg_logprob >= SURE_LOGPROB
        if hypothesis.needs_splitting or hypothesis.is_repeated or not is_sure:
            return None
        segments = tuple(_placed(hypothesis.without_silence(window), window, language))
        return Transcription.of(segments, language)

    # ------------------------------------------------------------ languages

    def _by_language(self, window: Window, manner: TranscribeOptions) -> list[tuple[Window, str]]:
        """The window in parts of one language each."""
        if manner.language:
            return [(window, manner.language)]
        parts: list[tuple[Window, str]] = []
        for passage, language in self._passages(window, manner):
            if parts and parts[-1][1] == language:
                parts[-1] = (window.part(parts[-1][0].start, passage.end), language)
            else:
                parts.append((passage, language))
        return parts

    def _passages(self, window: Window, manner: TranscribeOptions) -> list[tuple[Window, str]]:
        """The window's passages, each with the language it is heard in."""
        found = split_passages(window, max(2, int(window.seconds // PROBES_EVERY_S) + 1))
        told = [{} if manner.stopped() else self.language_probabilities(p.samples) for p in found]
        surest = max(told, key=lambda probabilities: max(probabilities.values(), default=0.0))
        if not surest:
            return [(window, ENGLISH)]
        around = manner.likely or likeliest(surest)
        return [
            (passage, spoken_language(probabilities, around, passage.speech_s))
            for passage, probabilities in zip(found, told, strict=True)
        ]

    # ------------------------------------------------------------ words

    def _transcribe(
        self, window: Window, manner: TranscribeOptions, language: str
    ) -> list[Segment]:
        """What is said in `window`, which is in one language, by the recording's clock."""
        tries: list[Hypothesis] = []
        for hypothesis in self._tries(window, manner, language):
            if manner.stopped():
                break
            if hypothesis.needs_splitting and (parts := smaller_parts(window)):
                found = [s for part in parts for s in self._transcribe(part, manner, language)]
                whole = _placed(hypothesis, window, language)
                is_kept = have_similar_length(whole, found) and hypothesis.is_accepted
                return whole if is_kept else found
            tries.append(hypothesis)
            if hypothesis.is_accepted and not hypothesis.is_repetitive:
                break
        if not tries:  # stopped
            return []
        best = max(
            tries,
            key=lambda t: (
                t.has_plausible_rate,
                bool(t.segments),
                not t.is_repetitive,
                t.avg_logprob,
            ),
        )
        return _placed(best, window, language)

    def _tries(
        self, window: Window, manner: TranscribeOptions, language: str
    ) -> Iterator[Hypothesis]:
        """Hearings of one window, each made when it is asked for."""
        first = manner.temperature
        yield self._hypothesis(window, manner, language, first)
        if not (manner.prompt or first):
            quick = self.utterance(window, replace(manner, language=language))
            if quick is not None:
                yield quick[0].without_silence(window)
        for temperature in RETRY_TEMPERATURES:
            if temperature > first:
                yield self._hypothesis(window, manner, language, temperature)

    def _hypothesis(
        self, window: Window, manner: TranscribeOptions, language: str, temperature: float
    ) -> Hypothesis:
        beams = manner.beams or self._beams
        once = replace(manner, language=language, temperature=temperature, beams=beams)
        said = tuple(self.decode(window.samples, once))
        return Hypothesis(said, window.speech_s).without_silence(window)


def split_passages(window: Window, most: int | None = None) -> list[Window]:
    """The window in passages that a language can be told from, cut in the middle of its pauses; the
    longest pauses where there may be `most` passages."""
    groups = [[span] for span in window.utterances]
    while len(groups) > 1:
        short = [g for g in groups if spoken_s(g) < PASSAGE_S]
        if not short and (most is None or len(groups) <= most):
            break
        near = short or groups
        pairs = [
            (right[0][0] - left[-1][1], index)
            for index, (left, right) in enumerate(itertools.pairwise(groups))
            if any(left is g or right is g for g in near)
        ]
        _, index = min(pairs)
        groups[index : index + 2] = [groups[index] + groups[index + 1]]
    cuts = [(left[-1][1] + right[0][0]) // 2 for left, right in itertools.pairwise(groups)]
    edges = [window.start, *cuts, window.end]
    return [window.part(start, end) for start, end in itertools.pairwise(edges)]


def spoken_language(probabilities: Mapping[str, float], around: str | None, speech_s: float) -> str:
    """The language of a passage: the likeliest one, unless the passage is short or not sure of it;
    then it is the one `around` it, where that is known."""
    around = around or (likeliest(probabilities) if probabilities else ENGLISH)
    if not probabilities or speech_s < PASSAGE_S:
        return around
    found = likeliest(probabilities)
    needed = min(SURE, SURER * probabilities.get(around, 0.0))
    return found if probabilities[found] >= needed else around


def smaller_parts(window: Window) -> list[Window]:
    """Its passages, else its halves; [] where it is too short to be cut."""
    if len(found := split_passages(window)) > 1:
        return found
    return list(window.halves(SHORTEST_HALF_S) or ())


def have_similar_length(one: Sequence[Segment], other: Sequence[Segment]) -> bool:
    """Whether two hearings of the same window are about as long."""
    first, second = (sum(count_letters(s.text) for s in segments) for segments in (one, other))
    return abs(first - second) <= SAME_LENGTH * max(first, second)


def count_letters(text: str) -> int:
    """How many letters and digits there are."""
    return sum(map(str.isalnum, text))


def compression_ratio(text: str) -> float:
    """Bytes of the text, per byte once it is compressed; 0 of no text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def likeliest(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


def _is_silence(segment: Segment, window: Window) -> bool:
    """Whether it is what Whisper writes where nobody speaks, or after the window's end."""
    told = segment.statistics
    unlikely = (
        told is not None and told.no_speech_prob > MAX_NO_SPEECH and told.avg_logprob < MIN_LOGPROB
    )
    return unlikely or segment.start_s >= window.seconds


def _placed(hypothesis: Hypothesis, window: Window, language: str) -> list[Segment]:
    """Its segments by the recording's clock."""
    frames = window.start * FRAMES_PER_S // SAMPLE_RATE
    return [
        replace(
            window.segment(segment.start_s, segment.end_s, segment.text.strip()),
            language=language,
            statistics=segment.statistics
            and replace(segment.statistics, seek=segment.statistics.seek + frames),
        )
        for segment in hypothesis.segments
    ]
