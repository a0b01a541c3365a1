"""Whisper in OpenAI's own format (`.pt`), through openai-whisper on torch.

The checkpoint is read with `weights_only=True`, so nothing in it is run, and never by a name that
would be looked up on the net. Sound is heard in windows of 30 s; between two of them the stop
signal is looked at. The voice activity detector that faster-whisper ships cuts out what is not
speech first, since Whisper invents words for silence.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from faster_whisper.vad import get_speech_timestamps
from numpy.typing import NDArray
from whisper.model import ModelDimensions, Whisper

from multimodal.backends.base import Backend, SpeechRequest, stream
from multimodal.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.messages import Event, Progress, Transcript

SAMPLE_RATE = 16_000
WINDOW_S = 30
TEMPERATURES = (0.0, 0.4)
"""A window that repeats itself is heard once more at the second; more tries would delay a stop."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the one `.pt` file in `files`: {"dims": ..., "model_state_dict": ...}."""
    found = sorted(files.glob("*.pt"))
    if not found:
        raise BackendError(f"{card.title}: there is no .pt file in {files}")
    try:
        checkpoint = torch.load(found[0], map_location="cpu", weights_only=True)
        model = Whisper(ModelDimensions(**checkpoint["dims"]))
        model.load_state_dict(checkpoint["model_state_dict"])
    except (KeyError, TypeError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise BackendError(
            f"{found[0].name} is not a Whisper checkpoint in OpenAI's format ({error})"
        ) from error
    model = model.to(torch.device(device)).eval()
    return OpenAIWhisper(card, model.half() if device == "cuda" else model)


class OpenAIWhisper:
    """One loaded Whisper model."""

    def __init__(self, card: ModelCard, model: Whisper) -> None:
        self._card = card
        self._model: Whisper | None = model

    def run(self, request: SpeechRequest, stop: threading.Event) -> Generator[Event, None, None]:
        """Yield Progress per window, then one Transcript; its text is "" where nobody speaks."""
        return stream(lambda emit, stopped: self._hear(request, emit, stopped), stop)

    def close(self) -> None:
        self._model = None

    def _hear(
        self,
        request: SpeechRequest,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> None:
        speech = _speech_only(request.waveform)
        text, language = self._pass(speech, "transcribe", request.language, emit, stopped)
        english = None
        foreign = bool(request.english_unless) and language not in request.english_unless
        if text and foreign and not stopped():
            english, _ = self._pass(speech, "translate", language, emit, stopped)
        if not stopped():
            emit(
                Transcript(
                    replace(request.part, transcript=text, language=language, english=english)
                )
            )

    def _pass(
        self,
        speech: NDArray[np.float32],
        task: str,
        language: str | None,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> tuple[str, str | None]:
        if self._model is None:
            raise BackendError(f"{self._card.title} was unloaded before it could listen")
        verb = "Listening" if task == "transcribe" else "Translating"
        words: list[str] = []
        for start, window in _windows(speech):
            if stopped():
                break
            told = self._model.transcribe(
                window,
                task=task,
                language=language,
                fp16=next(self._model.parameters()).dtype == torch.float16,
                beam_size=int(self._card.engine.get("beam_size", 5)),
                temperature=TEMPERATURES,
                condition_on_previous_text=False,
            )
            language = language or str(told["language"])
            words.append(str(told["text"]).strip())
            emit(Progress(verb, min(1.0, (start + len(window)) / len(speech))))
        return " ".join(filter(None, words)), language if words else None


def _speech_only(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """What of `waveform` (16 kHz) is speech, joined; empty where there is none."""
    spans = get_speech_timestamps(waveform)
    pieces = [waveform[span["start"] : span["end"]] for span in spans]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _windows(speech: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Windows of at most 30 s, cut at the quietest moment of their last five seconds."""
    start, longest, search = 0, WINDOW_S * SAMPLE_RATE, 5 * SAMPLE_RATE
    while start < len(speech):
        end = min(start + longest, len(speech))
        if end < len(speech):
            tail = np.abs(speech[end - search : end])
            smooth = np.convolve(tail, np.ones(1600, np.float32), mode="same")
            end = end - search + int(smooth.argmin())
        yield start, speech[start:end]
        start = end
