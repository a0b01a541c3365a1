"""Whisper on CTranslate2, through faster-whisper; how it hears is in `whisper_decoding.py`.

The folder holds model.bin, config.json, tokenizer.json and vocabulary.json; nothing is asked of a
model hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from multimodal.backends.base import Backend, cores
from multimodal.backends.engine_options import parse_options
from multimodal.backends.speech.options import FasterWhisperOptions
from multimodal.backends.speech.recognizer import TranscribeOptions
from multimodal.backends.speech.utterance import LONGEST_S, EncodedUtterance
from multimodal.backends.speech.voice_activity import Window
from multimodal.backends.speech.whisper_decoding import (
    DecodingRequest,
    Hypothesis,
    WhisperRecognizer,
    compression_ratio,
    spoken_language,
)
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import DecodingStatistics, Segment
from multimodal.media.audio import SAMPLE_RATE

TELLING_S = 3.0
"""A shorter passage says little, and the language is better told from it filled up to 30 s."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the CTranslate2 model in `files`. Raises BackendError where it is refused."""
    if not (files / "tokenizer.json").is_file():  # faster-whisper would ask a hub for one
        raise BackendError(f"{card.title}: there is no tokenizer.json in {files}")
    options = parse_options(card, FasterWhisperOptions)
    try:
        model = WhisperModel(
            str(files),
            device=device,
            compute_type=options.compute_type,
            cpu_threads=options.threads or cores(),
            local_files_only=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise BackendError(f"{card.title} could not be loaded from {files}: {error}") from error
    return FasterWhisper(card, model, options.beam_size)


class FasterWhisper(WhisperRecognizer[WhisperModel]):
    """One loaded Whisper model."""

    def languages(self) -> tuple[str, ...]:
        return self._card.languages or tuple(self._model.supported_languages)

    def decode(self, samples: NDArray[np.float32], request: DecodingRequest) -> Iterator[Segment]:
        segments, _ = self._model.transcribe(
            samples,
            task=request.task,
            language=request.language,
            beam_size=request.beams,
            temperature=request.temperature,
            initial_prompt=request.prompt or None,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
        )
        for found in segments:
            statistics = DecodingStatistics(
                found.avg_logprob,
                found.no_speech_prob,
                found.compression_ratio,
                request.temperature,
                tuple(found.tokens),
                found.seek,
            )
            yield Segment(found.start, found.end, found.text, statistics=statistics)
            if request.stopped():
                return

    def utterance(self, window: Window, manner: TranscribeOptions) -> tuple[Hypothesis, str] | None:
        if window.seconds > LONGEST_S:
            return None
        encoded = EncodedUtterance(self._model, window.samples)
        language = manner.language
        if language is None:
            told = encoded.language_probabilities() if len(self.languages()) > 1 else {}
            language = spoken_language(told, manner.likely, window.speech_s)
        found = encoded.decode(manner.task, language, manner.beams or self._beams)
        if found.is_cut:
            return None
        statistics = DecodingStatistics(
            found.avg_logprob,
            found.no_speech_prob,
            compression_ratio(found.text),
            0.0,
            found.tokens,
            0,
        )
        segment = Segment(0.0, window.seconds, found.text, statistics=statistics)
        return Hypothesis((segment,), window.speech_s), language

    def language_probabilities(self, samples: NDArray[np.float32]) -> Mapping[str, float]:
        if len(self._model.supported_languages) == 1:
            return {}
        if TELLING_S * SAMPLE_RATE <= len(samples) <= LONGEST_S * SAMPLE_RATE:
            return EncodedUtterance(self._model, samples).language_probabilities()
        _, _, found = self._model.detect_language(audio=samples)
        return dict(found)
