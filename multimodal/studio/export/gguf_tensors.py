"""The weights of a model of transformers as GGUF has them: names, order of rows, types.

What the published converter changes (ggml-org/llama.cpp, convert_hf_to_gguf.py) is changed here:
rows of queries and keys of “llama” (see `backends/llama_cpp/gguf_lora.py`), Gemma's norms, whose
weights transformers keeps less 1, and GPT-2's linear layers, which it keeps transposed. Vectors and
positions stay in 32 bits; a matrix whose rows are no whole number of blocks is written in 16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFWriter,
    get_tensor_name_map,
    quant_shape_to_byte_shape,
)
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize
from numpy.typing import NDArray

from multimodal.backends.llama_cpp.gguf_lora import ROTATED_IN_PAIRS
from multimodal.errors import JobError
from multimodal.studio.export.source import Source

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gpt2": "gpt2",
}
"""What GGUF calls a model_type of transformers."""
NORMS_LESS_ONE = frozenset({"gemma", "gemma2"})
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""Of GPT-2."""
WIDE = ("token_embd.weight", "output.weight")
"""Quantized to no less than eight bits, much as llama.cpp's own tool does: an error there
touches every token."""
KEPT_AS_F32 = ("position_embd.weight",)
FOUR_OR_FIVE_BITS = frozenset({"q4_0", "q4_1", "q5_0", "q5_1"})
FROM_THE_BASE = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Factors of the rotary embedding, which transformers computes from its configuration."""

FLOAT_TYPES = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
"""What the writer takes as numbers; the others as bytes."""

Matrix = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """`shape`: rows first."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    values: Any


def find_architecture(model_type: str) -> str:
    """What GGUF calls it. Raises JobError for one whose layout is not known here."""
    if model_type not in ARCHITECTURES:
        raise JobError(
            f"A model of the kind '{model_type}' cannot be written as GGUF here. Known: "
            f"{', '.join(sorted(ARCHITECTURES))}. Export it as safetensors instead."
        )
    return ARCHITECTURES[model_type]


def write_tensors(writer: GGUFWriter, source: Source, quantization: str) -> None:
    """Write the header of `writer` with all tensors, then one after the other, so that one at a
    time is in memory beside the model. Raises JobError for a weight that GGUF has no name for, and
    OSError."""
    tensors = list(_tensors(source, GGMLQuantizationType[quantization.upper()]))
    for tensor in tensors:
        _announce(writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(_data(source, tensor))


def _announce(writer: GGUFWriter, tensor: _Tensor) -> None:
    packed = quant_shape_to_byte_shape(tensor.shape, tensor.kind)
    dtype: np.dtype[Any] = np.dtype(FLOAT_TYPES.get(tensor.kind, np.uint8))
    shape = tensor.shape if tensor.kind in FLOAT_TYPES else packed
    writer.add_tensor_info(tensor.name, shape, dtype, math.prod(packed), tensor.kind)


def _data(source: Source, tensor: _Tensor) -> Matrix:
    values = tensor.values
    if isinstance(values, torch.Tensor):
        values = _laid_out(source, tensor.name, values.detach().float())
    return quantize(np.ascontiguousarray(values, np.float32), tensor.kind)


def _tensors(source: Source, kind: GGMLQuantizationType) -> Iterator[_Tensor]:
    architecture = find_architecture(source.config.model_type)
    which = next(it for it, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(which, source.config.num_hidden_layers)
    for theirs, values in source.model.state_dict().items():
        if source.is_tied and theirs == "lm_head.weight":
            continue
        name = names.get_name(theirs, (".weight", ".bias"))
        if name is None:
            raise JobError(f"The weight {theirs} has no place in a GGUF model of '{architecture}'.")
        shape = tuple(values.shape)
        if architecture == "gpt2" and theirs.endswith(TRANSPOSED):
            shape, values = shape[::-1], values.T
        yield _Tensor(name, shape, _kind_of(name, shape, kind), values)
    yield from _rotary_factors(source)


def _kind_of(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1 or name in KEPT_AS_F32:
        return GGMLQuantizationType.F32
    if name in WIDE and kind.name.lower() in FOUR_OR_FIVE_BITS:
        kind = GGMLQuantizationType.Q8_0
    whole = shape[-1] % GGML_QUANT_SIZES[kind][0] == 0
    return kind if whole else GGMLQuantizationType.F16


def _laid_out(source: Source, name: str, values: torch.Tensor) -> Matrix:
    """As llama.cpp computes with it; `name` is GGUF's."""
    architecture = find_architecture(source.config.model_type)
    if architecture in NORMS_LESS_ONE and name.endswith("norm.weight"):
        return (values + 1).numpy()
    if architecture in ROTATED_IN_PAIRS:
        heads = {
            "attn_q": source.config.num_attention_heads,
            "attn_k": source.config.num_key_value_heads,
        }.get(name.split(".")[-2])
        if heads is not None:
            return in_pairs(values, heads).numpy()
    return values.numpy()


def in_pairs(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (or entries, of a bias) of queries or keys in the order of llama.cpp's rotary embedding:
    what is rotated together stands side by side."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return halves.transpose(1, 2).reshape(values.shape)


def _rotary_factors(source: Source) -> Iterator[_Tensor]:
    """Those of the base file, or of Llama 3's scaling (transformers,
    modeling_rope_utils.py: “llama3”)."""
    if source.gguf is not None:
        for tensor in GGUFReader(source.gguf).tensors:
            if tensor.name in FROM_THE_BASE:
                values = np.array(tensor.data, np.float32)
                yield _Tensor(tensor.name, values.shape, GGMLQuantizationType.F32, values)
        return
    rope = getattr(source.config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return
    values = _llama3_factors(rope, source.config)
    yield _Tensor("rope_freqs.weight", values.shape, GGMLQuantizationType.F32, values)


def _llama3_factors(rope: dict[str, Any], config: Any) -> Matrix:
    """By what each frequency is divided: nothing of short waves, `factor` of long ones, and in
    between what lies between."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    waves = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head, 2) / head)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    smooth = np.clip((context / waves - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / rope["factor"] + smooth), np.float32)
