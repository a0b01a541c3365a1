"""Whisper in OpenAI's own format (`.pt`), through openai-whisper on torch.

The checkpoint is read with `weights_only=True`, so nothing in it is run, and never by a name that
would be looked up on the net. How it hears is in `whisper_decoding.py`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from whisper.audio import log_mel_spectrogram, pad_or_trim
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import LANGUAGES

from multimodal.backends.base import Backend
from multimodal.backends.engine_options import parse_options
from multimodal.backends.speech.options import WhisperOptions
from multimodal.backends.speech.recognizer import TranscribeOptions
from multimodal.backends.speech.whisper_decoding import WhisperRecognizer
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.events import DecodingStatistics, Segment

DRAWN = 5
"""Hypotheses at a temperature above 0, of which the likeliest is kept."""


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
    model = (whisper_in_half(model) if device == "cuda" else model).to(torch.device(device))
    return OpenAIWhisper(card, model.eval(), parse_options(card, WhisperOptions).beam_size)


def whisper_in_half(model: Whisper) -> Whisper:
    """A model in fp16, changed in place. What normalises stays in fp32: openai-whisper computes it
    so, with its weights as they are."""
    for module in model.modules():
        if not isinstance(module, nn.LayerNorm):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point() and not tensor.is_sparse:
                    tensor.data = tensor.data.half()
    return model


class OpenAIWhisper(WhisperRecognizer[Whisper]):
    def languages(self) -> tuple[str, ...]:
        known = tuple(LANGUAGES) if self._model.is_multilingual else ("en",)
        return self._card.languages or known

    def decode(self, samples: NDArray[np.float32], manner: TranscribeOptions) -> Iterator[Segment]:
        heard: dict[str, Any] = self._model.transcribe(
            samples,
            task=manner.task,
            language=manner.language,
            fp16=self._dtype == torch.float16,
            beam_size=manner.beams,
            best_of=DRAWN,
            temperature=manner.temperature,
            initial_prompt=manner.prompt or None,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            logprob_threshold=None,
            no_speech_threshold=None,
        )
        for found in heard["segments"]:
            sure = found["avg_logprob"], found["no_speech_prob"], found["compression_ratio"]
            drawn = found["temperature"], tuple(found["tokens"])
            told = DecodingStatistics(*sure, *drawn, found["seek"])
            yield Segment(found["start"], found["end"], found["text"], statistics=told)

    def language_probabilities(self, samples: NDArray[np.float32]) -> Mapping[str, float]:
        if not self._model.is_multilingual:
            return {}
        spectrogram = log_mel_spectrogram(pad_or_trim(samples), self._model.dims.n_mels)
        _, found = self._model.detect_language(spectrogram.to(self._model.device, self._dtype))
        return dict(found)

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self._model.parameters()).dtype
        return dtype
