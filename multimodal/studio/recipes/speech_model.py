"""What a recipe asks of a speech recognizer, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model

from multimodal.errors import JobError
from multimodal.studio.data.masks import IGNORED
from multimodal.studio.recipes.results import save_result
from multimodal.studio.settings import JobSettings

Samples = NDArray[np.float32]
"""A recording, mono, 16 kHz, shape (samples,), in [-1, 1]."""
Item = dict[str, Any]
TOKENS, TOKENS_PER_S = 24, 20
"""That a text may have, whatever the length of the recording and by it, as in the chat
(`backends/speech/faster_whisper.py`)."""


class SpeechModel(Protocol):
    """`model`: of transformers, in fp32, which gives a loss for what `collate` makes; PEFT's around
    it once there is an adapter. `processor`: what is saved beside it."""

    model: Any
    processor: Any

    def item(self, samples: Samples, text: str) -> Item:
        """A recording as the model reads it, with its text as it is to be written. Raises DataError
        for a text that the model cannot write."""

    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Of them a batch, padded."""

    def transcribe(self, recordings: Sequence[Samples]) -> list[str]:
        """What is said in each, by the likeliest token at a time."""

    def freeze(self, trains_encoder: bool) -> None:
        """Leave as they are what is never trained and, unless it is, the encoder. Raises JobError
        for a model without a decoder."""

    def adapted_modules(self) -> str:
        """The layers that an adapter stands beside, as a regular expression of their names."""

    def restore(self) -> None:
        """Undo what was changed for the training alone, before the model is saved."""


def choose_weights(speech: SpeechModel, settings: JobSettings) -> None:
    """Leave trainable what `settings.trained_weights` names. Raises JobError."""
    if settings.trained_weights != "adapter":
        speech.model.requires_grad_(True)
        speech.freeze(trains_encoder=settings.trained_weights == "all")
        return
    adapter = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=speech.adapted_modules(),
    )
    speech.model = get_peft_model(speech.model, adapter)


def merge_adapter(speech: SpeechModel) -> None:
    """Of a model with an adapter, one without that writes the same."""
    if hasattr(speech.model, "merge_and_unload"):
        speech.model = speech.model.merge_and_unload()


def bare(model: Any) -> Any:
    """Without PEFT's model around it; the adapter's layers stay where they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def no_decoder(title: str) -> JobError:
    return JobError(
        f"{title} has no decoder of its own; train all weights, or an adapter (--trained-weights)."
    )


# ------------------------------------------------------------ models with a decoder


def written(prompt: Sequence[int], tokens: Sequence[int], end: int) -> Item:
    """What the decoder reads and what it is to write next. The prompt is given, not learned."""
    return {
        "decoder_input_ids": [*prompt, *tokens],
        "labels": [*[IGNORED] * (len(prompt) - 1), *tokens, end],
    }


def pad_written(items: Sequence[Mapping[str, Any]], padding: int) -> dict[str, torch.Tensor]:
    """Both as tensors (samples, tokens)."""
    return {
        "decoder_input_ids": pad([item["decoder_input_ids"] for item in items], padding),
        "labels": pad([item["labels"] for item in items], IGNORED),
    }


def pad(rows: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
    length = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows])


def most_tokens(seconds: float) -> int:
    """What a recording of that length may have, so that none is caught in a loop."""
    return TOKENS + int(TOKENS_PER_S * seconds)


def save_speech(speech: SpeechModel, folder: Path, base: str) -> None:
    """Write the model into `folder` in transformers' layout, whole or not at all."""
    merge_adapter(speech)
    speech.restore()
    save_result(speech.model, speech.processor, folder, base)
