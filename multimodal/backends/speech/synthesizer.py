"""What every model for speech does alike: sentence after sentence, so that the first one can be
heard while the others are made; the whole at the end.

A sentence is pronounced (`phonemes`), then made into sound by the model. A long one is cut between
clauses. Stop ends the work within a sentence: ONNX Runtime gives up in the middle of one.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
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


def speak(
    title: str,
    said: Sequence[str],
    make: Callable[[str], NDArray[np.float32] | None],
    pause_s: float,
    sample_rate: int,
    emit: Emit,
    stopped: Stopped,
) -> None:
    """Tell each sentence of `said` once `make` has made it, with a pause between two of them, then
    the whole; nothing more once `stopped`, where `make` may return None. Raises BackendError, with
    the model's `title`, where nothing is to be heard."""
    pause = np.zeros(int(pause_s * sample_rate), np.float32)
    spoken: list[NDArray[np.float32]] = []
    for index, sentence in enumerate(said):
        if stopped() or (made := make(sentence)) is None:
            return
        spoken.append(np.concatenate((made, pause)) if index + 1 < len(said) else made)
        emit(SentenceSpoken(pcm(spoken[-1]).tobytes(), sample_rate, sentence))
        emit(Progress("Speaking", (index + 1) / len(said)))
    whole = np.concatenate(spoken)
    if not len(whole):
        raise BackendError(f"{title} made no sound of the text. Try other words.")
    if not stopped():
        emit(SpeechGenerated(wav(whole, sample_rate), len(whole) / sample_rate))


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

        def work(emit: Emit, stopped: Stopped) -> None:
            def make(sentence: str) -> NDArray[np.float32] | None:
                waves: list[NDArray[np.float32]] = []
                for piece in clauses(sentence, PIECE_CHARACTERS):
                    if stopped():
                        return None
                    sounds = pronounce(piece)
                    made = self.synthesize(sounds, language, voice, request.speed, stopped)
                    if made is None:
                        return None
                    waves.append(made)
                return np.concatenate(waves)

            pause_s, rate = PAUSE_S / request.speed, self.sample_rate
            speak(self._card.title, said, make, pause_s, rate, emit, stopped)

        return self._worker.stream(work, stop)

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
