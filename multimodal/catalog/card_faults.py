"""What is wrong with a card or a profile, as pydantic found it, in words that fit its TOML file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

KINDS = {
    *("measured", "modules", "gguf"),
    *("files", "wheels", "folder", "package", "hub", "file", "parts"),
}
"""Which of several tables a card has; pydantic names it beside the field, TOML does not."""


def first_fault(error: ValidationError, model: type[BaseModel]) -> str:
    """The fault that helps most, in one clause that names its place in the file."""
    # A misspelt field is also a missing one: the misspelling is what helps.
    fault: Any = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = _place(fault["loc"])
    if fault["type"] == "missing":
        return f"the field '{place}' is missing"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(fault["loc"][-1]), model.model_fields, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown field '{place}'{hint}"
    if fault["type"] == "value_error":  # our own sentence, which names what is wrong
        return f"{place}: {fault['msg'].removeprefix('Value error, ')}"
    return f"{place}: {fault['msg']} (it says {fault['input']!r})"


def _place(location: Iterable[str | int]) -> str:
    """Where a fault is, as TOML would name it: without the kinds of tables. A step that follows a
    kind is a field, even one that is called like a kind ("files" of a source of the kind "files").
    """
    steps: list[str] = []
    is_field = False
    for step in location:
        if step in KINDS and not is_field:
            is_field = True
            continue
        is_field = False
        steps.append(str(step))
    return ".".join(steps)
