"""A PEFT adapter as llama.cpp reads one: a GGUF file of the type “adapter”.

Its header has `general.type` = adapter, `general.architecture` of the model it belongs to,
`adapter.type` = lora and `adapter.lora.alpha`; for each tensor W of the model that it changes there
are W.lora_a of shape (rank, inputs) and W.lora_b of shape (outputs, rank), rows first, and
llama.cpp computes W x + alpha / rank B A x (ggml-org/llama.cpp, src/llama-adapter.cpp).

Names follow from the package gguf's own table. Where the published converter lays out the rows of
a weight anew, B A has to be laid out alike, which is a matter of B's rows alone. It does so for
queries and keys of the architecture “llama” (Llama, Mistral, SmolLM2): transformers rotates the
first half of a head's values against the second, llama.cpp neighbours, so row i of a half h of a
head goes to row 2 i + h of that head (`LlamaModel.permute` in convert_hf_to_gguf.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFReader, GGUFWriter, Keys, get_tensor_name_map
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors import deserialize

from multimodal.backends.adapters import adapter_digest, check_adapter, mismatch, split_name
from multimodal.catalog.cards import ADAPTER_WEIGHTS, ModelCard
from multimodal.errors import BackendError

Matrix = NDArray[np.float32]

ROTATED_IN_PAIRS = frozenset({"llama"})
"""Architectures whose queries and keys the converter lays out anew."""
AS_THEY_ARE = frozenset({"gemma", "gemma2", "phi3", "qwen2", "qwen3"})
"""Those whose linear layers it only renames."""
KEPT = "llama-cpp-"
"""How the names of adapters begin that were made from the one in the same folder."""
PARTS = re.compile(r"-\d+(-of-\d+\.gguf)$", re.IGNORECASE)
"""What the numbered files of a split model differ in."""


@dataclass(frozen=True, slots=True)
class _Base:
    """`shapes` of its tensors, rows first, by their names in GGUF; `heads` and `kv_heads` in each
    layer."""

    file: str
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    shapes: Mapping[str, tuple[int, ...]]


def gguf_lora(card: ModelCard, language: Path) -> Path:
    """The adapter of `card` for the model in the file `language`. It is made once and kept beside
    the adapter, since reading the header of a large vocabulary takes seconds.

    Raises what `write_gguf_lora` raises, and BackendError where it cannot be written.
    """
    folder, _ = check_adapter(card)
    try:
        state = language.stat()
        told = f"{adapter_digest(folder)} {language} {state.st_size} {state.st_mtime_ns}"
        target = folder / f"{KEPT}{hashlib.sha256(told.encode()).hexdigest()[:16]}.gguf"
        if not target.is_file():
            with TemporaryDirectory(dir=folder) as fresh:
                write_gguf_lora(card, language, Path(fresh) / target.name)
                for older in folder.glob(f"{KEPT}*.gguf"):
                    older.unlink()
                (Path(fresh) / target.name).replace(target)
    except OSError as error:
        raise BackendError(
            f"{card.title} cannot be used: its adapter could not be written for llama.cpp into "
            f"{folder} ({error.strerror or error})."
        ) from error
    return target


def write_gguf_lora(card: ModelCard, language: Path, target: Path) -> None:
    """Write the adapter of `card`, which belongs to the model in the file `language`, to `target`.

    Raises BackendError where it belongs to another model, or to one of an architecture of which it
    is not known here how its layers are laid out.
    """
    folder, facts = check_adapter(card)
    base = _read_base(card, language)
    if not facts.is_uniform:
        raise BackendError(
            f"{card.title} cannot be used: its layers have ranks or scales of their own, and an "
            "adapter in GGUF has one for all."
        )
    writer = GGUFWriter(target, base.architecture)
    writer.add_type("adapter")
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, facts.scale * facts.rank)
    for name, tensor in _tensors(card, base, facts.rank, folder):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_base(card: ModelCard, language: Path) -> _Base:
    reader = GGUFReader(language)
    architecture = str(_field(reader, Keys.General.ARCHITECTURE))
    if architecture not in ROTATED_IN_PAIRS | AS_THEY_ARE:
        known = ", ".join(sorted(ROTATED_IN_PAIRS | AS_THEY_ARE))
        raise BackendError(
            f"{card.title} cannot be used: {language.name} is of the kind '{architecture}', and "
            f"adapters are made for GGUF models of the kinds {known}. Fine-tune the model from its "
            "original weights instead."
        )
    heads = int(_field(reader, Keys.Attention.HEAD_COUNT.format(arch=architecture)))
    kv_heads = _field(reader, Keys.Attention.HEAD_COUNT_KV.format(arch=architecture))
    return _Base(
        language.name,
        architecture,
        int(_field(reader, Keys.LLM.BLOCK_COUNT.format(arch=architecture))),
        heads,
        heads if kv_heads is None else int(kv_heads),
        {
            tensor.name: tuple(int(size) for size in reversed(tensor.shape))
            for part in _parts(language, reader)
            for tensor in part.tensors
        },
    )


def _parts(language: Path, first: GGUFReader) -> Iterator[GGUFReader]:
    """Readers of all files of a model, which may be split."""
    yield first
    if PARTS.search(language.name):
        for path in sorted(language.parent.glob(PARTS.sub(r"-*\1", language.name))):
            if path != language:
                yield GGUFReader(path)


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _tensors(card: ModelCard, base: _Base, rank: int, folder: Path) -> Iterator[tuple[str, Matrix]]:
    """(name in GGUF, values) of each A and B, checked against the base."""
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == base.architecture)
    names = get_tensor_name_map(kind, base.layers)
    for name, tensor in _read_tensors(folder / ADAPTER_WEIGHTS):
        module, part = split_name(card, name)
        weight = names.get_name(module)
        if weight is None or f"{weight}.weight" not in base.shapes:
            raise mismatch(card, module, base.file, "no such layer", "a linear layer")
        outputs, inputs = base.shapes[f"{weight}.weight"]
        needed = (rank, inputs) if part == "a" else (outputs, rank)
        if tensor.shape != needed:
            shapes = map(str, (needed, tensor.shape))
            raise mismatch(card, f"{module} (lora_{part})", base.file, *shapes)
        if part == "b" and base.architecture in ROTATED_IN_PAIRS:
            tensor = _in_pairs(tensor, base, weight)
        yield f"{weight}.weight.lora_{part}", tensor


def _in_pairs(tensor: Matrix, base: _Base, weight: str) -> Matrix:
    """The rows of B in llama.cpp's order, where `weight` makes queries or keys."""
    heads = {"attn_q": base.heads, "attn_k": base.kv_heads}.get(weight.rpartition(".")[2])
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


def _read_tensors(path: Path) -> Iterator[tuple[str, Matrix]]:
    """By their names, in 32 bits, whichever of the three floating point formats they are kept in.
    In which order safetensors lists them depends on its release."""
    found: list[tuple[str, Any]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    for name, facts in sorted(found, key=itemgetter(0)):
        shape, data = tuple(facts["shape"]), bytes(facts["data"])
        if facts["dtype"] == "BF16":
            values = dequantize(np.frombuffer(data, np.uint8), GGMLQuantizationType.BF16)
        else:
            values = np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[facts["dtype"]])
        yield name, np.ascontiguousarray(values, np.float32).reshape(shape)
