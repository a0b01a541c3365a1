"""The lines of a text file, one at a time and none too long, so that no file fills the memory."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from multimodal.errors import DataError
from multimodal.studio.data.records import LINE_BYTES, TOTAL_BYTES, too_large, too_long

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_HEAD_BYTES = 8192


def read_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Each line with its number from 1, with the line break that it has (LF or CRLF). UTF-8, with
    or without byte order mark, or UTF-16 with one. Raises DataError that calls the file `name`."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(0)
            if head.startswith(_UTF_16) and not head.startswith(_UTF_32):
                yield from _utf_16_lines(file, name)
            else:
                _check_binary(head, name)
                yield from _utf_8_lines(file, name)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror or error}).") from error


def _utf_8_lines(file: io.BufferedReader, name: str) -> Iterator[tuple[int, str]]:
    total, number = 0, 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        total += len(line)
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > LINE_BYTES:
            raise too_long(name, number)
        if total > TOTAL_BYTES:
            raise too_large(name)
        _check_binary(line, name)
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}, line {number}: is not encoded in UTF-8 (byte "
                f"0x{line[error.start]:02X} at position {error.start + 1}); save the file as UTF-8."
            ) from error


def _utf_16_lines(file: io.BufferedReader, name: str) -> Iterator[tuple[int, str]]:
    total, number = 0, 0
    with io.TextIOWrapper(file, "utf-16", newline="\n") as text:
        try:
            while line := text.readline(LINE_BYTES // 2 + 1):
                number += 1
                total += 2 * len(line)
                if len(line) > LINE_BYTES // 2:
                    raise too_long(name, number)
                if total > TOTAL_BYTES:
                    raise too_large(name)
                yield number, line
        except UnicodeError as error:
            raise DataError(
                f"{name}, after line {number}: begins as UTF-16 and does not go on so; save the "
                "file as UTF-8."
            ) from error


def _check_binary(some: bytes, name: str) -> None:
    if b"\0" in some:
        raise DataError(
            f"{name}: holds zero bytes, so it is a binary file and no text, or UTF-16 without its "
            "byte order mark; give text in UTF-8, or a .parquet file."
        )
