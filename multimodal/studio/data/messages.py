"""Messages of a chat, in the forms in which files have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from multimodal.studio.data.records import Record, check_characters

Message = dict[str, str]

ROLES: Mapping[str, str] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
}
"""The roles of OpenAI's form, and what ShareGPT's and others' call them."""


def read_messages(value: Any, record: Record, part: str) -> list[Message]:
    """Messages with "role" and "content" (or "from" and "value"), in an order that chat templates
    render: one of the system first, if any, and then the user and the assistant in turns. Raises
    DataError."""
    if not isinstance(value, list) or not value:
        raise record.fault(f"its {part} are no list of messages with role and content.")
    messages = [_read(one, record, number) for number, one in enumerate(value, 1)]
    _check_order([message["role"] for message in messages], record)
    return messages


def read_chat(value: Any, record: Record) -> list[Message]:
    """A whole chat, which the user begins and the assistant answers at least once. Raises
    DataError."""
    messages = read_messages(value, record, "messages")
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if "assistant" not in roles:
        raise record.fault("is a chat without a turn of the assistant, so nothing can be learned.")
    if roles[0] == "assistant":
        raise record.fault("is a chat that the assistant begins; the first turn is the user's.")
    return messages


def _read(value: Any, record: Record, number: int) -> Message:
    if not isinstance(value, dict):
        raise record.fault(f"its message {number} is no object with role and content.")
    told = value.get("role", value.get("from"))
    role = ROLES.get(str(told).strip().lower())
    if role is None:
        raise record.fault(
            f"its message {number} has the role {told!r}; it is system, user or assistant."
        )
    content = _text(value.get("content", value.get("value")))
    if content is None:
        raise record.fault(f"its message {number} has no text as content.")
    check_characters(content, record, f"message {number}")
    if not content.strip() and role != "system":
        raise record.fault(f"its message {number}, of the {role}, is empty.")
    return {"role": role, "content": content}


def _text(content: Any) -> str | None:
    match content:
        case str():
            return content
        case [*parts] if parts and all(_is_text(part) for part in parts):
            return "".join(part["text"] for part in parts)
    return None


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _check_order(roles: Sequence[str], record: Record) -> None:
    for number, (role, following) in enumerate(pairwise(roles), 1):
        if following == "system":
            raise record.fault(
                f"its message {number + 1} is of the system, which speaks only first."
            )
        if role == following:
            raise record.fault(
                f"its messages {number} and {number + 1} are both of the {role}; the user and the "
                "assistant take turns."
            )
