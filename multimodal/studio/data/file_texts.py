"""Texts that belong to files of a folder, as words belong to a recording and a caption to a
picture.

    data/1.wav, data/1.txt                      each file beside its text
    data/metadata.csv (file_name, text)         a table that names files beside it or below
    data/train/..., data/test/...               as the folders say; else some are held out

A table is CSV, TSV or JSON lines.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from multimodal.errors import DataError
from multimodal.studio.data.folder_files import SourceFile
from multimodal.studio.data.kept_files import listed
from multimodal.studio.data.records import Split
from multimodal.studio.data.sources import split_of

TABLES = frozenset({".csv", ".tsv", ".jsonl"})


@dataclass(frozen=True, slots=True)
class FileKind:
    """What the texts are of. `noun`: one of them; `suffixes`: of files that are meant to be one,
    whatever they hold; the columns: of a table, the first that it has of each."""

    noun: str
    suffixes: frozenset[str]
    file_columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    question_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileText:
    """`question`: what the text answers, "" where nothing is said of it."""

    file: SourceFile
    text: str
    question: str
    split: Split | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """`parts`: the file's; `place`: where the text stands, for people."""

    parts: tuple[str, ...]
    text: str
    question: str
    place: str


def find_texts(
    name: str, files: Sequence[SourceFile], kind: FileKind, notices: list[str]
) -> list[FileText]:
    """Each file of that kind with its text, in the order of the texts; with several where a table
    asks several questions. What is neither goes into `notices`. Raises DataError, with every kind
    of fault in one sentence."""
    wanted = {file.parts: file for file in files if suffix_of(file) in kind.suffixes}
    tables = [file for file in files if suffix_of(file) in TABLES]
    entries = _table_entries(name, tables, kind) if tables else _entries_beside(files, wanted)
    if wanted and (faults := _faults(entries, wanted, kind)):
        raise DataError(f"{name}: {listed(faults)}. Add what is missing, or remove the rest.")
    used = wanted.keys() | {file.parts for file in tables}
    texts = set() if tables else {file.parts for file in files if suffix_of(file) == ".txt"}
    if others := [file.name for file in files if file.parts not in used | texts]:
        what = (
            f"is neither {kind.noun} nor text and is"
            if len(others) == 1
            else f"are neither {kind.noun}s nor texts and are"
        )
        notices.append(f"{listed(others, ', ')} {what} left out.")
    return [
        FileText(wanted[entry.parts], entry.text, entry.question, _split(wanted[entry.parts]))
        for entry in entries
        if entry.parts in wanted
    ]


def suffix_of(file: SourceFile) -> str:
    return PurePosixPath(file.parts[-1]).suffix.lower()


def _faults(
    entries: Sequence[_Entry], wanted: Mapping[tuple[str, ...], SourceFile], kind: FileKind
) -> list[str]:
    faults, seen = list[str](), set[tuple[tuple[str, ...], str]]()
    twice: str | None = None
    for entry in entries:
        file = wanted.get(entry.parts)
        if file is None:
            faults.append(f"{entry.place} has a text and no {kind.noun}")
        elif not any(c.isalnum() for c in entry.text):
            faults.append(f"{entry.place} has no words")
        elif (entry.parts, entry.question) in seen:
            twice = twice or file.name
        seen.add((entry.parts, entry.question))
    known = {entry.parts for entry in entries}
    faults += [f"{file.name} has no text" for file in wanted.values() if file.parts not in known]
    return [*faults, f"{twice} is named more than once"] if twice else faults


def _entries_beside(
    files: Sequence[SourceFile], wanted: Mapping[tuple[str, ...], SourceFile]
) -> list[_Entry]:
    """The texts of NAME.txt, each for the file of its name."""
    stems = {_stem(file): file.parts for file in wanted.values()}
    return [
        _Entry(stems.get(_stem(file), file.parts), _decoded(file).strip(), "", file.name)
        for file in files
        if suffix_of(file) == ".txt"
    ]


def _table_entries(name: str, tables: Sequence[SourceFile], kind: FileKind) -> list[_Entry]:
    """What tables say of files, which are named by their place from the table on."""
    found = []
    for table in tables:
        for number, row in _rows(table):
            place = f"{table.name}, line {number}"
            file, text = _column(row, kind.file_columns), _column(row, kind.text_columns)
            if file is None or text is None:
                raise DataError(
                    f"{name}: {place}, lacks a {kind.noun} or a text; its columns are file_name "
                    "and text."
                )
            parts = PurePosixPath(file.replace("\\", "/")).parts
            question = (_column(row, kind.question_columns) or "").strip()
            found.append(_Entry((*table.parts[:-1], *parts), text.strip(), question, place))
    return found


def _rows(table: SourceFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with the number of their line. Raises DataError."""
    text = _decoded(table)
    try:
        if suffix_of(table) == ".jsonl":
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    yield number, dict(json.loads(line))
            return
        first = text.partition("\n")[0]
        separator = "\t" if suffix_of(table) == ".tsv" else max(",;\t", key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            yield reader.line_num, row
    except (csv.Error, ValueError, TypeError) as error:
        raise DataError(f"{table.name} is no table that can be read ({error}).") from error


def _column(row: dict[str, Any], names: Sequence[str]) -> str | None:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    return value if isinstance(value, str) else None


def _decoded(file: SourceFile) -> str:
    try:
        return file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file.name} is no text in UTF-8 ({error}); save it as that.") from error


def _stem(file: SourceFile) -> tuple[str, ...]:
    return (*file.parts[:-1], PurePosixPath(file.parts[-1]).stem)


def _split(file: SourceFile) -> Split | None:
    return split_of(Path(file.parts[0])) if len(file.parts) > 1 else None
