"""Wav2Vec 2.0 with CTC as it is taught (Baevski et al. 2020): it writes letters, so a text is put
into those that it has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, Wav2Vec2Processor

from multimodal.backends.checkpoints import check_folder
from multimodal.backends.tokenizer_files import LOCAL, check_alphabet, load_tokenizer
from multimodal.catalog.cards import ModelCard
from multimodal.errors import DataError
from multimodal.media.audio import SAMPLE_RATE
from multimodal.studio.data.masks import IGNORED
from multimodal.studio.recipes.speech_model import Item, Samples, bare, no_decoder, pad
from multimodal.studio.recipes.wide_checkpoint import load_wide

UNNEEDED = ("masked_spec_embed",)
"""Hides parts of the sound in training; published checkpoints often lack it."""


def load_ctc(card: ModelCard, files: Path) -> CtcSpeech:
    """Raises BackendError."""
    check_folder(card, files)
    extractor: Any = AutoFeatureExtractor.from_pretrained(files, **LOCAL)  # type: ignore[no-untyped-call]
    tokenizer = load_tokenizer(files)
    # A recording that is too short for its letters would make the loss infinite.
    model = load_wide(AutoModelForCTC, card, files, UNNEEDED, ctc_zero_infinity=True)
    check_alphabet(card, tokenizer, int(model.config.vocab_size))
    return CtcSpeech(card.title, model, extractor, tokenizer)


class CtcSpeech:
    """As `speech_model.SpeechModel` says."""

    def __init__(self, title: str, model: Any, extractor: Any, tokenizer: Any) -> None:
        self.model, self._title = model, title
        self._extractor, self._tokenizer = extractor, tokenizer
        self.processor: Any = Wav2Vec2Processor(extractor, tokenizer)  # type: ignore[no-untyped-call]
        letters = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        self._letters = letters | {" "}
        self._has_capitals = any(letter.isupper() for letter in letters)
        self._has_small = any(letter.islower() for letter in letters)

    def item(self, samples: Samples, text: str) -> Item:
        spelled = self.spell(text)
        if not spelled:
            raise DataError(
                f"“{text[:40]}” has no letter that {self._title} writes; write it in its alphabet, "
                "or leave the recording out."
            )
        made = self._extractor(samples, sampling_rate=SAMPLE_RATE)
        return {
            "input_values": torch.as_tensor(made["input_values"][0]),
            "labels": self._tokenizer(spelled)["input_ids"],
        }

    def spell(self, text: str) -> str:
        """In the model's letters; what it has none for is a space."""
        if not self._has_small:
            text = text.upper()
        elif not self._has_capitals:
            text = text.lower()
        text = text.replace("’", "'")
        return re.sub(r"\s+", " ", "".join(c if c in self._letters else " " for c in text)).strip()

    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """`attention_mask` is made only for checkpoints that were trained with one."""
        made = self._extractor.pad(
            [{"input_values": item["input_values"]} for item in items],
            padding=True,
            return_attention_mask=self._extractor.return_attention_mask,
            return_tensors="pt",
        )
        return {**made, "labels": pad([item["labels"] for item in items], IGNORED)}

    def transcribe(self, recordings: Sequence[Samples]) -> list[str]:
        """One at a time, as in the chat: without a mask, padding would be heard."""
        model, found = bare(self.model), list[str]()
        for samples in recordings:
            encoded = self._extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            inputs = {name: tensor.to(model.device) for name, tensor in encoded.items()}
            letters = model(**inputs).logits[0].argmax(dim=-1)
            found.append(str(self._tokenizer.decode(letters)).strip())
        return found

    def freeze(self, trains_encoder: bool) -> None:
        """The convolutions stay as they were learned from sound alone, as its authors have it."""
        if not trains_encoder:
            raise no_decoder(self._title)
        self.model.freeze_feature_encoder()

    def adapted_modules(self) -> str:
        return r".*\.(q_proj|k_proj|v_proj|out_proj|intermediate_dense|output_dense)"

    def restore(self) -> None:
        """Nothing was changed."""
