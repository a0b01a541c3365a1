"""Whisper on CTranslate2, through faster-whisper; how it hears is in `whisper_decoding.py`.

The folder holds model.bin, config.json, tokenizer.json and vocabulary.json; nothing is asked of a
model hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from ctranslate2 import StorageView
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from numpy.typing import NDArray

from multimodal.backends.base import Backend, cores
from multimodal.backends.engine_options import parse_options
from multimodal.backends.speech.options import FasterWhisperOptions
from multimodal.backends.speech.recognizer import TranscribeOptions
from multimodal.backends.speech.voice_activity import Window
from multimodal.backends.speech.whisper_decoding import (
    Hypothesis,
    WhisperRecognizer,
    compression_ratio,
    spoken_language,
)
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import DecodingStatistics, Segment
from multimodal.media.audio import SAMPLE_RATE

SILENCE_S = 5.0
"""Behind the utterance, at least. Of 160 sentences one was written twice with 3 s, three with 4 s,
none with 5 s or more."""
SHORTEST_S = 10.0
"""Of an utterance with the silence behind it."""
LONGEST_S = 20.0
"""Of an utterance; a longer one gains little."""
TOKENS, TOKENS_PER_S = 24, 20
"""That an utterance may have, whatever its length and by its length. Slow-spoken Japanese has some
ten a second; who reaches the bound is caught in a loop."""


class EncodedUtterance:
    """What the encoder made of one utterance without filling it up to thirty seconds. `samples`:
    float32, mono, 16 kHz, shape (samples,), at most `LONGEST_S` long.

    Whisper's authors fill every recording up to 30 s, and most of the time that a short one takes
    goes into the silence behind it. The encoder of CTranslate2 takes less than that. With too
    little silence the decoder writes the sentence again and again, so some of it is left
    (`benchmarks.utterances` has the words and the time).
    """

    def __init__(self, model: WhisperModel, samples: NDArray[np.float32]) -> None:
        self._model = model
        self._seconds = len(samples) / SAMPLE_RATE
        seconds = max(SHORTEST_S, self._seconds + SILENCE_S)
        frames = int(seconds * model.frames_per_second) // 2 * 2  # the encoder halves them
        spectrum = model.feature_extractor(samples)[:, :frames]
        spectrum = np.pad(spectrum, ((0, 0), (0, frames - spectrum.shape[1])))
        self._encoded: StorageView = model.encode(np.ascontiguousarray(spectrum))

    def language_probabilities(self) -> Mapping[str, float]:
        """How probable each language (ISO 639) is."""
        (found,) = self._model.model.detect_language(self._encoded)
        return {token.strip("<|>"): float(probability) for token, probability in found}

    def decode(self, task: str, language: str, beams: int) -> Segment | None:
        """The words, in the likeliest of `beams` guesses; None where it had more tokens than
        anybody says. `task` is transcribe or translate."""
        model = self._model
        tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task, language)
        most = TOKENS + int(TOKENS_PER_S * self._seconds)
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        (result,) = model.model.generate(
            self._encoded,
            [prompt],
            beam_size=beams,
            max_length=len(prompt) + most,
            return_scores=True,
            return_no_speech_prob=True,
        )
        tokens = tuple(result.sequences_ids[0])
        if len(tokens) >= most:
            return None
        mean = result.scores[0] * len(tokens) / (len(tokens) + 1)  # the end counts as one
        text = tokenizer.decode(list(tokens)).strip()
        told = mean, result.no_speech_prob, compression_ratio(text), 0.0, tokens, 0
        return Segment(0.0, self._seconds, text, statistics=DecodingStatistics(*told))


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
    def languages(self) -> tuple[str, ...]:
        return self._card.languages or tuple(self._model.supported_languages)

    def decode(self, samples: NDArray[np.float32], manner: TranscribeOptions) -> Iterator[Segment]:
        segments, _ = self._model.transcribe(
            samples,
            task=manner.task,
            language=manner.language,
            beam_size=manner.beams,
            temperature=manner.temperature,
            initial_prompt=manner.prompt or None,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
        )
        for found in segments:
            sure = found.avg_logprob, found.no_speech_prob, found.compression_ratio
            told = DecodingStatistics(*sure, manner.temperature, tuple(found.tokens), found.seek)
            yield Segment(found.start, found.end, found.text, statistics=told)
            if manner.stopped():
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
        return None if found is None else (Hypothesis((found,), window.speech_s), language)

    def language_probabilities(self, samples: NDArray[np.float32]) -> Mapping[str, float]:
        if len(self._model.supported_languages) == 1:
            return {}
        if TELLING_S * SAMPLE_RATE <= len(samples) <= LONGEST_S * SAMPLE_RATE:
            return EncodedUtterance(self._model, samples).language_probabilities()
        _, _, found = self._model.detect_language(audio=samples)
        return dict(found)
