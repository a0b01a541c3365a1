"""Rows that a person's chats made, as they are shown for editing and come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal.errors import RequestError
from multimodal.web.studio.actions import Row

TITLES = {
    "completion": "Answer",
    "chosen": "Preferred answer",
    "rejected": "Replaced answer",
}


@dataclass(frozen=True, slots=True)
class ShownRow:
    """`texts`: name, title and words of what can be edited. `label`: whether the thumb was up."""

    prompt: str
    texts: tuple[tuple[str, str, str], ...]
    label: bool | None


def shown_rows(rows: Iterable[Mapping[str, Any]]) -> list[ShownRow]:
    return [
        ShownRow(
            text_of(row["prompt"]),
            tuple((name, TITLES[name], text_of(row[name])) for name in TITLES if name in row),
            row.get("label"),
        )
        for row in rows
    ]


def read_rows(shown: Sequence[Mapping[str, Any]], kept: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows that are kept, with the words as they were left. Raises RequestError where none is
    kept, or an answer is empty."""
    rows = list(_read(shown, kept))
    if not rows:
        raise RequestError("Keep at least one row.")
    return rows


def text_of(turns: Any) -> str:
    """What a prompt or an answer says: of messages, all of them in order."""
    if isinstance(turns, str):
        return turns
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _read(shown: Sequence[Mapping[str, Any]], kept: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in kept:
        if row.id >= len(shown):
            raise RequestError("These rows are no longer as they were shown. Show them again.")
        original = dict(shown[row.id])
        for name, text in row.texts.items():
            if name not in original:
                continue
            if not text.strip():
                raise RequestError(
                    f"Row {row.id + 1}: the {TITLES[name].lower()} is empty. Write one, or drop "
                    "the row."
                )
            if text != text_of(original[name]):
                original[name] = _with_words(original[name], text)
        yield original


def _with_words(answer: Any, text: str) -> Any:
    if isinstance(answer, str):
        return text
    return [*answer[:-1], {**answer[-1], "content": text}]
