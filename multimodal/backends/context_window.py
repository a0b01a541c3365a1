"""What to leave out of a conversation that is longer than its model reads, and how that is told.

The oldest turns go, a quarter of a context at a time, so that the beginning stays the same for many
turns and what was computed for it can be used again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from multimodal.catalog.cards import ModelCard
from multimodal.errors import ContextLengthError
from multimodal.events import Notice


def surplus_turns(
    lengths: Sequence[int], prompt_tokens: int, room: int, block: int, attempt: int = 0
) -> int:
    """How many of the oldest turns must go for `prompt_tokens` to fit into `room`.

    `lengths` of the turns in characters. Whole blocks of `block` tokens go at once: the turn that
    begins the rest, and with it the cached beginning, then stays the same until a block is full.
    Always an even number (questions and their answers), never the last turn.

    Tokens are estimated from characters, and turns whose characters make few tokens free less than
    that: then it is asked again of what is left, `attempt` counting from 0. The nth attempt drops
    at least 2 ** n turns, so that n turns are counted by the engine log2(n) times at most.
    """
    tokens_per_character = prompt_tokens / max(1, sum(lengths))
    wanted = math.ceil((prompt_tokens - room) / block) * block
    dropped, freed = 0, 0.0
    while dropped + 2 < len(lengths) and (freed < wanted or dropped < 2**attempt):
        freed += sum(lengths[dropped : dropped + 2]) * tokens_per_character
        dropped += 2
    return dropped


def prompt_too_long_error(
    card: ModelCard, prompt_tokens: int, context_tokens: int, pictures: int = 0
) -> ContextLengthError:
    """For a single message that exceeds the context, the `pictures` it shows counted in."""
    fewer = ", show fewer pictures at once" if pictures > 1 else ""
    return ContextLengthError(
        f"This message is {prompt_tokens:,} tokens long and {card.title} reads "
        f"{context_tokens:,}. Shorten it{fewer}, or send it in parts."
    )


def dropped_turns_notice(card: ModelCard, dropped: int, context_tokens: int) -> Notice:
    return Notice(
        f"The first {dropped} messages were left out of this answer: the conversation is "
        f"longer than the {context_tokens:,} tokens {card.title} reads."
    )
