"""Whisper in OpenAI's own format (`.pt`), through openai-whisper on torch.

The checkpoint is read with `weights_only=True`, so nothing in it is run, and never by a name that
would be looked up on the net. Sound is heard in windows of 30 s; between two of them the stop
signal is looked at. The voice activity detector that faster-whisper ships cuts out what is not
speech first, since Whisper invents words for silence.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import LANGUAGES

from multimodal.backends.base import Backend
from multimodal.backends.hearing import TEMPERATURES, Heard, Hearer, Manner
from multimodal.backends.voice_activity import windows
from multimodal.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import Segment


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the one `.pt` file in `files`, or `files` itself: {"dims": ..., "model_state_dict":
    ...}."""
    found = [files] if files.is_file() else sorted(files.glob("*.pt"))
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


class OpenAIWhisper(Hearer[Whisper]):
    """One loaded Whisper model."""

    def languages(self) -> tuple[str, ...]:
        known = tuple(LANGUAGES) if self._model.is_multilingual else ("en",)
        return self._card.languages or known

    def words(
        self,
        piece: NDArray[np.float32],
        manner: Manner,
        heard: Callable[[int], bool],
    ) -> Heard:
        words: list[str] = []
        segments: list[Segment] = []
        language = manner.language
        for window in windows(piece):
            told = self._told(window.samples, manner, language)
            language = language or str(told["language"])
            words.append(str(told["text"]).strip())
            segments += [
                window.segment(said["start"], said["end"], text)
                for said in told["segments"]
                if (text := str(said["text"]).strip())
            ]
            if not heard(window.reached):
                break
        return Heard(" ".join(filter(None, words)), language, tuple(segments))

    def _told(
        self, samples: NDArray[np.float32], manner: Manner, language: str | None
    ) -> dict[str, Any]:
        told: dict[str, Any] = self._model.transcribe(
            samples,
            task=manner.task,
            language=language,
            fp16=next(self._model.parameters()).dtype == torch.float16,
            beam_size=manner.beams or int(self._card.engine.get("beam_size", 5)),
            temperature=TEMPERATURES,
            condition_on_previous_text=False,
        )
        return told
