"""Rows as TRL's trainers read them, made of records.

A prompt and what answers it become messages, so that a model is taught in the form in which the
chat asks it: by its chat template, or by the plain one of `masks.py`. A text stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multimodal.studio.data.columns import (
    Columns,
    Kind,
    Part,
    check_kind,
    columns_of,
    kind_of,
)
from multimodal.studio.data.messages import Message, read_chat, read_messages
from multimodal.studio.data.records import Record, check_characters
from multimodal.studio.settings import JobSettings

Row = dict[str, Any]

_TRUE = {"true", "yes", "1"}
_FALSE = {"false", "no", "0"}


class Samples:
    """Makes a row of each record, all of the kind of the first. `blank`: the records that were
    empty; `refused`: those with an answer that was rated bad, where only good ones are taught."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings
        self.kind: Kind | None = None
        self.blank = 0
        self.refused = 0

    def row(self, record: Record) -> Row | None:
        """None for a record of which none is made. Raises DataError."""
        if not any(_is_given(value) for value in record.values.values()):
            self.blank += 1
            return None
        columns = columns_of(record, self._settings.columns)
        if self.kind is None:
            self.kind = kind_of(record, columns, self._settings.method)
        check_kind(record, columns, self.kind)
        if self.kind == "completion" and self._is_refused(record, columns):
            self.refused += 1
            return None
        return self._made(record, columns, self.kind)

    def _is_refused(self, record: Record, columns: Columns) -> bool:
        value = record.values[columns["label"]] if "label" in columns else None
        return str(value).strip().lower() in _FALSE

    def _made(self, record: Record, columns: Columns, kind: Kind) -> Row | None:
        values = {part: record.values[name] for part, name in columns.items()}
        match kind:
            case "text":
                return self._text(values, record)
            case "chat":
                return {"messages": _with_system(read_chat(values["messages"], record), values)}
            case "preference":
                return _preference(values, record)
            case "prompt":
                return _prompt_row(values, record, columns)
        answer = values.get("completion", values.get("answer"))
        row: Row = {
            "prompt": _prompt(values, record),
            "completion": _answer(answer, record, "completion"),
        }
        if kind == "rated":
            row["label"] = _label(values["label"], record)
        return row

    def _text(self, values: Mapping[Part, Any], record: Record) -> Row | None:
        if not _is_given(values["text"]):
            self.blank += 1
            return None
        return {"text": _string(values["text"], record, "text")}


def _prompt(values: Mapping[Part, Any], record: Record) -> list[Message]:
    prompt = values["prompt"]
    if isinstance(prompt, list):
        messages = read_messages(prompt, record, "prompt")
        if messages[-1]["role"] != "user":
            raise record.fault(f"its prompt ends with the {messages[-1]['role']}, not the user.")
    else:
        text = _string(prompt, record, "prompt")
        more = values.get("input")
        if "instruction" in values and _is_given(more):
            text += f"\n\n{_string(more, record, 'input')}"
        messages = [{"role": "user", "content": text}]
    return _with_system(messages, values)


def _with_system(messages: list[Message], values: Mapping[Part, Any]) -> list[Message]:
    system = values.get("system")
    if not isinstance(system, str) or not system.strip() or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _answer(value: Any, record: Record, part: str) -> list[Message]:
    if isinstance(value, list):
        messages = read_messages(value, record, part)
        if {messages[0]["role"], messages[-1]["role"]} != {"assistant"}:
            raise record.fault(f"its {part} is not of the assistant.")
        return messages
    return [{"role": "assistant", "content": _string(value, record, part)}]


def _preference(values: Mapping[Part, Any], record: Record) -> Row:
    """With a prompt of its own, or with the one that two whole chats begin with."""
    chosen, rejected = values["chosen"], values["rejected"]
    if "prompt" not in values or (_is_chat(chosen) and _is_chat(rejected)):
        return _preferred_chats(values, record)
    row: Row = {
        "prompt": _prompt(values, record),
        "chosen": _answer(chosen, record, "chosen"),
        "rejected": _answer(rejected, record, "rejected"),
    }
    _check_different(row, record)
    return row


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1


def _preferred_chats(values: Mapping[Part, Any], record: Record) -> Row:
    if not (_is_chat(values["chosen"]) and _is_chat(values["rejected"])):
        raise record.fault(
            "has no prompt; give a column prompt, or whole chats as chosen and rejected."
        )
    chosen = _with_system(read_chat(values["chosen"], record), values)
    rejected = _with_system(read_chat(values["rejected"], record), values)
    pairs = enumerate(zip(chosen, rejected, strict=False))
    common = next((i for i, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    if chosen == rejected:
        raise record.fault(_SAME)
    row = {
        "prompt": chosen[:common],
        "chosen": chosen[common:],
        "rejected": rejected[common:],
    }
    if (
        not common
        or chosen[common - 1]["role"] != "user"
        or not (row["chosen"] and row["rejected"])
    ):
        raise record.fault(
            "its chosen and rejected chats do not begin with the same prompt and end with two "
            "answers to it."
        )
    return row


_SAME = "its chosen and rejected answers are the same, so nothing is preferred."


def _check_different(row: Row, record: Record) -> None:
    if row["chosen"] == row["rejected"]:
        raise record.fault(_SAME)


def _prompt_row(values: Mapping[Part, Any], record: Record, columns: Columns) -> Row:
    """With the expected answer as `answer`, and every other column for the rewards."""
    used = {name for part, name in columns.items() if part in {"prompt", "system", "input"}}
    row: Row = {
        name: value
        for name, value in record.values.items()
        if name not in used and isinstance(value, str | int | float | bool | None)
    }
    answer = columns.get("answer") or columns.get("completion")
    if answer is not None:
        row.pop(answer, None)
        row["answer"] = _string(record.values[answer], record, "answer")
    return {**row, "prompt": _prompt(values, record)}


def _label(value: Any, record: Record) -> bool:
    told = str(value).strip().lower()
    if told not in _TRUE | _FALSE:
        raise record.fault(f"its label is {told[:40]!r}; it is true or false.")
    return told in _TRUE


def _string(value: Any, record: Record, part: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise record.fault(f"its {part} is no text.")
    if not _is_given(value):
        raise record.fault(f"its {part} is empty.")
    check_characters(str(value), record, part)
    return str(value)


def _is_given(value: Any) -> bool:
    """Whether there is something: neither nothing nor white space."""
    return bool(value.strip()) if isinstance(value, str) else value is not None
