"""Whisper on CTranslate2, through faster-whisper; voice activity detection keeps noise wordless.

The folder holds model.bin, config.json, tokenizer.json and vocabulary.json; nothing is asked of a
model hub. Between two segments (at most 30 s of sound) the stop signal is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from multimodal.backends.base import Backend, cores
from multimodal.backends.hearing import TEMPERATURES, Heard, Hearer, Manner
from multimodal.backends.voice_activity import speech_of
from multimodal.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import Segment


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the CTranslate2 model in `files`. Raises BackendError where it is refused."""
    if not (files / "tokenizer.json").is_file():  # faster-whisper would ask a hub for one
        raise BackendError(f"{card.title}: there is no tokenizer.json in {files}")
    try:
        model = WhisperModel(
            str(files),
            device=device,
            compute_type=str(card.engine.get("compute_type", "default")),
            cpu_threads=int(card.engine.get("threads", 0)) or cores(),
            local_files_only=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise BackendError(f"{card.title} could not be loaded from {files}: {error}") from error
    return FasterWhisper(card, model)


class FasterWhisper(Hearer[WhisperModel]):
    """One loaded Whisper model."""

    def languages(self) -> tuple[str, ...]:
        return self._card.languages or tuple(self._model.supported_languages)

    def words(
        self,
        piece: NDArray[np.float32],
        manner: Manner,
        heard: Callable[[int], bool],
    ) -> Heard:
        if (speech := speech_of(piece)) is None:
            return Heard("", manner.language)
        segments, info = self._model.transcribe(
            speech.samples,
            task=manner.task,
            language=manner.language,
            beam_size=manner.beams or int(self._card.engine.get("beam_size", 5)),
            temperature=TEMPERATURES,
            condition_on_previous_text=False,
        )
        said: list[Segment] = []
        for segment in segments:
            if text := segment.text.strip():
                said.append(speech.segment(segment.start, segment.end, text))
            if not heard(speech.reached(segment.end)):
                break
        return Heard(" ".join(s.text for s in said), str(info.language), tuple(said))
