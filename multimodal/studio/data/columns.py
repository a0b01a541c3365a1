"""What a column is: as the person says, or by its name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from multimodal.studio.data.records import Record
from multimodal.studio.settings import Method, Role

Kind = Literal["text", "completion", "chat", "preference", "rated", "prompt"]
Part = Role | Literal["instruction", "input"]
"""What a column may be; the last two only by their names."""

KINDS: Mapping[Method, tuple[Kind, ...]] = {
    "lora": ("chat", "completion", "text"),
    "qlora": ("chat", "completion", "text"),
    "full": ("chat", "completion", "text"),
    "dpo": ("preference",),
    "reward": ("preference",),
    "kto": ("rated",),
    "grpo": ("prompt",),
}
"""What each method is taught with."""
PARTS: Mapping[Kind, tuple[Part, ...]] = {
    "chat": ("messages",),
    "preference": ("chosen", "rejected"),
    "rated": ("prompt", "completion", "label"),
    "completion": ("prompt", "completion"),
    "text": ("text",),
    "prompt": ("prompt",),
}
"""Which columns make each kind, in the order in which a kind is looked for."""

_NAMES: Mapping[Part, tuple[str, ...]] = {
    "text": ("text",),
    "prompt": ("prompt", "question", "query"),
    "completion": ("completion", "output", "response", "answer"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "label": ("label",),
    "system": ("system", "system_prompt"),
    "messages": ("messages", "conversations", "conversation"),
    "instruction": ("instruction",),
    "input": ("input",),
}
_USUAL: Mapping[str, Part] = {name: part for part, names in _NAMES.items() for name in names}
_SENTENCES: Mapping[Kind, str] = {
    "text": "texts",
    "completion": "prompts with completions",
    "chat": "chats",
    "preference": "prompts with a chosen and a rejected answer",
    "rated": "prompts with rated completions",
    "prompt": "prompts alone",
}
_WAYS: Mapping[Kind, str] = {
    "text": "a column text",
    "completion": "columns prompt and completion",
    "chat": "a column messages",
    "preference": "columns prompt, chosen and rejected",
    "rated": "columns prompt, completion and label (true or false)",
    "prompt": "a column prompt",
}

Columns = Mapping[Part, str]
"""The column of each part."""


def columns_of(record: Record, given: Mapping[str, Role]) -> Columns:
    """Which column is what: as `given`, and the others by their names in any case. Raises
    DataError for a column that is given and not there."""
    for name in given:
        if name not in record.values:
            raise record.fault(f"has no column {name}{_describe_columns(name, record)}.")
    found: dict[Part, str] = {part: name for name, part in given.items()}
    for name in record.values:
        part = _USUAL.get(name.strip().lower())
        if part is not None and name not in given:
            found.setdefault(part, name)
    if "instruction" in found:
        found.setdefault("prompt", found["instruction"])
    elif "input" in found:
        found.setdefault("prompt", found["input"])
    return found


def kind_of(record: Record, columns: Columns, method: Method) -> Kind:
    """The kind of sample that the columns make, one that suits the method before any other. Raises
    DataError where they make none, or none that suits it."""
    found = {*columns, *({"completion"} if "answer" in columns else set())}
    possible = [kind for kind, parts in PARTS.items() if found.issuperset(parts)]
    suitable = [kind for kind in KINDS[method] if kind in possible]
    if suitable:
        return suitable[0]
    ways = _either([_WAYS[kind] for kind in KINDS[method]])
    # Prompts alone are rather a sample with a column that was not recognised.
    if not possible or possible == ["prompt"]:
        raise record.fault(
            f"{method} needs {ways}, and there is {_join_names(record.values)}; if "
            f"{_example(record, columns, KINDS[method])}."
        )
    raise record.fault(
        f"holds {_SENTENCES[possible[0]]}, and {method} takes "
        f"{_either([_SENTENCES[kind] for kind in KINDS[method]])}; give it {ways}, or teach with "
        f"{_either([one for one, kinds in KINDS.items() if possible[0] in kinds])}."
    )


def _example(record: Record, columns: Columns, kinds: Sequence[Kind]) -> str:
    """How to say what a column is: of one that is spelt nearly as it is called, or of any."""
    unknown = [name for name in record.values if name not in columns.values()]
    parts = [part for kind in reversed(kinds) for part in PARTS[kind] if part not in columns]
    for part in parts:
        for usual in _NAMES[part]:
            if near := _closest_names(usual, unknown):
                return f"{near[0]} is its {part}, say --columns {near[0]}={part}"
    name = (unknown or [*record.values, "COLUMN"])[0]
    return f"{name} is its {parts[0]}, say --columns {name}={parts[0]}"


def check_kind(record: Record, columns: Columns, kind: Kind) -> None:
    """Raise DataError for a record that lacks a part of the kind that the first one is of."""
    for part in PARTS[kind]:
        if part not in columns and not (part == "completion" and "answer" in columns):
            raise record.fault(
                f"has no {part}, as those before it have{_describe_columns(part, record)}."
            )


def _describe_columns(name: str, record: Record) -> str:
    near = _closest_names(name, record.values)
    known = f"there is {_join_names(record.values)}"
    return f"; {known} (did you mean {near[0]}?)" if near else f"; {known}"


def _closest_names(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=1)


def _join_names(names: Iterable[str]) -> str:
    return " and ".join(str(name)[:40] for name in list(names)[:12]) or "nothing"


def _either(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
