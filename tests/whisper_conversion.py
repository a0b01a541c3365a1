"""CTranslate2's Whisper weights turned into an OpenAI checkpoint, for the test of that format.

The binary format (version 6): the model's name, its revision, then named variables with shape,
type and bytes, then aliases. OpenAI's names differ, and CTranslate2 fuses query, key and value.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import torch
import whisper

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
Arrays = dict[str, np.ndarray]


def read_ctranslate2(path: Path) -> Arrays:
    """Every variable of a model.bin by name."""
    data = memoryview(path.read_bytes())
    place = 0

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(form, data, place)
        place += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal place
        length = take("<H")
        value = bytes(data[place : place + length]).rstrip(b"\0").decode()
        place += length
        return value

    version = take("<I")
    assert version >= 5
    text()
    take("<I")
    variables: Arrays = {}
    for _ in range(take("<I")):
        name = text()
        shape = [take("<I") for _ in range(take("<B"))]
        dtype = DTYPES[take("<B")]
        size = take("<I")
        variables[name] = np.frombuffer(data[place : place + size], dtype).reshape(shape)
        place += size
    for _ in range(take("<I")):
        alias, name = text(), text()
        variables[alias] = variables[name]
    return variables


def convert(source: Path, target: Path) -> None:
    """Write `source` (a CTranslate2 Whisper base) as OpenAI's {"dims", "model_state_dict"}."""
    have = read_ctranslate2(source)
    state: dict[str, torch.Tensor] = {}

    def put(name: str, value: np.ndarray) -> None:
        state[name] = torch.from_numpy(np.array(value))

    for conv in ("conv1", "conv2"):
        put(f"encoder.{conv}.weight", have[f"encoder/{conv}/weight"])
        put(f"encoder.{conv}.bias", have[f"encoder/{conv}/bias"])
    put("encoder.positional_embedding", have["encoder/position_encodings/encodings"])
    put("decoder.positional_embedding", have["decoder/position_encodings/encodings"])
    put("decoder.token_embedding.weight", have["decoder/embeddings/weight"])
    for side, norm in (("encoder", "ln_post"), ("decoder", "ln")):
        put(f"{side}.{norm}.weight", have[f"{side}/layer_norm/gamma"])
        put(f"{side}.{norm}.bias", have[f"{side}/layer_norm/beta"])
    numbered = (re.match(r"encoder/layer_(\d+)/", name) for name in have)
    layers = 1 + max(int(found[1]) for found in numbered if found)
    width = state["decoder.token_embedding.weight"].shape[1]
    for side in ("encoder", "decoder"):
        for layer in range(layers):
            _block(have, put, side, layer, width)
    dims = whisper.model.ModelDimensions(
        n_mels=state["encoder.conv1.weight"].shape[1],
        n_audio_ctx=state["encoder.positional_embedding"].shape[0],
        n_audio_state=width,
        n_audio_head=width // 64,
        n_audio_layer=layers,
        n_vocab=state["decoder.token_embedding.weight"].shape[0],
        n_text_ctx=state["decoder.positional_embedding"].shape[0],
        n_text_state=width,
        n_text_head=width // 64,
        n_text_layer=layers,
    )
    torch.save({"dims": vars(dims), "model_state_dict": state}, target)


def _block(have: Arrays, put: object, side: str, layer: int, width: int) -> None:
    ours, theirs = f"{side}.blocks.{layer}", f"{side}/layer_{layer}"
    assert callable(put)

    def norm(to: str, source: str) -> None:
        put(f"{ours}.{to}.weight", have[f"{theirs}/{source}/layer_norm/gamma"])
        put(f"{ours}.{to}.bias", have[f"{theirs}/{source}/layer_norm/beta"])

    def linear(to: str, weight: np.ndarray, bias: np.ndarray, with_bias: bool = True) -> None:
        put(f"{ours}.{to}.weight", weight)
        if with_bias:
            put(f"{ours}.{to}.bias", bias)

    def pair(source: str) -> tuple[np.ndarray, np.ndarray]:
        return have[f"{theirs}/{source}/weight"], have[f"{theirs}/{source}/bias"]

    norm("attn_ln", "self_attention")
    weight, bias = pair("self_attention/linear_0")
    for i, part in enumerate(("query", "key", "value")):
        rows = slice(i * width, (i + 1) * width)
        linear(f"attn.{part}", weight[rows], bias[rows], part != "key")
    linear("attn.out", *pair("self_attention/linear_1"))
    if side == "decoder":
        norm("cross_attn_ln", "attention")
        linear("cross_attn.query", *pair("attention/linear_0"))
        weight, bias = pair("attention/linear_1")
        linear("cross_attn.key", weight[:width], bias[:width], False)
        linear("cross_attn.value", weight[width:], bias[width:])
        linear("cross_attn.out", *pair("attention/linear_2"))
    norm("mlp_ln", "ffn")
    linear("mlp.0", *pair("ffn/linear_0"))
    linear("mlp.2", *pair("ffn/linear_1"))
