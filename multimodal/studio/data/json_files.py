"""Records of JSON Lines (.jsonl), and of a list of objects (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multimodal.errors import DataError
from multimodal.studio.data.records import Record
from multimodal.studio.data.text_lines import read_lines

LIST_CHARACTERS = 64 * 1024**2
"""The largest list, which is read whole, where lines are not."""


def read_json_lines(path: Path, name: str) -> Iterator[Record]:
    """An object a line. Raises DataError."""
    for number, line in read_lines(path, name):
        place = Record({}, name, number)
        if not line.strip():
            yield place
            continue
        if number == 1 and line.lstrip().startswith("["):
            raise place.fault(
                "begins a list, where each line is an object {...}; name the file .json."
            )
        try:
            yield _record(json.loads(line.rstrip("\r\n")), place)
        except (ValueError, RecursionError) as error:
            raise place.fault(
                f"is no JSON ({_reason(error)}); each line is one object {{...}}."
            ) from error


def read_json(path: Path, name: str) -> Iterator[Record]:
    """A list of objects, or an object a line, as many files of that name are. Raises DataError."""
    opening = next((line.lstrip() for _, line in read_lines(path, name) if line.strip()), "")
    if opening.startswith("["):
        yield from _read_list(path, name)
    elif opening.startswith("{") or not opening:
        yield from read_json_lines(path, name)
    else:
        raise DataError(f"{name}: is no JSON; a list [...] of objects is expected.")


def _read_list(path: Path, name: str) -> Iterator[Record]:
    """One object at a time, so that each has its line."""
    text = _whole(path, name)
    decode, at, line = json.JSONDecoder().raw_decode, text.index("[") + 1, 1
    counted, is_first = 0, True
    while True:
        at = _skip(text, at)
        line, counted = line + text.count("\n", counted, at), at
        place = Record({}, name, line)
        if text[at : at + 1] == "]":
            break
        if not is_first:
            if text[at : at + 1] != ",":
                raise place.fault("is no JSON (a comma or the end of the list is expected).")
            at = _skip(text, at + 1)
            line, counted = line + text.count("\n", counted, at), at
            place = Record({}, name, line)
        try:
            value, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise place.fault(f"is no JSON ({_reason(error)}).") from error
        yield _record(value, place)
        is_first = False
    if text[at + 1 :].strip():
        raise place.fault("something follows the end of the list.")


def _whole(path: Path, name: str) -> str:
    pieces, length = [], 0
    for _, line in read_lines(path, name):
        pieces.append(line)
        length += len(line)
        if length > LIST_CHARACTERS:
            raise DataError(
                f"{name}: a list of more than {LIST_CHARACTERS // 1024**2} MB; write one "
                "object a line and name the file .jsonl."
            )
    return "".join(pieces)


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in {" ", "\t", "\r", "\n"}:
        at += 1
    return at


def _record(value: Any, place: Record) -> Record:
    if not isinstance(value, dict):
        raise place.fault(
            f'holds {_named(value)}, where an object such as {{"text": ...}} is expected.'
        )
    return Record(value, place.file, place.line)


def _named(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
