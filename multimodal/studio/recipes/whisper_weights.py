"""Whisper's weights in the formats of its engines, under the names of transformers.

CTranslate2's model.bin (its version 6, as `ctranslate2.specs.model_spec` of OpenNMT/CTranslate2
writes it): the version, the name and the revision of the model, then variables with name, shape,
type and bytes, then aliases. Numbers are little-endian; query, key and value are one matrix.
OpenAI's checkpoints (openai/whisper, `whisper/model.py`) have dimensions and a state dictionary.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from multimodal.errors import BackendError

VERSIONS = (5, 6)
DTYPES = {
    0: torch.float32,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
    5: torch.bfloat16,
}
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class WhisperWeights:
    """`config`: what transformers calls the dimensions. `state`: by transformers' names, fp32."""

    config: Mapping[str, Any]
    state: dict[str, torch.Tensor]


def read_ctranslate2(path: Path) -> WhisperWeights:
    """Raises BackendError for what is no Whisper model in 16 or 32 bits."""
    try:
        found = _variables(path)
        return WhisperWeights(_dimensions(found), dict(_from_ctranslate2(found)))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BackendError(
            f"{path.name} is no Whisper model of CTranslate2 in 16 or 32 bits, or is damaged "
            f"({error}). Fetch it again, or convert it with --quantization float16."
        ) from error


def read_openai(path: Path) -> WhisperWeights:
    """Nothing in the file is run. Raises BackendError."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        dims, state = checkpoint["dims"], checkpoint["model_state_dict"]
        renamed = {_from_openai(name): value.float() for name, value in state.items()}
        config = {
            "num_mel_bins": dims["n_mels"],
            "max_source_positions": dims["n_audio_ctx"],
            "max_target_positions": dims["n_text_ctx"],
            "vocab_size": dims["n_vocab"],
            "d_model": dims["n_audio_state"],
            "encoder_layers": dims["n_audio_layer"],
            "decoder_layers": dims["n_text_layer"],
            "encoder_attention_heads": dims["n_audio_head"],
            "decoder_attention_heads": dims["n_text_head"],
        }
    except (KeyError, TypeError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise BackendError(
            f"{path.name} is not a Whisper checkpoint in OpenAI's format ({error})."
        ) from error
    return WhisperWeights(config | _feed_forward(config["d_model"]), renamed)


def _feed_forward(width: int) -> dict[str, int]:
    return {"encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width}


# ------------------------------------------------------------ CTranslate2


def _variables(path: Path) -> dict[str, torch.Tensor]:
    """Raises ValueError and OSError."""
    with path.open("rb") as file:
        if (version := _number(file, 4)) not in VERSIONS:
            raise ValueError(f"version {version} of the format is not known")
        if (name := _text(file)) != "WhisperSpec":
            raise ValueError(f"it is a {name[:40]!r}")
        _number(file, 4)
        found = dict(_variable(file) for _ in range(_number(file, 4)))
        for _ in range(_number(file, 4)):
            alias, name = _text(file), _text(file)
            found[alias] = found[name]
    return found


def _variable(file: BinaryIO) -> tuple[str, torch.Tensor]:
    name = _text(file)
    shape = [_number(file, 4) for _ in range(_number(file, 1))]
    kind = DTYPES.get(_number(file, 1))
    size = _number(file, 4)
    if kind is None or size != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{name[:80]!r} has another size than its shape")
    return name, torch.frombuffer(bytearray(_bytes(file, size)), dtype=kind).reshape(shape)


def _number(file: BinaryIO, size: int) -> int:
    return int.from_bytes(_bytes(file, size), "little")


def _text(file: BinaryIO) -> str:
    return _bytes(file, _number(file, 2)).rstrip(b"\0").decode()


def _bytes(file: BinaryIO, size: int) -> bytes:
    read = file.read(size)
    if len(read) < size:
        raise ValueError("it ends too early")
    return read


def _dimensions(found: Tensors) -> dict[str, Any]:
    vocabulary, width = found["decoder/embeddings/weight"].shape
    config = {
        "num_mel_bins": found["encoder/conv1/weight"].shape[1],
        "max_source_positions": len(found["encoder/position_encodings/encodings"]),
        "max_target_positions": len(found["decoder/position_encodings/encodings"]),
        "vocab_size": vocabulary,
        "d_model": width,
    }
    for side in ("encoder", "decoder"):
        numbers = [re.match(rf"{side}/layer_(\d+)/", name) for name in found]
        config[f"{side}_layers"] = 1 + max(int(one[1]) for one in numbers if one)
        config[f"{side}_attention_heads"] = int(found[f"{side}/num_heads"])
    return config | _feed_forward(width)


def _from_ctranslate2(found: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in found.items():
        if name.endswith("/weight_scale"):
            raise ValueError("its weights are in 8 bits")
        if value.is_floating_point() and value.dim():
            for renamed, part in _parts(name, value.float()):
                yield f"model.{renamed}", part


_TOP = {
    "position_encodings/encodings": "embed_positions.weight",
    "embeddings/weight": "embed_tokens.weight",
    "projection/weight": "",  # the embeddings once more
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def _parts(name: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A variable under transformers' names: one, or as many as are fused in it."""
    side, _, rest = name.partition("/")
    if rest in _TOP:
        if _TOP[rest]:
            yield f"{side}.{_TOP[rest]}", value
        return
    place, _, kind = rest.rpartition("/")
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
    if (layer := re.fullmatch(r"layer_(\d+)/(.+)", place)) is None:
        yield f"{side}.{place}.{kind}", value  # conv1, conv2, layer_norm
        return
    parts = _IN_LAYER[layer[2]]
    for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
        if not (kind == "bias" and part.endswith("k_proj")):  # Whisper's keys have none
            yield f"{side}.layers.{layer[1]}.{part}.{kind}", piece.clone()


_IN_LAYER: dict[str, tuple[str, ...]] = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": tuple(f"self_attn.{part}" for part in _PROJECTIONS),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": tuple(f"encoder_attn.{part}" for part in _PROJECTIONS[1:]),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
"""Of a layer, what is fused in a variable."""


# ------------------------------------------------------------ OpenAI

_OPENAI = (
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn\.", ".self_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.ln_post\.|\.ln\.", ".layer_norm."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
    (r"\.token_embedding\.", ".embed_tokens."),
)


def _from_openai(name: str) -> str:
    for pattern, put in _OPENAI:
        name = re.sub(pattern, put, name)
    return f"model.{name}"
