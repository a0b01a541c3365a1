"""What happens while a message is answered: a reply is a stream of these frozen values. Pages, the
HTTP interface and the command line only translate it."""

from __future__ import annotations

from dataclasses import dataclass

from multimodal.messages import AudioPart, Finish, ImagePart, Outcome, Route


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
class Transcript:
    """A recording was heard. `part` carries transcript and language; `segments` are when its words
    were said, `english_segments` those of the translation, where there is one."""

    part: AudioPart
    segments: tuple[Segment, ...] = ()
    english_segments: tuple[Segment, ...] = ()


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
class Description:
    """A picture was looked at. `part` carries what was seen; `answer` replies to the focus."""

    part: ImagePart
    answer: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture as it stands while it is made: a small JPEG, only for showing."""

    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Drawn:
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
class Usage:
    """Counted by the engine, in tokens. `cached_tokens` of the prompt were not computed again;
    `steps` of denoising made a picture."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    decode_s: float
    finish: Finish
    seed: int
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of every reply that was not abandoned."""

    outcome: Outcome


Making = Preview | Drawn | ImageStored | SentenceSpoken | SpeechGenerated | SpeechStored
Telling = RouteChosen | Progress | Notice | Usage | Done
Event = Telling | Transcript | Description | TextDelta | Making
