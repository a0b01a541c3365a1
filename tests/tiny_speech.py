"""Models for speech with the inputs and outputs of the published ones, which hum instead of speak:
each phoneme is a stretch of sound whose level is its number, so that a test can read it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SAMPLES = 240
"""Of each phoneme at the usual speed."""
LEVEL = 1000
"""A phoneme of the number n has the level n / LEVEL."""
VOCABULARY = {
    letter: number
    for number, letter in enumerate(" ,.?!ˈabdefhiklmnoprstuvwzæðŋɑɔəɛɜɡɪɹʃʊʌʒθᵊAIOWYTʤʧ", 1)
}


def save_kokoro(
    folder: Path, voices: tuple[str, ...] = ("one", "two"), tokens: str = "tokens"
) -> None:
    """Kokoro: `tokens` (1, n), `style` (1, 256), `speed` (1,) to sound of n stretches; a voice is
    louder by its place in `voices`, and by the row of its table that was taken."""
    folder.mkdir(parents=True)
    graph = [
        helper.make_node("Cast", [tokens], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["style"], ["loudness"], keepdims=0),
        *_hum("loudness", "speed"),
    ]
    inputs = [
        helper.make_tensor_value_info(tokens, TensorProto.INT64, [1, "length"]),
        helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
        helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
    ]
    _save(folder / "model.onnx", graph, inputs, "audio", ["samples"])
    rows = 1 + np.arange(510, dtype=np.float32) / 1000
    tables = {
        name: np.broadcast_to(rows[:, None, None] * (place + 1), (510, 1, 256)).astype(np.float32)
        for place, name in enumerate(voices)
    }
    np.savez(folder / "voices.npz", **tables)
    for name, table in tables.items():
        table.tofile(folder / f"{name}.bin")
    (folder / "vocab.json").write_text(json.dumps({"vocab": VOCABULARY}), "utf-8")


def save_piper(folder: Path, sample_rate: int = 22_050) -> None:
    """Piper: `input` (1, n), `input_lengths` (1,), `scales` (3,) to sound (1, 1, 1, samples)."""
    folder.mkdir(parents=True)
    graph = [
        helper.make_node("Cast", ["input"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["input_lengths"], ["lengths"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["lengths"], ["counted"], keepdims=0),
        helper.make_node("Div", ["counted", "counted"], ["loudness"]),
        helper.make_node("Slice", ["scales", "at1", "at2"], ["length_scale"]),
        helper.make_node("Reciprocal", ["length_scale"], ["speed"]),
        *_hum("loudness", "speed", "flat"),
        helper.make_node("Reshape", ["flat", "as_piper"], ["output"]),
    ]
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, [1, "phonemes"]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
    ]
    _save(folder / "voice.onnx", graph, inputs, "output", [1, 1, 1, "samples"])
    numbers = {letter: [number + 3] for letter, number in VOCABULARY.items()}
    config = {
        "audio": {"sample_rate": sample_rate},
        "inference": {"noise_scale": 0.5, "length_scale": 1, "noise_w": 0.8},
        "phoneme_id_map": {"_": [0], "^": [1], "$": [2], **numbers},
    }
    (folder / "voice.onnx.json").write_text(json.dumps(config), "utf-8")


def levels(samples: NDArray[np.float32], each: int = SAMPLES) -> list[float]:
    """What each stretch of a sound says, in the numbers of its phonemes."""
    return [round(float(level) * LEVEL, 2) for level in samples[each // 2 :: each]]


def _hum(loudness: str, speed: str, output: str = "audio") -> list[Any]:
    """Nodes that make `output` (samples,) of `numbers` (1, n)."""
    return [
        helper.make_node("Mul", ["numbers", loudness], ["loud"]),
        helper.make_node("Div", ["loud", "level"], ["flatly"]),
        helper.make_node("Transpose", ["flatly"], ["column"], perm=[1, 0]),
        helper.make_node("Tile", ["column", "stretch"], ["stretched"]),
        helper.make_node("Reshape", ["stretched", "line"], ["whole"]),
        helper.make_node("Shape", ["whole"], ["samples_long"]),
        helper.make_node("Cast", ["samples_long"], ["samples_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["samples_float", speed], ["samples_kept"]),
        helper.make_node("Cast", ["samples_kept"], ["kept"], to=TensorProto.INT64),
        helper.make_node("Slice", ["whole", "at0", "kept"], [output]),
    ]


def _save(path: Path, nodes: list[Any], inputs: list[Any], output: str, shape: list[Any]) -> None:
    constants = {
        "level": np.array(LEVEL, np.float32),
        "stretch": np.array([1, SAMPLES], np.int64),
        "line": np.array([-1], np.int64),
        "as_piper": np.array([1, 1, 1, -1], np.int64),
        "at0": np.array([0], np.int64),
        "at1": np.array([1], np.int64),
        "at2": np.array([2], np.int64),
    }
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "hum", inputs, [made], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)
