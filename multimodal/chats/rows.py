"""What rows of the database say, whole or damaged: a message, a heading, what is set.

A row may be damaged by a disk, by somebody's hand, or written by a later version that knows more.
What can be read of it is; nothing here raises an error.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row

from multimodal.chats.database import decode_json, decode_moment
from multimodal.messages import Controls, Message, Outcome, Part, Rating

DAMAGED_TITLE = "Damaged chat"
DAMAGED_MESSAGE = "This message is damaged where it is kept and cannot be shown."
DAMAGED_PART = "A part of this message is damaged where it is kept and is left out."
DAMAGED_OUTCOME = "What was noted about this reply is damaged where it is kept."
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
DIGEST = re.compile(r"[0-9a-f]{64}")

part_adapter: TypeAdapter[Part] = TypeAdapter(Part)
parts_adapter = TypeAdapter(tuple[Part, ...])
outcome_adapter = TypeAdapter(Outcome | None)
controls_adapter = TypeAdapter(Controls)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heading:
    """A conversation as a list shows it."""

    id: str
    title: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class FormerAnswer:
    """An answer to the question of that id, in the place of which another one is shown, and since
    when."""

    message: Message
    question: str
    replaced_at: datetime


@dataclass(frozen=True, slots=True)
class FeedbackCounts:
    """How many answers a person rated, and in the place of how many another one stands."""

    up: int
    down: int
    redos: int

    def __str__(self) -> str:
        """For people: “12 thumbs, 5 redos”."""
        thumbs = self.up + self.down
        return ", ".join(
            f"{count} {noun}{'s' if count != 1 else ''}"
            for count, noun in ((thumbs, "thumb"), (self.redos, "redo"))
        )


def read_heading(row: Row[Any]) -> Heading:
    title = row.title if isinstance(row.title, str) and row.title.strip() else DAMAGED_TITLE
    return Heading(row.id, title, _read_moment(row.updated_at))


def read_message(row: Row[Any]) -> Message:
    parts, damage = _read_parts(row.parts)
    return Message(
        "assistant" if row.role == "assistant" else "user",
        parts,
        row.id,
        _read_moment(row.created_at),
        _read_outcome(row.outcome),
        damage,
    )


def read_former(row: Row[Any]) -> FormerAnswer:
    message = replace(read_message(row), rating=read_rating(row.rating))
    return FormerAnswer(message, row.question_id, _read_moment(row.replaced_at))


def read_rating(kept: object) -> Rating | None:
    return "up" if kept == "up" else "down" if kept == "down" else None


def is_empty(kept: object) -> bool:
    """Whether parts of a message are none, and not damaged ones."""
    parts, damage = _read_parts(kept)
    return not parts and damage is None


def _read_parts(kept: object) -> tuple[tuple[Part, ...], str | None]:
    """The parts that can be read, and what is wrong with the others."""
    try:
        found = decode_json(kept)
        return parts_adapter.validate_python(found), None
    except ValueError as error:
        log.warning("a message is damaged in the database: %s", str(error).splitlines()[0])
    try:
        listed = list(decode_json(kept))
    except (ValueError, TypeError):
        return (), DAMAGED_MESSAGE
    parts = []
    for part in listed:
        try:
            parts.append(part_adapter.validate_python(part))
        except ValueError:
            continue
    return tuple(parts), DAMAGED_PART if parts else DAMAGED_MESSAGE


def _read_outcome(kept: object) -> Outcome | None:
    try:
        return outcome_adapter.validate_python(_with_usage(decode_json(kept)))
    except ValueError:
        return Outcome(finish="stop", notices=(DAMAGED_OUTCOME,))


def _with_usage(kept: Any) -> Any:
    """What earlier versions kept, which had the fields of a usage beside the others."""
    if not isinstance(kept, dict) or "usage" in kept or kept.get("seed") is None:
        return kept
    return kept | {"usage": {"finish": kept.get("finish"), **kept}}


def read_controls(kept: object, conversation: str) -> Controls:
    try:
        return controls_adapter.validate_python(decode_json(kept))
    except ValueError:
        log.warning(
            "the settings of conversation %s are damaged; it has the usual ones", conversation
        )
        return Controls()


def _read_moment(kept: object) -> datetime:
    try:
        return decode_moment(kept)
    except ValueError:
        return LONG_AGO


def digests_in(kept: object) -> list[str]:
    words = kept if isinstance(kept, str) else repr(kept)
    return DIGEST.findall(words)
