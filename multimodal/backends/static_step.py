"""One token's step of a model in buffers that never move, so that it can be compiled, and on a card
recorded and repeated: a small model's step is hundreds of kernels, and starting them one by one
takes longer than running them.

The attention cache is as long as the conversation may become. It is filled from what was kept of
the conversation and handed back as such, so nothing of it stays on the device between two turns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import CompileConfig, StaticCache
from transformers.cache_utils import StaticLayer

from multimodal.backends.cuda_graph import Recorder, Replay
from multimodal.backends.prefix_cache import HOST, empty_cache

SHORTEST = 1024
WARM = 2
"""Steps before a recording."""


class Logits(NamedTuple):
    """Like the output of a model: (1, 1, vocabulary)."""

    logits: torch.Tensor


def length_for(tokens: int, context_tokens: int) -> int:
    """Of the cache: doubled until `tokens` fit, so that few shapes are ever compiled."""
    length = SHORTEST
    while length < tokens:
        length *= 2
    return min(length, context_tokens)


def can_be_static(model: Any) -> bool:
    """Whether the model's step is the same whatever was said: full attention, computed by torch's
    own function, at places that count the tokens, and no branch on values, as int8's outliers
    are."""
    config = model.config.get_text_config(decoder=True)
    layers = StaticCache(config=config, max_cache_len=1).layers
    return (
        bool(model._can_compile_fullgraph)
        and config._attn_implementation == "sdpa"
        and all(type(layer) is StaticLayer for layer in layers)
        and not hasattr(model.base_model, "rope_deltas")
        and not any(type(module).__name__ == "Linear8bitLt" for module in model.modules())
    )


def static_cache(model: Any, length: int, begun: Any) -> Any:
    """A cache of `length` tokens on the model's device, with what `begun` holds."""
    cache = StaticCache(config=model.config.get_text_config(decoder=True), max_cache_len=length)
    for place, layer in enumerate(begun.layers if begun.get_seq_length() else ()):
        keys, values = (t.to(model.device) for t in (layer.keys, layer.values))
        cache.update(keys, values, place)
    return cache


def kept_cache(model: Any, cache: Any) -> Any:
    """A copy in host memory of what a static cache holds, one that can be cut."""
    held = int(cache.get_seq_length())
    made = empty_cache(model)
    for place, layer in enumerate(cache.layers if held else ()):
        keys, values = (t[:, :, :held].to(HOST, copy=True) for t in (layer.keys, layer.values))
        made.update(keys, values, place)
    return made


def forget_compiled(model: Any) -> None:
    """Drop what `get_compiled_call` keeps on the model: it refers to the model, which would stay
    until circles are looked for."""
    vars(model).pop("_compiled_call", None)


class StaticStep:
    """The model's step from one token to the next, with the tokens before it in `cache`.

    `recorder` records it; without one every step is run. The first steps run as they are: libraries
    choose their kernels in them.
    """

    def __init__(
        self, model: Any, cache: Any, compiled: bool, recorder: Recorder | None = None
    ) -> None:
        self._forward = (
            model.get_compiled_call(CompileConfig(mode="default", dynamic=False))
            if compiled
            else model
        )
        self._cache = cache
        self._token = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        self._position = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        self._places = torch.arange(cache.layers[0].max_cache_len, device=model.device)
        self._recorder = recorder
        self._runs = 0
        self._replay: Replay | None = None

    def __call__(self, token: torch.Tensor, position: int) -> Logits:
        """The logits behind `token`, (1, 1), the conversation's token number `position`. They are
        good until the next call."""
        self._token.copy_(token)
        self._position.fill_(position)
        return Logits(self._run())

    def _run(self) -> torch.Tensor:
        # No bound method is kept: a circle would hold cache and model until it is collected.
        if self._replay is not None:
            return self._replay()
        self._runs += 1
        if self._recorder is not None and self._runs <= WARM:
            return self._recorder.beside(self._once)
        if self._recorder is not None and self._runs == WARM + 1:
            self._replay = self._recorder.record(self._once)
        return self._replay() if self._replay is not None else self._once()

    def _once(self) -> torch.Tensor:
        seen: torch.Tensor = self._forward(
            input_ids=self._token,
            position_ids=self._position,
            attention_mask=(self._places <= self._position)[None, None],
            past_key_values=self._cache,
            use_cache=True,
            return_dict=True,
        ).logits
        return seen
