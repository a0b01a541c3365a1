"""What a conversation is called, by what was said in it."""

from __future__ import annotations

from multimodal.messages import Message

TITLE_CHARACTERS = 60
NEW = "New chat"
PICTURE, PICTURES, RECORDING = "A picture", "Pictures", "A recording"
PROVISIONAL = (NEW, PICTURE, PICTURES, RECORDING)
"""Titles that stand until something was said, heard, seen or answered."""


def title_of(message: Message) -> str:
    """What a conversation is called by this message: its words, else what was heard in its
    recordings, else what was seen in its pictures. A reply gives a title once it is whole."""
    if message.role == "assistant" and not _is_whole(message):
        return NEW
    heard = (part.transcript for part in message.recordings if part.transcript)
    seen = (part.description for part in message.images if part.description)
    words = message.text or next(heard, "") or next(seen, "")
    return _line(words) or (_kind(message) if message.role == "user" else NEW)


def _is_whole(message: Message) -> bool:
    return message.outcome is not None and message.outcome.finish in {"stop", "length"}


def _line(words: str) -> str:
    line = " ".join(words.split())
    if len(line) > TITLE_CHARACTERS:
        line = line[: TITLE_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"
    return line


def _kind(message: Message) -> str:
    """A title for what has no words yet; names of files say nothing."""
    if message.images:
        return PICTURE if len(message.images) == 1 else PICTURES
    return RECORDING if message.recordings else NEW
