"""The data of a job: read, checked, without doubles, and split; the one entry of this package."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from multimodal.errors import DataError
from multimodal.private_files import make_private_folder
from multimodal.studio.data.columns import KINDS, Kind
from multimodal.studio.data.hub import LoadDataset, load_dataset
from multimodal.studio.data.records import Record, Split
from multimodal.studio.data.samples import Samples
from multimodal.studio.data.sources import read_source
from multimodal.studio.data.splits import hold_out, keep_apart, row_key, unique
from multimodal.studio.settings import CHATS, JobSettings, Method

Row = dict[str, Any]

TRAIN_FILE = "train.jsonl"
TEST_FILE = "test.jsonl"


class FeedbackRows(Protocol):
    """What the person's own chats are made into: rows of prompt, completion and label, and of
    prompt, chosen and rejected."""

    @property
    def rated(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def preferences(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Rows as TRL's trainers read them. `notices`: what was left out, in sentences.
    `source_digest`: SHA-256 of all rows as they were read, the same for the same data."""

    kind: Kind
    train: list[Row]
    test: list[Row]
    notices: tuple[str, ...]
    source_digest: str


def prepare_data(
    settings: JobSettings,
    feedback_rows: FeedbackRows | None = None,
    load: LoadDataset = load_dataset,
) -> PreparedData:
    """What `settings.data` names, for `settings.method`; `feedback_rows` where that is the person's
    chats, and `load` to fetch a data set of the hub. Nothing is written. Raises DataError, one
    sentence with file and line, and ConfigurationError where a library is missing."""
    samples = Samples(settings)
    rows: list[tuple[Row, Split | None]] = []
    notices: list[str] = []
    for record in _records(settings, feedback_rows, load, notices):
        row = samples.row(record)
        if row is not None:
            rows.append((row, record.split))
    name = settings.data if settings.data == CHATS else Path(settings.data).name
    if samples.kind is None:
        raise DataError(f"{name} is empty; it needs at least 2 samples.")
    notices += _omissions(samples)
    only = unique(row for row, _ in rows)
    if len(only) < len(rows):
        notices.append(
            f"{len(rows) - len(only)} of {len(rows)} samples are duplicates and are used once."
        )
    if len(only) < 2:
        raise DataError(
            f"{name} has {_count(len(only))}; at least 2 different ones are needed, one to learn "
            "from and one to test with."
        )
    train, test = _split(settings, only, rows, notices)
    return PreparedData(samples.kind, train, test, tuple(notices), _digest(rows))


def _records(
    settings: JobSettings,
    feedback_rows: FeedbackRows | None,
    load: LoadDataset,
    notices: list[str],
) -> Iterator[Record]:
    if settings.data != CHATS:
        yield from read_source(settings.data, load, notices.append)
        return
    if feedback_rows is None:
        raise DataError("Your own chats are not at hand here; start the job from the program.")
    for number, row in enumerate(_fitting(feedback_rows, settings.method), 1):
        yield Record(row, "your chats", number, "answer")


def _fitting(feedback: FeedbackRows, method: Method) -> list[Mapping[str, Any]]:
    """Rated answers for KTO, pairs for what prefers; what was rated good, or kept in place of
    another, for the rest."""
    if "rated" in KINDS[method]:
        rows = list(feedback.rated)
    elif "preference" in KINDS[method]:
        rows = list(feedback.preferences)
    else:
        good = [row for row in feedback.rated if row["label"]]
        kept = [*good, *feedback.preferences]
        answers = [row["completion"] if "completion" in row else row["chosen"] for row in kept]
        rows = [
            {"prompt": row["prompt"], "completion": answer}
            for row, answer in zip(kept, answers, strict=True)
        ]
    if not rows:
        raise DataError(
            f"Your chats hold nothing that {method} can use yet; give answers a thumb up or down, "
            "or have some answered again and keep the better one."
        )
    return rows


def _omissions(samples: Samples) -> Iterator[str]:
    if samples.blank:
        yield f"{samples.blank} blank {'line is' if samples.blank == 1 else 'lines are'} left out."
    if samples.refused:
        yield (
            f"{_count(samples.refused)} with the label false {_is_or_are(samples.refused)} left "
            "out, because this method teaches only good answers."
        )


def _split(
    settings: JobSettings,
    only: list[Row],
    rows: list[tuple[Row, Split | None]],
    notices: list[str],
) -> tuple[list[Row], list[Row]]:
    if all(split is None for _, split in rows):
        return hold_out(only, settings.test_share, settings.seed)
    train, test, leaks = keep_apart(rows)
    if leaks:
        notices.append(
            f"{_count(leaks)} for training {_is_or_are(leaks)} in the test as well, or "
            f"{_ask_or_asks(leaks)} the same, and {_is_or_are(leaks)} left out of the training."
        )
    if not train or not test:
        raise DataError(
            f"{Path(settings.data).name} has {_count(len(train))} for training and "
            f"{_count(len(test))} for the test, once none is in both; each needs at least 1."
        )
    return train, test


def _count(number: int) -> str:
    return f"{number} sample{'' if number == 1 else 's'}"


def _is_or_are(number: int) -> str:
    return "is" if number == 1 else "are"


def _ask_or_asks(number: int) -> str:
    return "asks" if number == 1 else "ask"


def _digest(rows: list[tuple[Row, Split | None]]) -> str:
    digest = hashlib.sha256()
    for row, split in rows:
        digest.update(f"{split}:{row_key(row)}\n".encode())
    return digest.hexdigest()


def write_data(prepared: PreparedData, folder: Path) -> None:
    """Write `TRAIN_FILE` and `TEST_FILE` into `folder`, for its owner alone, each in one step.
    Raises OSError."""
    make_private_folder(folder)
    for name, rows in ((TRAIN_FILE, prepared.train), (TEST_FILE, prepared.test)):
        write_rows(folder / name, rows)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON, one a line, in one step. Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_rows(path: Path) -> list[Row]:
    """The rows of one of those files. Raises OSError."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
