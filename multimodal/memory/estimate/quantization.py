"""How many bytes a tensor takes once it is quantized: arithmetic on shapes.

bitsandbytes (0.50, functional.quantize_4bit and nn.Linear8bitLt): 4-bit weights come two to a byte,
with one scale a block of 64 and a code book of 16 values, all fp32. Double quantization keeps the
scales in 8 bits, with one fp32 scale a block of 256 of them, a code book of 256 values and one
offset. 8-bit weights have one fp32 scale a row.

GGUF (ggml-common.h): blocks of 32 or 256 weights in the type's own number of bytes. A "K_M" file
mixes types as llama.cpp's quantize does; a tensor whose rows are no multiple of 256 falls back to
a type with blocks of 32.
"""

from __future__ import annotations

import math
import re
from typing import Final

ELEMENT_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2}
FOUR_BIT: Final = ("nf4", "fp4", "nf4-double", "fp4-double")
EIGHT_BIT: Final = ("int8",)
TORCH: Final = (*FOUR_BIT, *EIGHT_BIT, *ELEMENT_BYTES)
BLOCK, OUTER_BLOCK, CODE = 64, 256, 16
CACHE_BYTES = 2
"""An element of the attention cache: 16 bits on every engine we use."""
GGUF_BLOCKS: Final = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
}
"""Weights in a block, bytes of a block."""
MIXTURES: Final = {"q4_k_m": "q4_k", "q5_k_m": "q5_k", "q4_k_s": "q4_k", "q5_k_s": "q5_k"}
FALLBACK: Final = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
GGUF: Final = (*GGUF_BLOCKS, *MIXTURES)


def torch_bytes(shape: tuple[int, ...], quantization: str, linear: bool) -> int:
    """Bytes of one tensor of a PyTorch model. `linear`: the weight of a layer that is quantized;
    everything else stays in 16 bits, or in 32 where that is the whole model's format."""
    count = math.prod(shape)
    if not linear or quantization in ELEMENT_BYTES:
        return count * ELEMENT_BYTES.get(quantization, 2)
    if quantization in EIGHT_BIT:
        return count + 4 * shape[0]
    packed, blocks = math.ceil(count / 2), math.ceil(count / BLOCK)
    if not quantization.endswith("-double"):
        return packed + 4 * (blocks + CODE)
    return packed + blocks + 4 * (math.ceil(blocks / OUTER_BLOCK) + OUTER_BLOCK + 1 + CODE)


def gguf_bytes(name: str, shape: tuple[int, ...], kind: str, layers: int, tied: bool) -> int:
    """Bytes of one tensor in a GGUF file of that kind. `name` is transformers' own; `tied`: the
    embedding is the output layer too."""
    if len(shape) < 2:
        return 4 * math.prod(shape)
    block, size = GGUF_BLOCKS[_gguf_type(name, shape, kind, layers, tied)]
    return math.prod(shape) // block * size


def _gguf_type(name: str, shape: tuple[int, ...], kind: str, layers: int, tied: bool) -> str:
    base = MIXTURES.get(kind, kind)
    if base in {"f32", "f16", "bf16"}:
        return base
    embedding = "embed" in name or name.endswith("wte.weight")
    if ("lm_head" in name or (embedding and tied)) and base != "q8_0":
        base = "q6_k"
    elif kind.endswith("_k_m") and (found := re.search(r"\.(\d+)\.", name)):
        delicate = name.endswith(("v_proj.weight", "down_proj.weight"))
        if delicate and _more_bits(int(found[1]), layers):
            base = "q6_k"
    whole_blocks = shape[-1] % GGUF_BLOCKS[base][0] == 0
    return base if whole_blocks else FALLBACK.get(base, "f16")


def _more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth, and every third one between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
