"""How the next token is drawn: what the person set, over what the card says, over what the model's
authors published with it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from multimodal.catalog.cards import ModelCard
from multimodal.messages import Sampling

MAX_SEED = 2**31
COLDEST = 1e-3
"""Below this a temperature is taken for 0: dividing by it would overflow."""
TEMPERATURE = 0.7
"""Where neither the card nor the checkpoint states one."""


@dataclass(frozen=True, slots=True)
class PublishedSampling:
    """What a checkpoint says of itself; None where it says nothing."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class ResolvedSampling:
    """Every value known; a seed was drawn if none was given.

    `top_k` and `min_p` are None where nobody asked for them: transformers then leaves all tokens
    possible, and llama.cpp takes its own defaults, the 40 likeliest of those at least a twentieth
    as likely as the likeliest. A prompt leaves `reserved_tokens` of the context free; an answer
    gets `max_tokens`, as far as the context reaches.
    """

    temperature: float
    top_p: float
    repeat_penalty: float
    max_tokens: int
    seed: int
    stop: tuple[str, ...]
    top_k: int | None = None
    min_p: float | None = None
    reserved_tokens: int = 0


def resolve_sampling(
    given: Sampling,
    card: ModelCard,
    context_tokens: int,
    published: PublishedSampling = PublishedSampling(),
) -> ResolvedSampling:
    """No more than half of the context is kept free for an answer, however long it may get. Top-p
    and the penalty change nothing where nobody states them."""
    default = card.sampling
    longest = default.max_tokens if given.max_tokens is None else given.max_tokens
    temperature = _first(given.temperature, default.temperature, published.temperature, TEMPERATURE)
    return ResolvedSampling(
        temperature if temperature >= COLDEST else 0.0,
        _first(given.top_p, default.top_p, published.top_p, 1.0),
        _first(given.repeat_penalty, default.repeat_penalty, published.repeat_penalty, 1.0),
        min(longest, context_tokens),
        secrets.randbelow(MAX_SEED) if given.seed is None else given.seed,
        (*given.stop, *default.stop),
        published.top_k if default.top_k is None else default.top_k,
        published.min_p if default.min_p is None else default.min_p,
        min(longest, context_tokens // 2),
    )


def _first(*values: float | None) -> float:
    """The first that is stated; the last one always is."""
    return next(value for value in values if value is not None)
