"""What to leave out of a conversation that is longer than its model reads, and how that is told.

The oldest turns go, a quarter of a context at a time, so that the beginning stays the same for many
turns and what was computed for it can be used again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard
from multimodal.errors import ContextLengthError
from multimodal.events import Notice
from multimodal.requests import TextRequest

Prompt = TypeVar("Prompt")


def fit_conversation(
    card: ModelCard,
    request: TextRequest,
    context_tokens: int,
    room: int,
    read: Callable[[TextRequest], Prompt],
    count: Callable[[Prompt], int],
    emit: Emit,
    stopped: Stopped,
) -> Prompt | None:
    """What `read` makes of the conversation, without the oldest turns, which is told, where it has
    more tokens by `count` than `room`; None once it is stopped. Raises ContextLengthError where the
    newest message alone has more."""
    total = attempt = 0
    while (tokens := count(prompt := read(request))) > room:
        if stopped():
            return None
        if len(request.messages) <= 2:
            raise prompt_too_long_error(card, tokens, context_tokens, len(request.images))
        lengths = [len(turn.text) for turn in request.messages]
        dropped = surplus_turns(lengths, tokens, room, context_tokens // 4, attempt)
        request = replace(request, messages=request.messages[dropped:])
        total, attempt = total + dropped, attempt + 1
    if total:
        emit(dropped_turns_notice(card, total, context_tokens))
    return prompt


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
