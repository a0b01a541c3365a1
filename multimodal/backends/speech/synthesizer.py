"""What every model for speech does alike: sentence after sentence, so that the first one can be
heard while the others are made; the whole at the end.

A sentence is pronounced (`phonemes`), then made into sound by the model. A long one is cut between
clauses. Stop ends the work within a sentence: ONNX Runtime gives up in the middle of one.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from multimodal.backends.base import cores
from multimodal.backends.loaded import LoadedModel
from multimodal.backends.speech.phonemes import (
    Phonemizer,
    can_pronounce,
    explain_missing_phonemizer,
    phonemizer,
)
from multimodal.backends.speech.sentences import clauses, sentences
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard, Voice, best_voice, truncate
from multimodal.errors import BackendError, PromptError, RequestError
from multimodal.events import EngineEvent, Progress, SentenceSpoken, SpeechGenerated
from multimodal.languages import language_name
from multimodal.media.audio import pcm, wav
from multimodal.requests import TTSRequest

MIN_SPEED, MAX_SPEED = 0.5, 2.0
PIECE_CHARACTERS = 250
"""A longer sentence is spoken clause by clause: models lose words at the end of long ones."""
PAUSE_S = 0.25
"""Between two sentences, beside what the model leaves itself."""
POLL_S = 0.05
USUAL = {"en": "en-US", "fr": "fr-FR", "es": "es-ES", "pt": "pt-BR"}
"""How a language is pronounced by a voice of another one."""


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """The model on the CPU, with as many threads as there are cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.inter_op_num_threads = 1
    # A thread that waits leaves its core to the text model, which writes meanwhile: 0.25 s for a
    # clause became 0.19 s on two cores (0.09 s and 0.11 s where nothing is written).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # warnings are about how it was exported
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def infer(
    session: onnxruntime.InferenceSession, inputs: dict[str, NDArray[Any]], stopped: Stopped
) -> NDArray[np.float32] | None:
    """The first output, shape (samples,); None where `stopped` turned true before it was ready."""
    with _ended_by(stopped) as options:
        try:
            (made, *_) = session.run(None, inputs, options)
        except Exception:
            if stopped():
                return None
            raise
    samples: NDArray[np.float32] = np.asarray(made, np.float32).reshape(-1)
    return samples


@contextmanager
def _ended_by(stopped: Stopped) -> Iterator[onnxruntime.RunOptions]:
    """Options of a run that gives up once `stopped` turns true."""
    options = onnxruntime.RunOptions()
    # What a long sentence took is given back, not kept for the next one.
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            if stopped():
                options.terminate = True
                return

    watcher = threading.Thread(target=watch, daemon=True, name="stop speaking")
    watcher.start()
    try:
        yield options
    finally:
        over.set()
        watcher.join()


class Synthesizer(LoadedModel[onnxruntime.InferenceSession], ABC):
    """One loaded model, and how the languages it was asked for are pronounced."""

    _does = "speak"
    sample_rate: int

    def __init__(self, card: ModelCard, session: onnxruntime.InferenceSession) -> None:
        super().__init__(card, session)
        self._phonemizers: dict[str, Phonemizer] = {}
        self._lock = threading.Lock()

    def run(self, request: TTSRequest, stop: threading.Event) -> Generator[EngineEvent, None, None]:
        """Yield a SentenceSpoken and Progress a sentence, then one SpeechGenerated.

        Raises RequestError for a voice, a language or a speed that it does not have, PromptError
        for a text without words.
        """
        voice, language = self.choose(request)
        if not MIN_SPEED <= request.speed <= MAX_SPEED:
            raise RequestError(f"A speed of {request.speed:g} is not one from 0.5 to 2.")
        said = sentences(request.text)
        if not said:
            raise PromptError("There is no word in the text to speak. Write some.")
        pronounce = self._phonemizer(language).phonemes

        def make(piece: str, stopped: Stopped) -> NDArray[np.float32] | None:
            if stopped():
                return None
            return self.synthesize(pronounce(piece), language, voice, request.speed, stopped)

        pause = np.zeros(int(PAUSE_S / request.speed * self.sample_rate), np.float32)
        return self._worker.stream(
            lambda emit, stopped: self._speak(said, make, pause, emit, stopped), stop
        )

    def close(self) -> None:
        super().close()
        with self._lock:
            for phonemes in self._phonemizers.values():
                phonemes.close()
            self._phonemizers.clear()

    @abstractmethod
    def synthesize(
        self, phonemes: str, language: str, voice: Voice, speed: float, stopped: Stopped
    ) -> NDArray[np.float32] | None:
        """The sound of `phonemes` of that language (BCP 47), float32 in [-1, 1], shape (samples,),
        at `sample_rate`; None where `stopped` turned true before it was ready."""

    def choose(self, request: TTSRequest) -> tuple[Voice, str]:
        """The voice, and the language it speaks as its pronunciation is asked for (BCP 47).

        Raises RequestError where the card has no such voice, or none of that language.
        """
        voices = self._card.voices
        if request.voice is not None:
            voices = tuple(voice for voice in voices if voice.name == request.voice)
            if not voices:
                names = ", ".join(voice.name for voice in self._card.voices)
                raise RequestError(
                    f"{self._card.title} has no voice {truncate(request.voice)!r}. It has: {names}."
                )
        wanted = (request.language or voices[0].language).partition("-")[0]
        if (able := best_voice(voices, wanted)) is None:
            whose = f"The voice {voices[0].title}" if request.voice else self._card.title
            known = sorted({language_name(code) for v in voices for code in v.languages})
            raise RequestError(
                f"{whose} does not speak {language_name(wanted)}. It speaks: {', '.join(known)}."
            )
        language = able.language if able.languages[0] == wanted else USUAL.get(wanted, wanted)
        if not can_pronounce(language):
            raise RequestError(explain_missing_phonemizer(language))
        return able, language

    def _phonemizer(self, language: str) -> Phonemizer:
        with self._lock:
            if language not in self._phonemizers:
                self._phonemizers[language] = phonemizer(language)
            return self._phonemizers[language]

    def _speak(
        self,
        said: tuple[str, ...],
        make: Callable[[str, Stopped], NDArray[np.float32] | None],
        pause: NDArray[np.float32],
        emit: Emit,
        stopped: Stopped,
    ) -> None:
        spoken: list[NDArray[np.float32]] = []
        for index, sentence in enumerate(said):
            waves: list[NDArray[np.float32]] = []
            for piece in clauses(sentence, PIECE_CHARACTERS):
                if (made := make(piece, stopped)) is None:
                    return
                waves.append(made)
            if index + 1 < len(said):
                waves.append(pause)
            spoken.append(np.concatenate(waves))
            emit(SentenceSpoken(pcm(spoken[-1]).tobytes(), self.sample_rate, sentence))
            emit(Progress("Speaking", (index + 1) / len(said)))
        whole = np.concatenate(spoken)
        if not len(whole):
            raise BackendError(f"{self._card.title} made no sound of the text. Try other words.")
        emit(SpeechGenerated(wav(whole, self.sample_rate), len(whole) / self.sample_rate))
