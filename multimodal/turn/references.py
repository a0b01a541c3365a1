"""What a message says, and which pictures of its conversation it means: pure.

Of several pictures words mean one by its order (“the second picture”), all of them, or leave out
what is asked (“And this?”): such an elliptic question asks of its picture what was asked of the one
before. The patterns are those of `languages/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from multimodal.messages import Conversation, Focus, ImagePart, Message
from multimodal.turn.intents import (
    excerpt,
    focus_of,
    names_a_picture,
    points_at_something,
    sentences,
)
from multimodal.turn.vocabulary import compile_any, compile_ordinals


def words_of_message(message: Message) -> str:
    """The words of a message: what was typed, then what was said (in English if translated)."""
    said = (part.english or part.transcript or "" for part in message.recordings)
    return "\n".join(filter(None, (message.text.strip(), *(text.strip() for text in said))))


def wants_only_translation(conversation: Conversation) -> bool:
    """Whether the newest message is a recording, nothing else, that is to be translated."""
    last = conversation.messages[-1]
    alone = bool(last.recordings) and not (last.images or last.text.strip())
    return alone and conversation.controls.hearing.translate_to is not None


def all_pictures(conversation: Conversation) -> list[ImagePart]:
    """Sent or made, in their order."""
    return [part for message in conversation.messages for part in message.images]


def is_about_pictures(messages: Sequence[Message]) -> bool:
    """Whether the talk, as the person led it, is still about a picture. Read from the words alone,
    so that a history sent by another program is understood as one kept here."""
    first = next((at for at, m in enumerate(messages) if m.role == "user" and m.images), None)
    if first is None:
        return False
    # Newest first: most talks are decided by their last message.
    for message in reversed(messages[first:]):
        if message.role != "user":
            continue
        words = words_of_message(message)
        if message.images or names_a_picture(words):
            return True
        if not refers_to_shown(words):
            return False
    return False


def refers_to_shown(words: str) -> bool:
    """Whether words go on about what was shown, where the talk is about that."""
    return points_at_something(words) or is_elliptic(words) or ordinal_of(words) is not None


def resolve_focus(conversation: Conversation) -> Focus | None:
    """What the findings about a picture must answer, None if they alone cannot. A question that
    leaves out what it asks asks what was asked before; where that needed thought, what it shows."""
    words = words_of_message(conversation.messages[-1])
    if not is_elliptic(words):
        return focus_of(words)
    asked = (words_of_message(m) for m in reversed(conversation.messages) if m.role == "user")
    return focus_of(next((said for said in asked if not is_elliptic(said)), "")) or "general"


def pictures_shown(
    words: str, shown: Sequence[ImagePart], before: Sequence[ImagePart]
) -> tuple[ImagePart, ...]:
    """Those of a message's own pictures that its words mean: all, unless they say which one alone.
    “And the first?” beside a single new picture counts those before it, too."""
    if compares(words) or means_many_pictures(words):
        return tuple(shown)
    if named := named_by_file(words, shown):
        return named
    orders = ordinals_of(words)
    counted = shown if len(shown) > 1 else (*before, *shown)
    if len(orders) != 1 or not (shown[1:] or is_elliptic(words)):
        return tuple(shown)
    found = _at(orders[0], counted)
    return (found,) if found is not None else tuple(shown)


def pictures_counted(words: str, conversation: Conversation) -> list[ImagePart]:
    """Among which pictures an order counts: “And the second?” means the newest message that has
    some, if it has several; “the second picture” the whole conversation."""
    newest = next((m.images for m in reversed(conversation.messages) if m.images), ())
    if is_elliptic(words) and len(newest) > 1:
        return list(newest)
    return all_pictures(conversation)


def pictures_meant(words: str, pictures: Sequence[ImagePart]) -> tuple[ImagePart, ...]:
    """The pictures meant: by file name, all of them, by order, else the newest; () if there is
    no such picture."""
    if named := named_by_file(words, pictures):
        return named
    if means_many_pictures(words):
        return tuple(dict.fromkeys(pictures))
    index = ordinal_of(words)
    if index is None:
        return (pictures[-1],)
    found = _at(index, pictures)
    return (found,) if found is not None else ()


def named_by_file(words: str, pictures: Sequence[ImagePart]) -> tuple[ImagePart, ...]:
    """Those pictures whose whole file name the words hold, as in “What is in cat.jpg?”"""
    said = words.casefold()
    return tuple(p for p in pictures if "." in p.name and p.name.casefold() in said)


def _at(index: int, pictures: Sequence[ImagePart]) -> ImagePart | None:
    return pictures[index] if -len(pictures) <= index < len(pictures) else None


# ------------------------------------------------------------ which of several, by the words alone

MANY = compile_any("many_pictures")
ORDERS = compile_ordinals("ordinal_picture", "ordinals") + compile_ordinals(
    "numbered_picture", "numbers"
)
BARE_ORDERS = compile_ordinals("bare_ordinal", "ordinals")
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
