"""Wav2Vec 2.0 and its kin with CTC, by AutoModelForCTC: one letter, or none, for every 20 ms.

The likeliest letter is taken each time, without a language model. Such a model knows the one
language of its card and translates nothing. Those that were trained on LibriSpeech know capital
letters only, and none know punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor, AutoModelForCTC

from multimodal.backends.base import Backend
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.speech.recognizer import ENGLISH, SpeechRecognizer, TranscribeOptions
from multimodal.backends.speech.voice_activity import Window
from multimodal.backends.tokenizer_files import LOCAL, check_alphabet, load_tokenizer
from multimodal.catalog.cards import ModelCard
from multimodal.events import Segment
from multimodal.media.audio import SAMPLE_RATE

PAUSE_S = 0.5
LONGEST_S = 8.0
"""Where words are cut into segments: at a pause, and before a segment gets too long to read."""

Word = tuple[float, float, str]
"""Start and end in seconds, and what is said."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model, the feature extractor and the letters of the folder `files`."""
    check_folder(card, files)
    extractor: Any = AutoFeatureExtractor.from_pretrained(files, **LOCAL)  # type: ignore[no-untyped-call]
    tokenizer = load_tokenizer(files)
    # It hides parts of the sound in training; published checkpoints often lack it.
    model = from_folder(AutoModelForCTC, card, files, device, unneeded=("masked_spec_embed",))
    check_alphabet(card, tokenizer, int(model.config.vocab_size))
    return Wav2Vec2(card, model, extractor, tokenizer)


class Wav2Vec2(SpeechRecognizer[Any]):
    def __init__(self, card: ModelCard, model: Any, extractor: Any, tokenizer: Any) -> None:
        known = card.languages
        super().__init__(card, model, language=known[0] if len(known) == 1 else None)
        self._extractor = extractor
        self._tokenizer = tokenizer
        special = set(tokenizer.all_special_tokens)
        letters = set(tokenizer.get_vocab()) - special
        self._capitals_only = not any(letter.islower() for letter in letters)

    def translates(self, into: str) -> bool:
        return False

    def restore_spelling(self, text: str) -> str:
        return text[:1].upper() + text[1:] if self._capitals_only else text

    def segments(self, window: Window, manner: TranscribeOptions) -> Iterator[Segment]:
        for said in _grouped(self._spoken(window.samples)):
            text = " ".join(word for _, _, word in said)
            if self._capitals_only:
                text = text.lower()
                if (manner.language or self._default) == ENGLISH:
                    text = re.sub(r"\bi\b", "I", text)
            yield window.segment(said[0][0], said[-1][1], text)

    def _spoken(self, samples: NDArray[np.float32]) -> list[Word]:
        decoded = self._tokenizer.decode(self._letters(samples), output_word_offsets=True)
        frame_s = float(self._model.config.inputs_to_logits_ratio) / SAMPLE_RATE
        return [
            (word["start_offset"] * frame_s, word["end_offset"] * frame_s, word["word"])
            for word in decoded.word_offsets
        ]

    @torch.inference_mode()
    def _letters(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """The likeliest letter of each frame."""
        model = self._model
        encoded = self._extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        inputs = {name: tensor.to(model.device) for name, tensor in encoded.items()}
        inputs["input_values"] = inputs["input_values"].to(model.dtype)
        letters: torch.Tensor = model(**inputs).logits[0].argmax(dim=-1).cpu()
        return letters


def _grouped(words: list[Word]) -> Iterator[list[Word]]:
    """Words between two pauses, or as many as are read at once."""
    group: list[Word] = []
    for word in words:
        start, end, _ = word
        if group and (start - group[-1][1] > PAUSE_S or end - group[0][0] > LONGEST_S):
            yield group
            group = []
        group.append(word)
    if group:
        yield group
