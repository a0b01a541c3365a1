"""The seam between the program and its engines: what a backend is asked, and how it is loaded.

The module of a card's `family` (`registry.py`) has one function, `load(card, files, device) ->
Backend`. A loaded backend answers one kind of request with a stream
of events. Closing that stream, or setting `stop`, ends the work within one token (text) or one
window (speech), and only then does the stream end: a caller that has left the stream may be sure
that the engine is free.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from multimodal.backends.damaged_files import damage
from multimodal.backends.engine_options import check_options
from multimodal.backends.registry import find_family
from multimodal.backends.worker import release_frames
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CardError, MultimodalError
from multimodal.events import Event
from multimodal.memory.devices.device_errors import device_error
from multimodal.messages import AudioPart, Focus, ImagePart, Role, Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


def cores() -> int:
    """How many threads an engine on the CPU should use: the physical cores this program may run
    on. A second thread on one core only waits for the first one's arithmetic unit."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False) or usable
    return max(1, min(physical or 1, usable or 1))


@dataclass(frozen=True, slots=True)
class TextRequest:
    """`turns` alternate user and assistant, in order, the last one the user's.

    `pictures`: with the index of the turn that shows each, in the order of the turns.
    `context_tokens`: prompt and answer take no more than that, though the model would read more.
    """

    turns: tuple[tuple[Role, str], ...]
    system_prompt: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    pictures: tuple[tuple[int, Image], ...] = ()
    context_tokens: int | None = None


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

    part: AudioPart
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
    """`image`: RGB. `focus`: what the person asks about."""

    part: ImagePart
    image: Image
    focus: Focus = "general"
    question: str = ""


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


class Backend(Protocol):
    """A loaded model. `run` may be called from several threads, up to the card's `concurrency`."""

    def run(self, request: Any, stop: threading.Event) -> Generator[Event, None, None]: ...

    def close(self) -> None:
        """Give back every byte. No `run` is under way when this is called."""


Loader = Callable[[ModelCard, Path, str], Backend]


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load `card` from the folder `files` onto `device` ("cpu", "cuda").

    Raises CardError for an unknown family and for an option that the family does not have,
    BackendError when the engine refuses the weights, DeviceFullError and DeviceLostError.
    """
    if (family := find_family(card.family)) is None:
        raise CardError(f"{card.name}: there is no backend for the family '{card.family}'")
    try:
        module = importlib.import_module(family.engine)
    except ModuleNotFoundError as error:
        raise BackendError(
            f"{card.title} needs the Python package '{error.name}': pip install {error.name}"
        ) from error
    check_options(card)
    try:
        backend: Backend = module.load(card, files, device)
    except Exception as error:
        release_frames(error)
        if isinstance(error, MultimodalError) and not isinstance(error, BackendError):
            raise
        if (told := device_error(error, card.title)) is not None:
            raise told from error
        if (reason := damage(files)) is not None:
            raise BackendError(f"{card.title} could not be loaded: {reason}") from error
        if isinstance(error, BackendError):
            raise
        raise BackendError(f"{card.title} could not be loaded: {error}") from error
    return backend
