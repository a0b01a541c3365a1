"""What the card of a model in ONNX states of its family and of its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multimodal.backends.onnx.layout import ENCODER, MODEL, PIECE_TOKENS
from multimodal.catalog.cards import ModelCard
from multimodal.memory.estimate.footprint import DEFAULT_TOKENS

BYTES: Mapping[str, int] = {"f32": 4, "f16": 2}
RUNTIME_BYTES = 80_000_000
"""ONNX Runtime's session beside its weights, and the tokenizer: 79 MB with SmolLM2."""


HALF_NOTICE = (
    "On a CPU ONNX Runtime holds weights of 16 bits in 32 and computes in those: the file is half "
    "as large, the model in memory is not."
)


def held_bytes(folder: Path, kind: str, name: str = MODEL) -> int:
    """Of a graph with its weights as ONNX Runtime holds them on a CPU: once, in 32 bits."""
    graph, *weights = (path.stat().st_size for path in sorted(folder.glob(f"{name}*")))
    return graph + sum(weights) * BYTES["f32"] // BYTES[kind]


def text_facts(config: Any, card: ModelCard, kind: str, weights_bytes: int) -> dict[str, Any]:
    """Of a text model whose graph takes `weights_bytes`."""
    config = config.get_text_config(decoder=True)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    dimensions = getattr(config, "head_dim", None) or config.hidden_size // heads
    longest = getattr(config, "max_position_embeddings", None)
    context = card.context_tokens or min(longest or DEFAULT_TOKENS, DEFAULT_TOKENS)
    cache = 2 * layers * kv_heads * dimensions * BYTES[kind] * context
    piece = PIECE_TOKENS * 4 * (2 * config.vocab_size + 3 * heads * context)
    return {
        "family": "onnx_text",
        "context_tokens": context,
        "architecture": {
            "kind": "measured",
            "weights_bytes": weights_bytes,
            "kv_layers": layers,
            "kv_heads": kv_heads,
            "kv_head_dim": dimensions,
            "kv_element_bytes": BYTES[kind],
            # A step writes keys and values anew beside those that it reads, and they are copied
            # to be kept for the next turn.
            "runtime_bytes": RUNTIME_BYTES + 2 * cache + piece,
        },
    }


def classifier_facts(weights_bytes: int) -> dict[str, Any]:
    """Of a picture classifier whose graph takes `weights_bytes`."""
    shape = {"kind": "measured", "weights_bytes": weights_bytes, "runtime_bytes": RUNTIME_BYTES}
    return {"family": "onnx_classifier", "architecture": shape}


def speech_facts(config: Any, folder: Path, kind: str) -> dict[str, Any]:
    """Of the Whisper model in `folder`."""
    positions, layers, width = config.max_source_positions, config.decoder_layers, config.d_model
    # Keys and values of the sound, and of the words, which a step writes anew beside the old ones.
    cache = 2 * layers * width * (positions + 2 * config.max_target_positions)
    # The encoder's attention, its widest layer, and logits behind a prompt of the longest length.
    heads = config.encoder_attention_heads
    encoder = 2 * heads * positions**2 + 2 * positions * config.encoder_ffn_dim
    logits = config.max_target_positions * config.vocab_size
    return {
        "family": "onnx_whisper",
        "architecture": {
            "kind": "measured",
            "weights_bytes": held_bytes(folder, kind) + held_bytes(folder, kind, ENCODER),
            "runtime_bytes": RUNTIME_BYTES + BYTES["f32"] * (cache + encoder + logits),
        },
    }
