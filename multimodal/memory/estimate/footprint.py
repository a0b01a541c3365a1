"""Bytes a card will take, computed from the card alone, before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from multimodal.backends.registry import find_family, import_object
from multimodal.catalog.architectures import (
    GgufArchitecture,
    MeasuredArchitecture,
    ModulesArchitecture,
)
from multimodal.catalog.cards import ADAPTER_WEIGHTS, ModelCard
from multimodal.errors import CardError
from multimodal.memory.estimate.factors import ESTIMATE, PeakFactors
from multimodal.memory.estimate.quantization import (
    CACHE_BYTES,
    ELEMENT_BYTES,
    GGUF,
    TORCH,
    gguf_bytes,
    torch_bytes,
)

if TYPE_CHECKING:
    from multimodal.memory.estimate.activation import ForwardPasses

DEFAULT_TOKENS = 4096
LANGUAGE = re.compile(r"\.(language_model|text_model|lm_head)\.")
"""What the text model of a model that sees is called in transformers; the rest sees."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """All sizes in bytes. `engine_owned`: the engine takes cache and buffers when it starts and
    keeps them; otherwise they belong to one turn and are given back with its lease."""

    weights: int
    kv_cache: int
    runtime: int
    engine_owned: bool = True

    @property
    def resident(self) -> int:
        """What stays on the device between two turns."""
        return self.total if self.engine_owned else self.weights

    @property
    def workspace(self) -> int:
        """What one turn takes on top."""
        return 0 if self.engine_owned else self.kv_cache + self.runtime

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.runtime


def usual_quantization(card: ModelCard) -> str:
    """The one that the card names first."""
    return card.quantization[0] if card.quantization else "bf16"


def footprint(
    card: ModelCard,
    quantization: str | None = None,
    context_tokens: int | None = None,
    factors: PeakFactors = ESTIMATE,
) -> Footprint:
    """What `card` needs, with its adapter, in another quantization or at another context length if
    those are given, on a device whose turns take `factors` of what is counted.

    Raises CardError for a quantization that the card's kind of weights does not have.
    """
    size = _model_footprint(card, quantization, context_tokens, factors)
    return replace(size, weights=size.weights + adapter_bytes(card))


def adapter_bytes(card: ModelCard) -> int:
    """What the tensors of its adapter take, by the file that holds them; 0 without one, and for one
    that is not there."""
    if card.adapter is None:
        return 0
    try:
        return (card.adapter / ADAPTER_WEIGHTS).stat().st_size
    except OSError:
        return 0


def _model_footprint(
    card: ModelCard, quantization: str | None, context_tokens: int | None, factors: PeakFactors
) -> Footprint:
    shape = card.architecture
    tokens = context_tokens or card.context_tokens or DEFAULT_TOKENS
    if card.context_tokens:
        tokens = min(tokens, card.context_tokens)
    if isinstance(shape, MeasuredArchitecture):
        # Keys and values x layers x KV heads x head dimension x bytes x tokens.
        per_token = shape.kv_layers * shape.kv_heads * shape.kv_head_dim * shape.kv_element_bytes
        kept = (tokens if card.context_tokens else 0) * card.concurrency
        return Footprint(shape.weights_bytes, 2 * per_token * kept, shape.runtime_bytes)
    kind = quantization or usual_quantization(card)
    known = GGUF if isinstance(shape, GgufArchitecture) else TORCH
    second = shape.projector if isinstance(shape, GgufArchitecture) else None
    for wanted in filter(None, (kind, second)):
        if wanted not in known:
            raise CardError(
                f"{card.name}: there is no quantization '{wanted}'. Known: {', '.join(known)}."
            )
    if isinstance(shape, GgufArchitecture):
        return _gguf(shape.model_dump_json(), kind, tokens)
    size = _torch(shape.model_dump_json(), _forward_passes(card), kind, tokens, factors)
    if not size.runtime:
        raise CardError(
            f"{card.name}: an engine of the family '{card.family}' runs none of the parts under "
            "[architecture], so what a turn takes cannot be counted"
        )
    return size


def cpu_footprint(card: ModelCard) -> Footprint:
    """What `card` needs where its engine loads it on the CPU instead of a graphics card:
    openai-whisper and diffusers keep there in 32 bits what is in fp16 on a card, transformers in as
    many bits."""
    shape = card.architecture
    is_wide = isinstance(shape, ModulesArchitecture) and any(
        part.library in {"whisper", "diffusers"} for part in shape.parts.values()
    )
    kind = usual_quantization(card)
    return footprint(card, "fp32" if is_wide and kind == "fp16" else kind)


@lru_cache(maxsize=512)
def _gguf(shape_json: str, kind: str, tokens: int) -> Footprint:
    """llama.cpp keeps the weights as the files pack them, and a cache of all its tokens."""
    from multimodal.memory.estimate.modules import tensors, text_config

    shape = GgufArchitecture.model_validate_json(shape_json)
    found = [tensor for tensor in tensors(shape) if tensor.parameter]
    config: Any = text_config(shape.parts["text"])
    layers = int(config.num_hidden_layers)
    tied = not any("lm_head" in tensor.name for tensor in found)
    weights = 0
    for tensor in found:
        seeing = shape.projector is not None and not LANGUAGE.search(tensor.name)
        packed = shape.projector if seeing and shape.projector else kind
        weights += gguf_bytes(tensor.name, tensor.shape, packed, layers, tied)
    return Footprint(weights, kv_bytes(config, tokens), shape.runtime_bytes)


@lru_cache(maxsize=512)
def _torch(
    shape_json: str, passes: ForwardPasses, kind: str, tokens: int, factors: PeakFactors
) -> Footprint:
    """Weights, the cache of `tokens`, and the largest peak of any part; a 4-bit or 8-bit layer is
    unpacked to 16 bits while it reads a prompt, one at a time."""
    from multimodal.memory.estimate.activation import peak_bytes
    from multimodal.memory.estimate.modules import build_meta_module, tensors, text_config

    shape = ModulesArchitecture.model_validate_json(shape_json)
    found = tensors(shape)
    weights = sum(
        torch_bytes(t.shape, "fp32" if t.wide and kind == "fp16" else kind, t.linear) for t in found
    )
    unpacked = max((torch_bytes(t.shape, "bf16", False) for t in found if t.linear), default=0)
    cache = peak = 0
    for part in shape.parts.values():
        if (config := text_config(part)) is not None:
            cache = max(cache, kv_bytes(config, tokens))
        module = build_meta_module(part, shallow=True)
        runs = passes(module, tokens, shape.picture_side)
        cache = max((cache, *(forward.cache_bytes for forward in runs)))
        peak = max(peak, peak_bytes(passes, module, tokens, shape.picture_side, factors))
    extra = 0 if kind in ELEMENT_BYTES else unpacked
    return Footprint(weights, cache, peak + extra, engine_owned=False)


def _forward_passes(card: ModelCard) -> ForwardPasses:
    """Those that its family declares. Raises CardError without any: nothing counts as 0 bytes."""
    family = find_family(card.family)
    passes: ForwardPasses | None = (
        import_object(family.forward_passes) if family is not None else None
    )
    if passes is None:
        raise CardError(
            f"{card.name}: nothing is known of what an engine of the family '{card.family}' "
            "computes, so what a turn takes cannot be counted; correct its 'family', or write "
            'kind = "measured" under [architecture]'
        )
    return passes


def kv_bytes(config: Any, tokens: int) -> int:
    """2 x layers x KV heads x head dimension x bytes x tokens, from a transformers text config. A
    layer with a sliding window keeps no more than the window."""
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    dim = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    window = int(getattr(config, "sliding_window", None) or tokens)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention"] * int(config.num_hidden_layers)
    kept = sum(min(tokens, window) if "sliding" in kind else tokens for kind in kinds)
    return 2 * heads * dim * CACHE_BYTES * kept
