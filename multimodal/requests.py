"""What an engine is asked. What it answers is in `events`.

Both are plain values: text, numbers, pixels and samples, which could go over a wire as JSON and
bytes. None of them names a conversation, a file or a person; whoever asks knows whose words these
are, and what the answer belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multimodal.messages import Focus, Role, Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation as a model reads it, with the pictures (RGB) that it shows."""

    role: Role
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class TextRequest:
    """`messages` alternate user and assistant, in order, the last one the user's.

    `context_tokens`: prompt and answer take no more than that, though the model would read more.
    """

    messages: tuple[ChatMessage, ...]
    system_prompt: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    context_tokens: int | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        """Those of all messages, in their order."""
        return tuple(image for message in self.messages for image in message.images)


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """`waveform`: float32, mono, 16 kHz, in [-1, 1], shape (samples,).

    `translate_to_english_unless`: languages (ISO 639-1) that need no English translation; empty
    asks for none. `translate_to`: a language that a translation is wanted in besides. `beams`:
    guesses followed at once; the card's own number unless given. `prompt`: words that may occur,
    spelt as they should be; `temperature` (0 to 1) of the first try, 0 unless given.
    `is_utterance`: whether this is one utterance of one person, to be heard as quickly as the
    engine can; `likely`: the language (ISO 639-1) of what is too short to tell.
    """

    waveform: NDArray[np.float32]
    language: str | None = None
    translate_to_english_unless: tuple[str, ...] = ()
    beams: int | None = None
    translate_to: str | None = None
    prompt: str = ""
    temperature: float | None = None
    is_utterance: bool = False
    likely: str | None = None


@dataclass(frozen=True, slots=True)
class ImageDescriptionRequest:
    """`image`: RGB. `focus`: what the person asks about. `original_size`: the width and height of
    the picture that was sent, where `image` is smaller."""

    image: Image
    focus: Focus = "general"
    question: str = ""
    original_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ImageGenerationRequest:
    """`prompt`: the thing to draw. `source`: a picture (RGB) to draw anew, by the share `strength`.

    None leaves a value to the card; a seed is then drawn by chance. The pictures of a `count` are
    made one after another, with `seed`, `seed` + 1 ... A preview comes every `preview_every_s`
    seconds at most; None asks for none.
    """

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    count: int = 1
    source: Image | None = None
    strength: float | None = None
    preview_every_s: float | None = 0.7


@dataclass(frozen=True, slots=True)
class TTSRequest:
    """A text to be spoken in `language` (ISO 639-1), translated into it where `text_language`, in
    which it is written, is another one and the model translates; the voice's own language, or the
    card's, unless given. `voice`: by the name its card gives it, or by number where a checkpoint
    only counts its voices; the first of the language unless given. `speed`: 0.5 to 2."""

    text: str
    language: str | None = None
    text_language: str | None = None
    voice: str | None = None
    speed: float = 1.0


Request = (
    TextRequest
    | TranscriptionRequest
    | ImageDescriptionRequest
    | ImageGenerationRequest
    | TTSRequest
)
