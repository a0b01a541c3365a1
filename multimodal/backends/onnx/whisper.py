"""Whisper in ONNX, in the folder that `multimodal export --to onnx` writes: two graphs, the
tokenizer, what makes spectra, and generation_config.json with the tokens that are no words.

How it hears is in `speech/whisper_decoding.py`. One guess is followed, whatever number of beams is
asked for, and at a temperature one is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import OrtValue
from transformers import AutoConfig, GenerationConfig, WhisperFeatureExtractor

from multimodal.backends.base import Backend
from multimodal.backends.engine_options import parse_options
from multimodal.backends.onnx.decoder import KeyValues
from multimodal.backends.onnx.options import OnnxOptions
from multimodal.backends.onnx.whisper_graphs import WhisperGraphs
from multimodal.backends.onnx.whisper_tokens import (
    Read,
    WhisperTokens,
    split_segments,
    write_tokens,
)
from multimodal.backends.special_tokens import SpecialTokenEscaper
from multimodal.backends.speech.recognizer import ENGLISH, FRAMES_PER_S, TranscribeOptions
from multimodal.backends.speech.voice_activity import SHORTEST, Window
from multimodal.backends.speech.whisper_decoding import WhisperRecognizer, compression_ratio
from multimodal.backends.tokenizer_files import LOCAL, load_tokenizer
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import DecodingStatistics, Segment
from multimodal.media.audio import SAMPLE_RATE

WINDOW_SAMPLES = 30 * SAMPLE_RATE


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model of the folder `files`; runs on the CPU. Raises BackendError."""
    return OnnxWhisper(card, WhisperFolder(files, parse_options(card, OnnxOptions).threads))


class WhisperFolder:
    """The graphs with what prepares a recording and reads tokens. `most`: tokens that the decoder
    reads and writes of a window, its prompt counted in."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Raises BackendError."""
        self.graphs = WhisperGraphs(folder, threads)
        self.tokenizer: Any = load_tokenizer(folder)
        extractor: Any = WhisperFeatureExtractor
        try:
            self._extractor = extractor.from_pretrained(folder, **LOCAL)
            self.known = WhisperTokens.of(GenerationConfig.from_pretrained(folder, **LOCAL))
            self.most = int(AutoConfig.from_pretrained(folder, **LOCAL).max_target_positions)
        except (OSError, ValueError, AttributeError) as error:
            raise BackendError(
                f"The folder {folder} holds no whole Whisper model: {error}"
            ) from error
        if (mels := self._extractor.feature_size) != self.graphs.mels:
            raise BackendError(
                f"The spectra that preprocessor_config.json of {folder} describes have {mels} "
                f"bands, and the encoder reads {self.graphs.mels}. Export the model again."
            )

    def features(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The spectrum (mels, frames) of `samples`, filled up to 30 s."""
        return log_mel(self._extractor, samples)

    def reader(self, sound: Sequence[OrtValue]) -> Read:
        """Reads tokens about what `graphs.encode` gave."""
        past: KeyValues = self.graphs.empty()

        def read(tokens: Sequence[int]) -> torch.Tensor:
            nonlocal past
            logits, past = self.graphs.read(tokens, past, sound)
            return torch.from_numpy(logits)

        return read


def log_mel(extractor: Any, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The spectrum (mels, frames) that transformers' `extractor` makes, filled up to 30 s: with
    zeros, as openai-whisper and faster-whisper transcribe, and not with the spectrum of silence,
    with which Whisper base misheard a sentence that it hears right otherwise."""
    made = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np")
    found = np.array(made["input_features"][0], np.float32)
    found[:, len(samples) // extractor.hop_length :] = 0
    return found


class _Encoded(NamedTuple):
    """What the encoder made of `samples`, as bytes."""

    samples: bytes
    sound: tuple[OrtValue, ...]


class OnnxWhisper(WhisperRecognizer[WhisperFolder]):
    """A passage is encoded once for its language and every try of its words."""

    def __init__(self, card: ModelCard, folder: WhisperFolder) -> None:
        super().__init__(card, folder)
        self._encoded: _Encoded | None = None
        signs = (token.content for token in folder.tokenizer.added_tokens_decoder.values())
        self._escape = SpecialTokenEscaper(signs)

    def languages(self) -> tuple[str, ...]:
        known = tuple(self._model.known.languages) or (ENGLISH,)
        return tuple(it for it in self._card.languages if it in known) or known

    def segments(self, window: Window, manner: TranscribeOptions) -> Iterator[Segment]:
        try:
            yield from super().segments(window, manner)
        finally:
            self._encoded = None

    def decode(self, samples: NDArray[np.float32], manner: TranscribeOptions) -> Iterator[Segment]:
        known, start, words = self._model.known, 0, self._words(manner.prompt)
        while len(samples) - start >= SHORTEST and not manner.stopped():
            left = samples[start : start + WINDOW_SAMPLES]
            prompt = known.prompt(manner.task, manner.language, words)
            most = min(self._model.most // 2, self._model.most - len(prompt))
            read = self._model.reader(self._encode(left))
            told = write_tokens(read, known, prompt, most, manner.temperature, manner.stopped)
            found, heard_s = split_segments(told.tokens, known.first_time, len(left) / SAMPLE_RATE)
            text = self._text(told.tokens).strip()
            for part in found:
                said = self._text(part.tokens)
                if part.start_s == part.end_s or not said.strip():
                    continue
                sure = told.avg_logprob, told.no_speech, compression_ratio(text)
                drawn = manner.temperature, part.tokens, start * FRAMES_PER_S // SAMPLE_RATE
                begin_s = start / SAMPLE_RATE
                statistics = DecodingStatistics(*sure, *drawn)
                yield Segment(
                    begin_s + part.start_s, begin_s + part.end_s, said, statistics=statistics
                )
            if heard_s <= 0:
                return
            start, words = start + int(heard_s * SAMPLE_RATE), []

    def language_probabilities(self, samples: NDArray[np.float32]) -> Mapping[str, float]:
        known = self._model.known
        if len(known.languages) < 2:
            return {}
        read = self._model.reader(self._encode(samples[:WINDOW_SAMPLES]))
        numbers = list(known.languages.values())
        shares = torch.softmax(read([known.start])[0, numbers], -1).tolist()
        return dict(zip(known.languages, shares, strict=True))

    def _encode(self, samples: NDArray[np.float32]) -> tuple[OrtValue, ...]:
        same = samples.tobytes()
        kept = self._encoded
        if kept is None or kept.samples != same:
            self._encoded = None  # its bytes are free before those of the next are taken
            kept = _Encoded(same, self._model.graphs.encode(self._model.features(samples)))
            self._encoded = kept
        return kept.sound

    def _words(self, prompt: str) -> list[int]:
        """Tokens of words that may occur, the last ones where there are too many."""
        text = self._escape(prompt.strip())
        if not text:
            return []
        tokens = self._model.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        return list(tokens)[-(self._model.most // 2 - 1) :]

    def _text(self, tokens: Sequence[int]) -> str:
        words = [token for token in tokens if token < self._model.known.end]
        found: str = self._model.tokenizer.decode(words)
        return found
