"""How the next token is drawn: what the person set, over what the card says."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from multimodal.cards import ModelCard
from multimodal.messages import Sampling

MAX_SEED = 2**31
COLDEST = 1e-3
"""Below this a temperature is taken for 0: dividing by it would overflow."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Every value known; a seed was drawn if none was given."""

    temperature: float
    top_p: float
    repeat_penalty: float
    max_tokens: int
    seed: int
    stop: tuple[str, ...]


def settled(given: Sampling, card: ModelCard, context_tokens: int) -> Settled:
    """An answer gets at most half of the context."""
    default = card.sampling
    longest = default.max_tokens if given.max_tokens is None else given.max_tokens
    temperature = default.temperature if given.temperature is None else given.temperature
    return Settled(
        temperature if temperature >= COLDEST else 0.0,
        default.top_p if given.top_p is None else given.top_p,
        default.repeat_penalty if given.repeat_penalty is None else given.repeat_penalty,
        min(longest, context_tokens // 2),
        secrets.randbelow(MAX_SEED) if given.seed is None else given.seed,
        (*given.stop, *default.stop),
    )
