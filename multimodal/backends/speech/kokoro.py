"""Kokoro-82M (https://huggingface.co/hexgrad/Kokoro-82M), exported to ONNX.

A voice is a table of float32, shape (510, 1, 256): which row is its style depends on how many
phonemes are spoken. Voices lie in a `.npz` by name, or each in a `.bin`. The phonemes are the
alphabet of the model's own pronunciation (misaki): diphthongs and affricates are one letter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from multimodal.backends.base import Backend
from multimodal.backends.speech.synthesizer import Synthesizer, infer, open_session
from multimodal.backends.worker import Stopped
from multimodal.catalog.cards import ModelCard, Voice
from multimodal.errors import BackendError

SAMPLE_RATE = 24_000
ROWS, WIDTH = 510, 256
MOST_PHONEMES = 508
"""Of 510 the first and the last are padding."""
ANY_LANGUAGE = (
    ("dʒ", "ʤ"),
    ("tʃ", "ʧ"),
    ("dz", "ʣ"),
    ("ts", "ʦ"),
    ("-", ""),
    ("g", "ɡ"),
)
ENGLISH = (
    ("ɚ", "əɹ"),
    ("oːɹ", "ɔɹ"),
    ("ɜːɹ", "ɜɹ"),
    ("ɜː", "ɜɹ"),
    ("eɪ", "A"),
    ("aɪ", "I"),
    ("aʊ", "W"),
    ("ɔɪ", "Y"),
    ("oʊ", "O"),
    ("əʊ", "Q"),
    ("ɪə", "iə"),
    ("ɐ", "ə"),
    ("r", "ɹ"),
    ("x", "k"),
    ("ː", ""),
    ("o", "ɔ"),
    ("e", "A"),
    ("ɾ", "T"),
    ("əl", "ᵊl"),
)
"""espeak-ng's letters to the model's; what is not named is the same in both."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the first `.onnx` below the folder `files`, the numbers of its phonemes (`vocab.json`
    or `tokenizer.json`), and the card's voices."""
    models = sorted(files.rglob("*.onnx"))
    if not models:
        raise BackendError(f"{card.title}: there is no .onnx file in {files}")
    voices = {voice.name: _table(card, files, voice) for voice in card.voices}
    return Kokoro(card, open_session(models[0]), _vocabulary(card, files), voices)


def _vocabulary(card: ModelCard, files: Path) -> dict[str, int]:
    for name in ("vocab.json", "tokenizer.json"):
        path = files / name
        if path.is_file():
            try:
                facts: Any = json.loads(path.read_text("utf-8"))
                facts = facts.get("vocab") or facts["model"]["vocab"]
                return {str(letter): int(number) for letter, number in facts.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BackendError(f"{card.title}: {name} holds no vocabulary: {error}") from error
    raise BackendError(f"{card.title}: neither vocab.json nor tokenizer.json is in {files}")


def _table(card: ModelCard, files: Path, voice: Voice) -> NDArray[np.float32]:
    """The styles of a voice, shape (510, 256)."""
    path = files / voice.file
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as tables:
                table = np.asarray(tables[voice.name], np.float32)
        else:
            table = np.fromfile(path, np.float32)
        return table.reshape(ROWS, WIDTH)
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(
            f"{card.title}: the voice {voice.title} cannot be read from {voice.file}: {error}"
        ) from error


class Kokoro(Synthesizer):
    """One loaded model with its voices."""

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        card: ModelCard,
        session: onnxruntime.InferenceSession,
        vocabulary: Mapping[str, int],
        voices: Mapping[str, NDArray[np.float32]],
    ) -> None:
        super().__init__(card, session)
        self._vocabulary = vocabulary
        self._voices = voices
        self._tokens = session.get_inputs()[0].name
        """Called `tokens` or `input_ids`, depending on who exported the model."""

    def synthesize(
        self, phonemes: str, language: str, voice: Voice, speed: float, stopped: Stopped
    ) -> NDArray[np.float32] | None:
        numbers = self.phoneme_ids(phonemes, language)
        made: list[NDArray[np.float32]] = []
        for start in range(0, len(numbers), MOST_PHONEMES):
            piece = numbers[start : start + MOST_PHONEMES]
            inputs = {
                self._tokens: np.array([[0, *piece, 0]], np.int64),
                "style": self._voices[voice.name][len(piece) - 1][np.newaxis],
                "speed": np.array([speed], np.float32),
            }
            if (samples := infer(self._model, inputs, stopped)) is None:
                return None
            made.append(samples)
        return np.concatenate(made) if made else np.zeros(0, np.float32)

    def phoneme_ids(self, phonemes: str, language: str) -> list[int]:
        """The input of the model without its padding; what it has no number for is left out."""
        letters = (*ANY_LANGUAGE, *(ENGLISH if language.startswith("en") else ()))
        for theirs, ours in letters:
            phonemes = phonemes.replace(theirs, ours)
        return [self._vocabulary[letter] for letter in phonemes if letter in self._vocabulary]
