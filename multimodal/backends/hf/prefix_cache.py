"""What was computed of recent conversations, kept in host memory between their turns.

The attention cache of a conversation that goes on holds all of it but the newest message. On the
device it would take room from other models; in host memory it costs one copy each way, which is far
less than computing it again, and it survives the model's eviction.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import DynamicCache, GenerationMixin, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from multimodal.memory.devices.base import spare_host_bytes

HOST = torch.device("cpu")
SHORTEST = 1024
CACHE_ARGUMENT = (
    "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"
)
"""What models and `generate` call the cache they are given."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """`cache` holds keys and values of `tokens`, in which the pictures `about` are seen."""

    tokens: Sequence[int]
    cache: Any
    about: str
    size_bytes: int


class PrefixCaches:
    """At most `most_bytes` of transformers' dynamic caches, and no more than `spare_bytes` says is
    left beside them, the newest kept. Thread-safe."""

    def __init__(self, most_bytes: int, spare_bytes: Callable[[], int] = spare_host_bytes) -> None:
        self._most_bytes = most_bytes
        self._spare_bytes = spare_bytes
        self._kept: deque[_Kept] = deque()
        self._lock = threading.Lock()

    def take(
        self, tokens: Sequence[int], device: torch.device, about: str = "", at_least: int = 0
    ) -> Any | None:
        """The cache of the conversation that `tokens` go on with, cut to what they share and moved
        to `device`; None where there is none. At least the last token is left to be computed.

        One that shares fewer than `at_least` tokens is of no use, nor one of other pictures. A
        cache of which less than half could be used belongs to another conversation.
        """
        with self._lock:
            found = [
                (min(_shared(kept.tokens, tokens), len(tokens) - 1), place)
                for place, kept in enumerate(self._kept)
                if kept.about == about
            ]
            shared, place = max(found, default=(0, 0))
            if not shared or shared < at_least or 2 * shared < len(self._kept[place].tokens):
                return None
            kept = self._kept[place]
            del self._kept[place]
        try:
            if surplus := len(kept.tokens) - shared:
                kept.cache.crop(-surplus)
        except RuntimeError:  # a sliding window that has let go of what came before
            return None
        _move(kept.cache, device)
        return kept.cache

    def keep(self, tokens: Sequence[int], cache: Any, about: str = "") -> None:
        """Remember `cache`, which holds the beginning of `tokens`; it leaves its device."""
        held = cache.get_seq_length()
        size = _bytes(cache)
        if not held or not self._has_room(size):
            return
        _move(cache, HOST)
        with self._lock:
            self._kept.append(_Kept(list(tokens[:held]), cache, about, size))

    def _has_room(self, size_bytes: int) -> bool:
        """Whether so much more is kept; the oldest go for it, and where memory is short."""
        with self._lock:
            kept_bytes = sum(kept.size_bytes for kept in self._kept)
            most = min(self._most_bytes, kept_bytes + self._spare_bytes())
            fits = size_bytes <= most
            while self._kept and kept_bytes + (size_bytes if fits else 0) > most:
                kept_bytes -= self._kept.popleft().size_bytes
        return fits

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


def new_kv_cache(model: Any) -> Any:
    """A dynamic cache for `model`, as its text part wants it."""
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def can_be_kept(cache: Any) -> bool:
    """Whether keys and values are all that the cache holds: layers of other kinds have states that
    are neither cut nor moved here."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def accepts_cache(model: Any) -> bool:
    """Whether `generate` continues a cache that it is given, of a kind that can be cut."""
    own = type(model).generate is not GenerationMixin.generate
    return not own and can_be_kept(new_kv_cache(model))


def static_length(tokens: int, context_tokens: int) -> int:
    """Of a static cache: doubled until `tokens` fit, so that few shapes are ever compiled."""
    length = SHORTEST
    while length < tokens:
        length *= 2
    return min(length, context_tokens)


def static_cache(model: Any, length: int, begun: Any | None = None) -> Any:
    """A cache of `length` tokens on the model's device, with what the dynamic cache `begun`
    holds."""
    cache = StaticCache(config=model.config.get_text_config(decoder=True), max_cache_len=length)
    if begun is not None and begun.get_seq_length():
        for place, layer in enumerate(begun.layers):
            keys, values = (t.to(model.device) for t in (layer.keys, layer.values))
            cache.update(keys, values, place)
    return cache


def dynamic_copy(model: Any, cache: Any) -> Any | None:
    """A dynamic cache in host memory with what the static `cache` holds; None where a layer holds
    its newest tokens only."""
    if not all(type(layer) is StaticLayer for layer in cache.layers):
        return None
    held = int(cache.get_seq_length())
    made = new_kv_cache(model)
    for place, layer in enumerate(cache.layers if held else ()):
        keys, values = (t[:, :, :held].to(HOST, copy=True) for t in (layer.keys, layer.values))
        made.update(keys, values, place)
    return made


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _move(cache: Any, device: torch.device) -> None:
    for layer in cache.layers:
        if layer.keys is not None:
            layer.keys, layer.values = layer.keys.to(device), layer.values.to(device)


def _bytes(cache: Any) -> int:
    """Of the storages: a cache that was cropped still holds what it held."""
    pairs = ((layer.keys, layer.values) for layer in cache.layers if layer.keys is not None)
    return sum(t.untyped_storage().nbytes() for pair in pairs for t in pair)
