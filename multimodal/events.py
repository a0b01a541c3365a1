"""What happens while a message is answered: a reply is a stream of these frozen values. Pages, the
HTTP interface and the command line only translate it.

An engine answers with plain values (`EngineEvent`) that know of no message and no file. A turn
(`TurnEvent`) has stored what was made and has attached what was heard or seen to the person's
message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from multimodal.messages import AudioPart, ImagePart, Outcome, Route, Timing, Usage


@dataclass(frozen=True, slots=True)
class RouteChosen:
    route: Route


@dataclass(frozen=True, slots=True)
class Progress:
    """Something is under way; `fraction` from 0 to 1, None where the end is not known."""

    text: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class DecodingStatistics:
    """How sure an engine was of a segment, in the words of Whisper's own output: the mean
    log-probability of its tokens, the probability that nobody speaks, how well the text can be
    compressed, at which temperature it was drawn, its tokens, and the frame (of 10 ms) at which
    the window it was found in begins."""

    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    tokens: tuple[int, ...]
    seek: int


@dataclass(frozen=True, slots=True)
class Segment:
    """What is said between two moments of a recording, in seconds from its start; `language` is
    the one spoken there (ISO 639-1). None where the engine does not tell."""

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    statistics: DecodingStatistics | None = None


@dataclass(frozen=True, slots=True)
class Transcription:
    """What is said, in which language most of it, and when; "" and no segment where nobody speaks.
    Segments name their own language where it is known."""

    text: str
    language: str | None
    segments: tuple[Segment, ...] = ()

    @classmethod
    def of(cls, segments: Sequence[Segment], language: str | None) -> Self:
        """With the words of `segments` as its text."""
        return cls(" ".join(segment.text for segment in segments), language, tuple(segments))

    @property
    def languages(self) -> tuple[str, ...]:
        """All that are spoken, the one spoken most first."""
        others = (s.language for s in self.segments if s.language)
        first = (self.language,) if self.language else ()
        return tuple(dict.fromkeys((*first, *others)))


@dataclass(frozen=True, slots=True)
class SpeechTranscribed:
    """A recording was heard: as it was said, in English and in another language where that was
    asked for and is needed."""

    spoken: Transcription
    english: Transcription | None = None
    translation: Transcription | None = None


@dataclass(frozen=True, slots=True)
class SentenceSpoken:
    """One sentence of a text was spoken, so that it can be played while the next one is made.

    `pcm`: mono, 16 bits a sample, little-endian, `sample_rate` samples a second, with the pause
    that leads on to the next sentence. `text`: what is said in it.
    """

    pcm: bytes
    sample_rate: int
    text: str

    @property
    def seconds(self) -> float:
        return len(self.pcm) / 2 / self.sample_rate


@dataclass(frozen=True, slots=True)
class SpeechGenerated:
    """A text was spoken to its end; `wav` is the whole file (mono, 16 bits)."""

    wav: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class SpeechStored:
    """The reply was spoken and kept."""

    part: AudioPart


@dataclass(frozen=True, slots=True)
class ImageDescribed:
    """A picture was looked at: all that was seen, and the reply to what was asked about it."""

    description: str
    answer: str


@dataclass(frozen=True, slots=True)
class PartAnnotated:
    """A recording or a picture of the person's was given words: the part with its transcript or
    its description."""

    part: AudioPart | ImagePart


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture as it stands while it is made: a small JPEG, only for showing."""

    jpeg: bytes


@dataclass(frozen=True, slots=True)
class ImageGenerated:
    """A picture as the engine made it, not kept anywhere yet."""

    png: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class ImageStored:
    """A picture was made and kept; its description is what was asked for."""

    part: ImagePart


@dataclass(frozen=True, slots=True)
class Notice:
    """What was given up, and why, in one sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class StepFinished:
    """One model's share of the turn is done."""

    timing: Timing


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of every reply that was not abandoned."""

    outcome: Outcome


Working = Progress | Notice | Usage | TextDelta | Preview | SentenceSpoken
EngineEvent = Working | SpeechTranscribed | ImageDescribed | ImageGenerated | SpeechGenerated
TurnEvent = Working | RouteChosen | StepFinished | PartAnnotated | ImageStored | SpeechStored | Done
