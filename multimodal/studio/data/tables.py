"""Records of tables: .csv, .tsv and .parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from multimodal.errors import DataError
from multimodal.studio.data.records import (
    LINE_BYTES,
    TOTAL_BYTES,
    Record,
    too_large,
)
from multimodal.studio.data.text_lines import read_lines
from multimodal.studio.recipes import check_libraries

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 64
_SEPARATORS = ",;\t|"


def read_csv(path: Path, name: str) -> Iterator[Record]:
    """A table whose first line names the columns, separated by commas, semicolons, tabs or bars,
    whichever that line has most of (.tsv: tabs). Raises DataError."""
    csv.field_size_limit(LINE_BYTES)
    lines = (line for _, line in read_lines(path, name))
    first = next(lines, "")
    separator = "\t" if path.suffix.lower() == ".tsv" else max(_SEPARATORS, key=first.count)
    table = csv.reader(_again(first, lines), delimiter=separator, strict=True)
    names: list[str] | None = None
    begin = 1
    while (fields := _fields(table, name, begin)) is not None:
        place = Record({}, name, begin)
        begin = table.line_num + 1
        if not any(field.strip() for field in fields):
            yield place
        elif names is None:
            names = _names(fields, place)
        else:
            yield _record(names, fields, place)


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _fields(table: Iterator[list[str]], name: str, begin: int) -> list[str] | None:
    try:
        return next(table, None)
    except csv.Error as error:
        raise DataError(
            f"{name}, line {begin}: is no row of a table ({error}); a text with quotes needs them "
            "doubled, and each opening quote a closing one."
        ) from error


def _names(fields: Sequence[str], place: Record) -> list[str]:
    names = [field.strip() for field in fields]
    if "" in names or len(set(names)) < len(names):
        raise place.fault(
            "names the columns, and needs a name of its own for each; it says "
            f"{', '.join(name or '(nothing)' for name in names)}."
        )
    return names


def _record(names: Sequence[str], fields: Sequence[str], place: Record) -> Record:
    if len(fields) != len(names):
        raise place.fault(
            f"has {len(fields)} fields, where the first line names {len(names)} columns; put a "
            "text that holds a separator between quotes."
        )
    return Record(dict(zip(names, fields, strict=True)), place.file, place.line)


def read_parquet(path: Path, name: str) -> Iterator[Record]:
    """Rows, a few at a time. Raises DataError."""
    check_libraries()
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            _check_size(file, name)
            number = 0
            for batch in file.iter_batches(BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(values, name, number, "row")
    except (ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"{name}: cannot be read as Parquet ({reason}).") from error


def _check_size(file: ParquetFile, name: str) -> None:
    facts = file.metadata
    sizes = [facts.row_group(index).total_byte_size for index in range(facts.num_row_groups)]
    if sum(sizes) > TOTAL_BYTES:
        raise too_large(name)
