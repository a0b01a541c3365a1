"""Piper: VITS voices of one speaker, exported to ONNX (https://github.com/OHF-Voice/piper1-gpl).

Beside the model lies `<model>.onnx.json`: the sample rate, the number of each phoneme, how much
chance is in the sound (`noise_scale`), in the rhythm (`noise_w`), and the usual length of phonemes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from multimodal.backends.base import Backend
from multimodal.backends.speech.synthesizer import Synthesizer, infer, open_session
from multimodal.backends.worker import Stopped
from multimodal.catalog.cards import ModelCard, Voice
from multimodal.errors import BackendError

BEGIN, END, BETWEEN = "^", "$", "_"
"""Phonemes that open and close a sentence, and stand between any two."""


class _Audio(BaseModel):
    sample_rate: PositiveInt


class _Inference(BaseModel):
    noise_scale: float = 0.667
    length_scale: float = 1.0
    noise_w: float = 0.8


class PiperConfig(BaseModel):
    """What is read of the file beside the model."""

    audio: _Audio
    inference: _Inference = _Inference()
    phoneme_id_map: Mapping[str, tuple[int, ...]] = Field(min_length=3)


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the `.onnx` of the folder `files` and the configuration beside it."""
    models = sorted(files.glob("*.onnx"))
    if not models:
        raise BackendError(f"{card.title}: there is no .onnx file in {files}")
    config = models[0].with_name(f"{models[0].name}.json")
    try:
        facts = PiperConfig.model_validate(json.loads(config.read_text("utf-8")))
    except OSError as error:
        raise BackendError(
            f"{card.title}: {config.name} cannot be read: {error.strerror}"
        ) from error
    except (ValueError, ValidationError) as error:
        raise BackendError(f"{card.title}: {config.name} is not Piper's: {error}") from error
    return Piper(card, open_session(models[0]), facts)


class Piper(Synthesizer):
    def __init__(
        self, card: ModelCard, session: onnxruntime.InferenceSession, config: PiperConfig
    ) -> None:
        super().__init__(card, session)
        self._config = config
        self.sample_rate = config.audio.sample_rate

    def synthesize(
        self, phonemes: str, language: str, voice: Voice, speed: float, stopped: Stopped
    ) -> NDArray[np.float32] | None:
        chance = self._config.inference
        numbers = self.phoneme_ids(phonemes)
        inputs: dict[str, NDArray[Any]] = {
            "input": np.array([numbers], np.int64),
            "input_lengths": np.array([len(numbers)], np.int64),
            "scales": np.array(
                [chance.noise_scale, chance.length_scale / speed, chance.noise_w], np.float32
            ),
        }
        return infer(self._model, inputs, stopped)

    def phoneme_ids(self, phonemes: str) -> list[int]:
        """The input of the model; what it has no number for is left out."""
        known = self._config.phoneme_id_map
        between = known[BETWEEN]
        found = [*known[BEGIN], *between]
        for phoneme in phonemes:
            if phoneme in known:
                found += [*known[phoneme], *between]
        return [*found, *known[END]]
