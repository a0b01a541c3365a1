"""What is said: frozen values, no behaviour, no torch. What happens meanwhile is in `events`.

A `Conversation` is a tuple of `Message`s; a message is a tuple of parts. A picture or a recording
is named by the SHA-256 of its normalised bytes; whoever needs the bytes asks the media folder.
What a model made of a part (a transcript, a description) is kept on the part, so that the next
turn sends the same words to the text model and its prefix cache stays valid.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

Role = Literal["user", "assistant"]
Finish = Literal["stop", "length", "stopped", "failed", "unfinished"]
Focus = Literal["general", "text", "colours", "faces", "objects"]
Rating = Literal["up", "down"]


class Task(StrEnum):
    """What a model does, by the task names of the Hugging Face hub."""

    TEXT = "text-generation"
    SPEECH = "automatic-speech-recognition"
    IMAGE = "image-to-text"
    DRAW = "text-to-image"
    TTS = "text-to-speech"


# ---------------------------------------------------------------- what is said


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A normalised picture. `description` is what a model saw in it, once it was looked at;
    `reduced_from` the width and height it was sent with, where it is kept smaller."""

    sha256: str
    media_type: str
    width: int
    height: int
    name: str = "picture"
    description: str | None = None
    reduced_from: tuple[int, int] | None = None
    kind: Literal["image"] = "image"


@dataclass(frozen=True, slots=True)
class TranscriptionSettings:
    """How recordings are heard; languages by their ISO 639 codes. `language`: the one spoken, for
    the model to find out unless given. `translate_to`: the one wanted, none unless given."""

    language: str | None = None
    translate_to: str | None = None


@dataclass(frozen=True, slots=True)
class AudioPart:
    """A normalised recording (mono, 16 kHz). `transcript` is in the language spoken;
    `english` is its translation, made only where the text model does not read that language.
    `translation` is the one that the person wanted; `asked` is how it was to be heard, `heard_by`
    the card that did."""

    sha256: str
    media_type: str
    seconds: float
    name: str = "recording"
    transcript: str | None = None
    english: str | None = None
    language: str | None = None
    translation: str | None = None
    asked: TranscriptionSettings = TranscriptionSettings()
    heard_by: str | None = None
    kind: Literal["audio"] = "audio"


Part = TextPart | ImagePart | AudioPart


@dataclass(frozen=True, slots=True)
class Step:
    """One model's share of a turn; `sha256` names the part it works on."""

    task: Task
    card: str
    purpose: str
    sha256: str | None = None
    focus: Focus = "general"
    pictures: tuple[str, ...] = ()
    """By SHA-256, those that a model sees which talks about pictures itself."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which models answer, by which rule, and why in words a person understands."""

    steps: tuple[Step, ...]
    rule: str
    reason: str
    answer: str | None = None
    again: bool = False
    aloud: Step | None = None
    """`answer`: the whole reply where no model is needed. `again`: decide once more after the
    steps, because their result (a transcript) is what the decision depends on. `aloud`: says the
    reply once it is whole."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One step as it ran; all times in seconds."""

    card: str
    task: Task
    wait_s: float
    load_s: float
    run_s: float
    evicted: tuple[str, ...] = ()


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
class Outcome:
    """How a reply came to be; kept with it, shown on its route card."""

    routes: tuple[Route, ...] = ()
    timings: tuple[Timing, ...] = ()
    notices: tuple[str, ...] = ()
    finish: Finish = "unfinished"
    seconds: float = 0.0
    first_token_s: float | None = None
    usage: Usage | None = None
    """Of the model that answered, where it counts anything."""
    error: str | None = None


def new_id() -> str:
    """128 random bits: unguessable, so an id alone may name a conversation or its owner."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]
    id: str = field(default_factory=new_id)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    outcome: Outcome | None = None
    damage: str | None = None
    """What cannot be read of it where it is kept, in a sentence; its `parts` are the others."""
    rating: Rating | None = None
    """What the person thinks of it, an answer."""
    versions: tuple[str, ...] = ()
    """The ids of all answers to the same question, its own among them, in the order they were
    made; () where it is the only one."""

    @property
    def text(self) -> str:
        """The words the person typed or the model wrote; not what was heard or seen."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple(part for part in self.parts if isinstance(part, ImagePart))

    @property
    def recordings(self) -> tuple[AudioPart, ...]:
        return tuple(part for part in self.parts if isinstance(part, AudioPart))

    def with_part(self, changed: ImagePart | AudioPart) -> Message:
        """This message with the part of the same bytes replaced by `changed`."""
        parts = tuple(
            changed if not isinstance(part, TextPart) and part.sha256 == changed.sha256 else part
            for part in self.parts
        )
        return replace(self, parts=parts)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; None leaves it to the model's card."""

    temperature: float | None = None
    top_p: float | None = None
    repeat_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a picture is made, sizes in pixels; None leaves it to the model's card."""

    negative_prompt: str = ""
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Controls:
    """What the person set for a conversation. `model` is "auto" or the name of a card; `speak_in`
    is the language in which answers are also spoken, `voice` whose voice speaks, by the name its
    card gives it (the first of that language unless given), `speed` how fast, 1 being usual."""

    model: str = "auto"
    system_prompt: str = ""
    sampling: Sampling = Sampling()
    drawing: Drawing = Drawing()
    hearing: TranscriptionSettings = TranscriptionSettings()
    speak_in: str | None = None
    voice: str | None = None
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...] = ()
    controls: Controls = Controls()

    def with_part(self, changed: ImagePart | AudioPart) -> Conversation:
        return replace(self, messages=tuple(m.with_part(changed) for m in self.messages))
