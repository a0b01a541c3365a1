"""Bytes a card will take, computed from the card alone, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from multimodal.cards import ModelCard


@dataclass(frozen=True, slots=True)
class Footprint:
    """All sizes in bytes."""

    weights: int
    kv_cache: int
    runtime: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.runtime


def footprint(card: ModelCard) -> Footprint:
    """What loading `card` reserves: weights, the attention cache of all its slots, buffers.

    KV bytes = 2 (keys, values) x layers x KV heads x head dimension x bytes an element x tokens.
    """
    shape = card.architecture
    per_token = 2 * shape.kv_layers * shape.kv_heads * shape.kv_head_dim * shape.kv_element_bytes
    tokens = (card.context_tokens or 0) * card.concurrency
    return Footprint(shape.weights_bytes, per_token * tokens, shape.runtime_bytes)
