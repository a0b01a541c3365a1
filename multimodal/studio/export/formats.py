"""The formats, each with the types that it writes weights in and the module that writes it.

A format more is a row here and a file beside this one, whose class is as `Exporter` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from multimodal.errors import SettingsError
from multimodal.messages import Task
from multimodal.studio.export.plan import SOURCE

if TYPE_CHECKING:
    from multimodal.catalog.cards import ModelCard
    from multimodal.studio.export.opened import OpenedModel
    from multimodal.studio.export.plan import Check
    from multimodal.studio.export.reference import Reference
    from multimodal.studio.export.source import Source

_PACKAGE = __name__.rpartition(".")[0]
BITS: Mapping[str, float] = {
    "f32": 32,
    "f16": 16,
    "bf16": 16,
    "q8_0": 8.5,
    "q5_1": 6,
    "q5_0": 5.5,
    "q4_1": 5,
    "q4_0": 4.5,
}
"""Of a weight. A block of 32 has its scale, and in the types that end with 1 its least value, in 16
bits each (ggml-org/llama.cpp, ggml/src/ggml-common.h)."""
K_QUANTS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq")
FLOATS = ("f32", "f16", "bf16")
GGUF_TYPES = tuple(BITS)
ONNX_TYPES = ("f32", "f16")


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """`path`: what is loaded back, a file or a folder; `quantization`: of its weights."""

    path: Path
    quantization: str


class Exporter(Protocol):
    """One format of text models. Those of picture classifiers and of Whisper have the same methods,
    with what `classifier_source.py` and `speech_source.py` have in place of source, opened model
    and reference."""

    def check(self, source_type: str, config: Any) -> None:
        """Raise JobError, before the weights are read, for a model that this format cannot hold.
        `source_type` is transformers' `model_type`."""

    def write(self, source: Source, quantization: str, folder: Path, name: str) -> WrittenFile:
        """Write the model, called `name`, into `folder`. Raises JobError and OSError."""

    def finish(self, source: Source, card: ModelCard, written: Sequence[WrittenFile]) -> list[str]:
        """Write what goes beside the files; what is to be told of it, in sentences."""

    def open(self, written: WrittenFile) -> OpenedModel:
        """Load it back. Raises BackendError."""

    def more_checks(self, written: WrittenFile, reference: Reference) -> list[Check]:
        """What is compared beside the model itself."""


@dataclass(frozen=True, slots=True)
class Format:
    """`usual`: the quantization unless another is asked for; `exporters`: “module:Class” by what a
    model does; `packages`: those that it needs beside what an export needs anyway; `title` and
    `about` are for people."""

    title: str
    about: str
    quantizations: tuple[str, ...]
    usual: str
    exporters: Mapping[Task, str]
    takes_several: bool = True
    packages: tuple[str, ...] = ()

    def make(self, task: Task = Task.TEXT) -> Exporter:
        module, _, name = self.exporters[task].partition(":")
        made: Callable[[], object] = getattr(import_module(module), name)
        return cast(Exporter, made())


FORMATS: Mapping[str, Format] = {
    "safetensors": Format(
        "Safetensors",
        "a folder for transformers, vLLM and most other programs",
        FLOATS,
        SOURCE,
        {
            Task.TEXT: f"{_PACKAGE}.safetensors_format:SafetensorsExporter",
            Task.IMAGE: f"{_PACKAGE}.classifier_formats:ClassifierExporter",
        },
        takes_several=False,
    ),
    "gguf": Format(
        "GGUF",
        "a file for llama.cpp, LM Studio and this program",
        GGUF_TYPES,
        "q8_0",
        {Task.TEXT: f"{_PACKAGE}.gguf_format:GgufExporter"},
    ),
    "ollama": Format(
        "Ollama",
        "a GGUF file with the Modelfile that `ollama create` reads",
        GGUF_TYPES,
        "q8_0",
        {Task.TEXT: f"{_PACKAGE}.ollama_format:OllamaExporter"},
    ),
    "onnx": Format(
        "ONNX",
        "a folder for ONNX Runtime and this program",
        ONNX_TYPES,
        "f32",
        {
            Task.TEXT: f"{_PACKAGE}.onnx_format:OnnxTextExporter",
            Task.IMAGE: f"{_PACKAGE}.classifier_formats:OnnxClassifierExporter",
            Task.SPEECH: f"{_PACKAGE}.speech_formats:OnnxWhisperExporter",
        },
        takes_several=False,
        packages=("onnx", "onnxscript"),
    ),
}


def find_format(name: str) -> Format:
    """Raises SettingsError with those there are."""
    if name not in FORMATS:
        raise SettingsError(f"There is no format '{name}'. Known: {', '.join(FORMATS)}.")
    return FORMATS[name]


def formats_for(task: Task) -> dict[str, Format]:
    """Those that hold models of that task."""
    return {name: found for name, found in FORMATS.items() if task in found.exporters}


def find_quantizations(name: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Those of the format `name` that were asked for, each once, or its usual one. Raises
    SettingsError for one that it cannot write."""
    found = find_format(name)
    kinds = tuple(dict.fromkeys(kind.lower() for kind in asked)) or (found.usual,)
    for kind in kinds:
        if kind != found.usual and kind not in found.quantizations:
            raise SettingsError(_refusal(name, found, kind))
    if len(kinds) > 1 and not found.takes_several:
        raise SettingsError(
            f"{found.title} holds one type of weights in a folder; export {', '.join(kinds)} one "
            "by one."
        )
    return kinds


def _refusal(name: str, found: Format, kind: str) -> str:
    known = ", ".join(found.quantizations)
    if kind.startswith(K_QUANTS) and "q8_0" in found.quantizations:
        return (
            f"'{kind}' can be read here but not written, as is so of all K-quants and IQ types; "
            f"choose one of {known}, or quantize an exported f16 file with llama.cpp's own tool."
        )
    return f"{found.title} has no quantization '{kind}'. Known: {known}."
