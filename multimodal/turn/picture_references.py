"""Which of several pictures words refer to, by the patterns of `languages/`.

By their order (“the second picture”), all of them, or by leaving out what is asked (“And this?”):
such an elliptic question asks of its picture what was asked of the one before.
"""

from __future__ import annotations

from multimodal.turn.intents import excerpt, sentences
from multimodal.turn.vocabulary import compile_any, compile_orders

MANY = compile_any("many_pictures")
ORDERS = compile_orders("ordinal_picture", "ordinals") + compile_orders(
    "numbered_picture", "numbers"
)
BARE_ORDERS = compile_orders("bare_ordinal", "ordinals")
ELLIPTIC = compile_any("elliptic")
COMPARING = compile_any("comparing")
ELLIPTIC_CHARACTERS = 200
"""A longer message says what it asks."""


def compares(words: str) -> bool:
    """Whether a question about one picture needs others, too."""
    return COMPARING.search(excerpt(words)) is not None and not is_elliptic(words)


def is_elliptic(words: str) -> bool:
    """Whether the words only point, and say nothing of what is asked: “And this one?”"""
    said = _short_sentences(words)
    return bool(said) and all(
        ELLIPTIC.match(sentence) or _bare_order(sentence) is not None for sentence in said
    )


def means_many_pictures(words: str) -> bool:
    return MANY.search(excerpt(words)) is not None


def ordinals_of(words: str) -> tuple[int, ...]:
    """0 for “the first picture”, 1 for “picture 2”, -1 for “And the last?” ...; all there are."""
    shown = excerpt(words)
    named = (index for index, order in ORDERS if order.search(shown))
    bare = (_bare_order(sentence) for sentence in _short_sentences(words))
    return tuple(dict.fromkeys([*named, *(index for index in bare if index is not None)]))


def ordinal_of(words: str) -> int | None:
    return next(iter(ordinals_of(words)), None)


def _short_sentences(words: str) -> list[str]:
    return sentences(words) if len(words) <= ELLIPTIC_CHARACTERS else []


def _bare_order(sentence: str) -> int | None:
    return next((index for index, order in BARE_ORDERS if order.match(sentence)), None)
