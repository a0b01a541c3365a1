"""The two graphs of a Whisper model, and what goes from one into the other.

Names are those of Optimum and Transformers.js. The encoder reads `input_features` and gives the
keys and values that each layer of the decoder looks at, `present.N.encoder.key` and `.value`: they
are computed once for a window of 30 s. The decoder reads `input_ids`, its own
`past_key_values.N.decoder.key` and `.value`, of any length, none included, and those of the
encoder as `past_key_values.N.encoder.key` and `.value`, and gives `logits` and
`present.N.decoder.key` and `.value`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, OrtValue

from multimodal.backends.onnx.decoder import (
    LOGITS,
    PAST,
    PRESENT,
    TOKENS,
    TYPES,
    KeyValues,
    cache_names,
)
from multimodal.backends.onnx.layout import ENCODER
from multimodal.backends.onnx.session import open_session
from multimodal.errors import BackendError

FEATURES = "input_features"
OWN, CROSS = "decoder", "encoder"
"""Whose keys and values they are: of the words so far, of the sound."""


class WhisperGraphs:
    """Whisper in ONNX Runtime. It keeps nothing of a recording itself."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Raises BackendError for graphs that have other inputs."""
        self._encoder: InferenceSession = open_session(folder, threads, ENCODER)
        self._decoder: InferenceSession = open_session(folder, threads)
        inputs = {one.name: one for one in self._decoder.get_inputs()}
        layers = sum(name.startswith(PAST) for name in inputs) // 4
        self._past = cache_names(PAST, layers, OWN)
        self._cross = cache_names(PAST, layers, CROSS)
        self._made = cache_names(PRESENT, layers, CROSS)
        self._outputs = [LOGITS, *cache_names(PRESENT, layers, OWN)]
        sound, *others = self._encoder.get_inputs()
        known = {one.name for one in (*self._encoder.get_outputs(), *self._decoder.get_outputs())}
        is_whole = {TOKENS, *self._past, *self._cross} == set(inputs) and layers > 0
        is_encoder = sound.name == FEATURES and not others
        if not is_whole or not is_encoder or not {*self._made, *self._outputs} <= known:
            raise BackendError(
                f"The graphs in {folder} are no Whisper model whose decoder reads what the encoder "
                "gives. Export it by multimodal export --to onnx."
            )
        self.mels: int = sound.shape[1]
        """Bands of the spectrum that the encoder reads."""
        self._dtype = TYPES[sound.type]
        heads, dimensions = inputs[self._past[0]].shape[1], inputs[self._past[0]].shape[3]
        self._empty = np.zeros((1, heads, 0, dimensions), TYPES[inputs[self._past[0]].type])

    def encode(self, features: NDArray[np.float32]) -> tuple[OrtValue, ...]:
        """Keys and values of every layer, of `features` (mels, frames) of a window of 30 s, each of
        shape (1, heads, positions, dimensions)."""
        given = OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(features[None].astype(self._dtype, copy=False))
        )
        return tuple(self._encoder.run_with_ort_values(self._made, {FEATURES: given}))

    def empty(self) -> KeyValues:
        return KeyValues(0, (OrtValue.ortvalue_from_numpy(self._empty),) * len(self._past))

    def read(
        self, tokens: Sequence[int], past: KeyValues, sound: Sequence[OrtValue]
    ) -> tuple[NDArray[np.float32], KeyValues]:
        """The logits behind each of `tokens`, which follow `past`, of shape (tokens, vocabulary),
        and keys and values of both. `sound`: what `encode` gave."""
        feeds: dict[str, Any] = {
            TOKENS: OrtValue.ortvalue_from_numpy(np.array([tokens], np.int64)),
            **dict(zip(self._past, past.tensors, strict=True)),
            **dict(zip(self._cross, sound, strict=True)),
        }
        logits, *present = self._decoder.run_with_ort_values(self._outputs, feeds)
        found = KeyValues(past.tokens + len(tokens), tuple(present))
        return logits.numpy()[0].astype(np.float32, copy=False), found
