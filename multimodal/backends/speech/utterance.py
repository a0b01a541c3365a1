"""One utterance, heard by Whisper on CTranslate2 without filling it up to thirty seconds.

Whisper's authors fill every recording up to 30 s, and most of the time that a short one takes goes
into the silence behind it. The encoder of CTranslate2 takes less than that. With too little silence
the decoder writes the sentence again and again, so some of it is left (`benchmarks.utterances` has
the words and the time).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ctranslate2 import StorageView
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class DecodedUtterance:
    """The words of an utterance, with the mean log-probability of its tokens and how probable it is
    that nobody speaks. `is_cut`: whether it had more tokens than anybody says."""

    text: str
    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    is_cut: bool


class EncodedUtterance:
    """What the encoder made of `samples`: float32, mono, 16 kHz, shape (samples,), at most
    `LONGEST_S` long."""

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

    def decode(self, task: str, language: str, beams: int) -> DecodedUtterance:
        """The words, in the likeliest of `beams` guesses; `task` is transcribe or translate."""
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
        mean = result.scores[0] * len(tokens) / (len(tokens) + 1)  # the end counts as one
        text = tokenizer.decode(list(tokens)).strip()
        return DecodedUtterance(text, tokens, mean, result.no_speech_prob, len(tokens) >= most)
