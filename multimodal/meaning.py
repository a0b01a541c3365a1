"""What a message says, and which pictures of its conversation it means: pure."""

from __future__ import annotations

from collections.abc import Sequence

from multimodal.intents import (
    means_many_pictures,
    names_a_picture,
    ordinal_of,
    points_at_something,
)
from multimodal.messages import Conversation, ImagePart, Message


def spoken_and_typed(message: Message) -> str:
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
    shown = about = False
    for message in messages:
        if message.role != "user":
            continue
        words = spoken_and_typed(message)
        shown = shown or bool(message.images)
        about = bool(message.images) or (
            shown and (names_a_picture(words) or (about and points_at_something(words)))
        )
    return about


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
    return (pictures[index],) if -len(pictures) <= index < len(pictures) else ()


def named_by_file(words: str, pictures: Sequence[ImagePart]) -> tuple[ImagePart, ...]:
    """Those pictures whose whole file name the words hold, as in “What is in cat.jpg?”"""
    return tuple(p for p in pictures if "." in p.name and p.name.casefold() in words.casefold())
