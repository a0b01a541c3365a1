"""What was computed of recent conversations, kept in host memory between their turns.

The attention cache of a conversation that goes on holds all of it but the newest message. On the
device it would take room from other models; in host memory it costs one copy each way, which is far
less than computing it again, and it survives the model's eviction.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class _Kept:
    """`cache` holds keys and values of `tokens`."""

    tokens: Sequence[int]
    cache: Any
    size_bytes: int


class PrefixCaches:
    """At most `most_bytes` of transformers' dynamic caches, the newest kept. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: deque[_Kept] = deque()
        self._lock = threading.Lock()

    def take(self, tokens: Sequence[int], device: torch.device) -> Any | None:
        """The cache of the conversation that `tokens` go on with, cut to what they share and moved
        to `device`; None where there is none. At least the last token is left to be computed.

        A cache of which less than half could be used belongs to another conversation.
        """
        with self._lock:
            shared = [min(_shared(kept.tokens, tokens), len(tokens) - 1) for kept in self._kept]
            best = max(range(len(shared)), key=shared.__getitem__, default=None)
            if best is None or 2 * shared[best] < len(self._kept[best].tokens) or not shared[best]:
                return None
            kept = self._kept[best]
            del self._kept[best]
        try:
            if surplus := len(kept.tokens) - shared[best]:
                kept.cache.crop(-surplus)
        except RuntimeError:  # a sliding window that has let go of what came before
            return None
        _move(kept.cache, device)
        return kept.cache

    def keep(self, tokens: Sequence[int], cache: Any) -> None:
        """Remember `cache`, which holds the beginning of `tokens`; it leaves its device."""
        held = cache.get_seq_length()
        if not held:
            return
        _move(cache, HOST)
        with self._lock:
            self._kept.append(_Kept(list(tokens[:held]), cache, _bytes(cache)))
            while sum(kept.size_bytes for kept in self._kept) > self._most_bytes:
                self._kept.popleft()

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


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
