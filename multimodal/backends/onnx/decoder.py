"""The graph of a text model, and the attention cache that goes through it.

Its inputs and outputs are called as in the folders of Optimum and Transformers.js:
`input_ids`, `attention_mask`, `position_ids` and `past_key_values.N.key` go in, `logits` and
`present.N.key` come out, N counting the layers, with `.value` beside each `.key`. One graph reads
prompts and writes replies: the past may be of any length, none included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, OrtValue

from multimodal.backends.onnx.session import open_session
from multimodal.errors import BackendError

TOKENS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
PAST, PRESENT = "past_key_values", "present"
TYPES: Mapping[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def cache_names(prefix: str, layers: int, side: str = "") -> list[str]:
    """Of keys and values, layer by layer, in the order of the graph. `side`: whose they are, where
    a layer has those of several."""
    ends = [f"{side}.{part}".lstrip(".") for part in ("key", "value")]
    return [f"{prefix}.{at}.{end}" for at in range(layers) for end in ends]


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of `tokens` tokens, each of shape (1, heads, tokens, dimensions), in the
    order of `cache_names`."""

    tokens: int
    tensors: tuple[OrtValue, ...]

    def arrays(self) -> list[NDArray[Any]]:
        return [tensor.numpy() for tensor in self.tensors]


class Decoder:
    """A text model in ONNX Runtime. It keeps nothing of a conversation itself."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Raises BackendError for a graph that has other inputs."""
        self._session: InferenceSession = open_session(folder, threads)
        inputs = {one.name: one for one in self._session.get_inputs()}
        self._past = [name for name in inputs if name.startswith(PAST)]
        self._outputs = [LOGITS, *cache_names(PRESENT, len(self._past) // 2)]
        known = {one.name for one in self._session.get_outputs()}
        if not {TOKENS, MASK, POSITIONS} <= set(inputs) or not set(self._outputs) <= known:
            raise BackendError(
                f"The graph in {folder} is no text model with an attention cache: its inputs are "
                f"{', '.join(list(inputs)[:4])} ... Export it by multimodal export --to onnx."
            )
        self._past = cache_names(PAST, len(self._past) // 2)
        shapes = [(inputs[name].shape, TYPES[inputs[name].type]) for name in self._past]
        self._empty = [np.zeros((1, shape[1], 0, shape[3]), dtype=dtype) for shape, dtype in shapes]

    def empty(self) -> KeyValues:
        return KeyValues(0, tuple(map(OrtValue.ortvalue_from_numpy, self._empty)))

    def restore(self, arrays: Sequence[NDArray[Any]]) -> KeyValues:
        """What `KeyValues.arrays` gave, or the beginning of it."""
        held = tuple(OrtValue.ortvalue_from_numpy(np.ascontiguousarray(it)) for it in arrays)
        return KeyValues(arrays[0].shape[2], held)

    def read(self, tokens: Sequence[int], past: KeyValues) -> tuple[NDArray[np.float32], KeyValues]:
        """The logits behind each of `tokens`, which follow `past`, of shape (tokens, vocabulary),
        and keys and values of both."""
        end = past.tokens + len(tokens)
        given = {
            TOKENS: np.array([tokens], np.int64),
            MASK: np.ones((1, end), np.int64),
            POSITIONS: np.arange(past.tokens, end, dtype=np.int64)[None],
        }
        feeds = {name: OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
        feeds |= dict(zip(self._past, past.tensors, strict=True))
        logits, *present = self._session.run_with_ort_values(self._outputs, feeds)
        return logits.numpy()[0].astype(np.float32, copy=False), KeyValues(end, tuple(present))
