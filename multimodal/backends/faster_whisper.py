"""Whisper on CTranslate2, through faster-whisper; voice activity detection keeps noise wordless.

The folder holds model.bin, config.json, tokenizer.json and vocabulary.json; nothing is asked of a
model hub. Between two segments (at most 30 s of sound) the stop signal is looked at.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

from faster_whisper import WhisperModel

from multimodal.backends.base import Backend, SpeechRequest, stream
from multimodal.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.messages import Event, Progress, Transcript

TEMPERATURES = (0.0, 0.4)
"""A window that repeats itself is heard once more at the second; more tries would delay a stop."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the CTranslate2 model in `files`. Raises BackendError where it is refused."""
    try:
        model = WhisperModel(
            str(files),
            device=device,
            compute_type=str(card.engine.get("compute_type", "default")),
            cpu_threads=int(card.engine.get("threads", 0)) or os.cpu_count() or 1,
            local_files_only=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise BackendError(f"{card.title} could not be loaded from {files}: {error}") from error
    return FasterWhisper(card, model)


class FasterWhisper:
    """One loaded Whisper model."""

    def __init__(self, card: ModelCard, model: WhisperModel) -> None:
        self._card = card
        self._model: WhisperModel | None = model

    def run(self, request: SpeechRequest, stop: threading.Event) -> Generator[Event, None, None]:
        """Yield Progress per segment, then one Transcript; its text is "" where nobody speaks."""
        return stream(lambda emit, stopped: self._hear(request, emit, stopped), stop)

    def close(self) -> None:
        self._model = None

    def _hear(
        self,
        request: SpeechRequest,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> None:
        text, language = self._pass(request, "transcribe", request.language, emit, stopped)
        english = None
        foreign = bool(request.english_unless) and language not in request.english_unless
        if text and foreign and not stopped():
            english, _ = self._pass(request, "translate", language, emit, stopped)
        if not stopped():
            heard = replace(
                request.part, transcript=text, language=language if text else None, english=english
            )
            emit(Transcript(heard))

    def _pass(
        self,
        request: SpeechRequest,
        task: str,
        language: str | None,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> tuple[str, str]:
        if self._model is None:
            raise BackendError(f"{self._card.title} was unloaded before it could listen")
        segments, info = self._model.transcribe(
            request.waveform,
            task=task,
            language=language,
            beam_size=int(self._card.engine.get("beam_size", 5)),
            temperature=TEMPERATURES,
            vad_filter=True,
            condition_on_previous_text=False,
        )
        verb = "Listening" if task == "transcribe" else "Translating"
        words = []
        for segment in segments:
            if stopped():
                break
            words.append(segment.text.strip())
            emit(Progress(verb, min(1.0, segment.end / max(info.duration, 0.01))))
        return " ".join(filter(None, words)), str(info.language)
