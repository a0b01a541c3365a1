"""One sample as its file has it, and what is read of a file at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from multimodal.errors import DataError

LINE_BYTES = 8 * 1024**2
"""The longest line, or field of a table: two million tokens, far more than a model reads."""
TOTAL_BYTES = 1024**3
"""The most that is read of one set of data, which is held in memory."""

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Record:
    """`values` by the names of the columns, nothing for a blank line. `line` counts from 1, and
    `unit` says what it counts; `split`: the one that the file's name says."""

    values: Mapping[str, Any]
    file: str
    line: int
    unit: Literal["line", "row", "answer"] = "line"
    split: Split | None = None

    @property
    def place(self) -> str:
        return f"{self.file}, {self.unit} {self.line}"

    def fault(self, what: str) -> DataError:
        """The sentence that begins with where the record is."""
        return DataError(f"{self.place}: {what}")


def check_characters(text: str, record: Record, part: str) -> None:
    """Raise DataError for half of a surrogate pair, which JSON can spell and no encoding has."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise record.fault(
            f"its {part} holds half a character (U+{ord(text[error.start]):04X}); write the whole "
            "one, or leave it out."
        ) from error


def too_long(file: str, line: int) -> DataError:
    return DataError(
        f"{file}, line {line}: is longer than {LINE_BYTES // 1024**2} MB, so it is no single "
        "sample; put each sample on a line of its own."
    )


def too_large(file: str) -> DataError:
    return DataError(
        f"{file}: holds more than {TOTAL_BYTES // 1024**3} GB of text, which is held in memory; "
        "give a smaller part of it."
    )
