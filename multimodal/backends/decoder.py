"""How one loaded model decodes, as its card says under `engine`.

- `prompt_lookup`: guess what the reply repeats of the conversation, and check guesses together; on
  a CPU unless the card says otherwise
- `static_cache`: an attention cache of a fixed size; on a card a step is recorded and repeated
- `compile`: compile that step with torch.compile; implies `static_cache`

Each changes how long an answer takes and not what it says, but for the rounding of sums that are
taken in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from multimodal.backends.cuda_graph import CUDA_GRAPHS
from multimodal.backends.decoding import Decoding
from multimodal.backends.generation import Emit, Reply
from multimodal.backends.lookup import Lookup
from multimodal.backends.prefix_cache import HOST
from multimodal.backends.static_step import (
    StaticStep,
    can_be_static,
    kept_cache,
    length_for,
    static_cache,
)
from multimodal.cards import ModelCard
from multimodal.errors import CardError
from multimodal.events import Progress

COMPILING = "Compiling the model for this machine, which takes a while and cannot be stopped"


class Decoder:
    """Makes the caches that `Decoding` writes replies with."""

    def __init__(self, card: ModelCard, model: Any) -> None:
        self._compiles = bool(card.engine.get("compile", False))
        wanted = self._compiles or bool(card.engine.get("static_cache", False))
        on_cpu = model.device.type == "cpu" and not wanted
        self._looks_up = bool(card.engine.get("prompt_lookup", on_cpu))
        if wanted and self._looks_up:
            raise CardError(
                f"{card.name}: 'prompt_lookup' needs a cache that can be cut, and 'static_cache' "
                "and 'compile' one that cannot; leave one of them out of 'engine'"
            )
        self._static = wanted and can_be_static(model)
        self._compiled: set[int] = set()

    def keeps_on(self, model: Any) -> torch.device:
        """Where a cache that goes on is to be brought first."""
        return HOST if self._static else model.device

    def cache(self, model: Any, begun: Any, tokens: int, context_tokens: int) -> Any:
        """A cache for `tokens` of a conversation, with what the cache `begun` holds of it."""
        if self._static:
            return static_cache(model, length_for(tokens, context_tokens), begun)
        return begun

    def kept(self, model: Any, cache: Any) -> Any:
        """`cache` as it is kept between two turns."""
        return kept_cache(model, cache) if self._static else cache

    def decoding(
        self, model: Any, cache: Any, reply: Reply, prompt: Sequence[int], emit: Emit
    ) -> Decoding:
        """The loop that writes `reply` to `prompt`."""
        if self._static:
            length = cache.layers[0].max_cache_len
            if self._compiles and length not in self._compiled:
                self._compiled.add(length)
                emit(Progress(COMPILING))
            recorder = CUDA_GRAPHS if model.device.type == "cuda" else None
            return Decoding(reply, step=StaticStep(model, cache, self._compiles, recorder))
        if self._looks_up and all(type(layer) is DynamicLayer for layer in cache.layers):
            return Decoding(reply, lookup=Lookup(prompt))
        return Decoding(reply)
