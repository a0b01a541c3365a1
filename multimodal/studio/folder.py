"""The folder of one job, and what lies in it.

    job.toml          what it is to do (`JobSettings`)
    status.json       how it stands (`Status`), replaced in one step
    metrics.jsonl     `Metric`, one a line
    samples.jsonl     `Sample`
    notices.jsonl     `JobNotice`
    log.txt           what the libraries printed
    start.json        with what it was started last (`Start`)
    fault-N.txt       why its process of rank N ended, where several devices share its batches
    stop              there while its process is asked to end
    data/             train.jsonl and test.jsonl: rows as TRL's trainers read them
    checkpoints/      checkpoint-N/, as the trainer writes them, each with manifest.json
    result/           the adapter or the model, in the hub's layout
    pictures/         what it drew at evaluations, named by `Sample`
    report.json       did it learn (`Report`)
    exports/          the result for other programs (`studio.export`)

A line that was cut short by a crash is left out when the files are read, and what a resumed run
does again replaces what was said of the same steps.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from multimodal.private_files import make_private_folder
from multimodal.studio.records import JobNotice, Metric, Report, Sample, Status
from multimodal.studio.settings import JobSettings, read_job_settings

ABANDONED_S = 24 * 3600
T = TypeVar("T")
R = TypeVar("R", Metric, Sample, JobNotice)

BUSY_TRIES, BUSY_WAIT_S = 20, 0.05
"""On Windows a file that somebody reads cannot be replaced, nor one be read that is replaced."""


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Reads and writes one job's files. One process writes, any number read."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def settings_file(self) -> Path:
        return self.path / "job.toml"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def start_file(self) -> Path:
        return self.path / "start.json"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop"

    @property
    def report_file(self) -> Path:
        return self.path / "report.json"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def result(self) -> Path:
        return self.path / "result"

    def create(self, settings: JobSettings, status: Status) -> None:
        """Make the folder for its owner alone. Raises OSError."""
        make_private_folder(self.path)
        self.settings_file.write_text(settings.as_toml(), "utf-8")
        self.write_status(status)

    def settings(self) -> JobSettings:
        """Raises SettingsError."""
        return read_job_settings(self.settings_file)

    def status(self) -> Status:
        """Of a file that is not there or is damaged, that of a job that was interrupted."""
        return self.read("status.json", Status) or Status("interrupted")

    def write_status(self, status: Status) -> None:
        self.write("status.json", status)

    def write_fault(self, rank: int, sentence: str) -> None:
        """Why a process of the job ended that is not its first, which alone writes the status."""
        (self.path / f"fault-{rank}.txt").write_text(sentence, "utf-8")

    def fault(self) -> str | None:
        """That of the lowest rank."""
        found = sorted(self.path.glob("fault-*.txt"))
        return found[0].read_text("utf-8", "replace") if found else None

    def discard_faults(self) -> None:
        for path in self.path.glob("fault-*.txt"):
            path.unlink(missing_ok=True)

    def report(self) -> Report | None:
        return self.read("report.json", Report)

    def write_report(self, report: Report) -> None:
        self.write("report.json", report)

    def metrics(self) -> list[Metric]:
        """In the order of their steps; of a step that was done twice, what was said last."""
        return _newest(self._lines("metrics.jsonl", Metric))

    def samples(self) -> list[Sample]:
        return _newest(self._lines("samples.jsonl", Sample))

    def notices(self) -> list[JobNotice]:
        return list(self._lines("notices.jsonl", JobNotice))

    def add(self, record: Metric | Sample | JobNotice) -> None:
        """Append a line and see that it is on the disk."""
        names = {Metric: "metrics", Sample: "samples", JobNotice: "notices"}
        line = TypeAdapter(type(record)).dump_json(record)
        with (self.path / f"{names[type(record)]}.jsonl").open("ab") as file:
            if file.tell() and not self._ends_whole(Path(file.name)):
                file.write(b"\n")
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _ends_whole(path: Path) -> bool:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def discard_unfinished(self) -> None:
        """Remove the files that a process which is gone was writing."""
        for path in self.path.rglob("*.new"):
            if path.is_file():
                path.unlink(missing_ok=True)

    def _lines(self, name: str, kind: type[R]) -> Iterator[R]:
        adapter = TypeAdapter(kind)
        try:
            text = (self.path / name).read_bytes()
        except FileNotFoundError:
            return
        for line in text.splitlines():
            try:
                yield adapter.validate_json(line)
            except ValidationError:
                continue

    def read(self, name: str, kind: type[T]) -> T | None:
        """The value that `write` kept; None where the file is not there or damaged."""
        try:
            text = _unless_busy((self.path / name).read_bytes)
            return TypeAdapter(kind).validate_json(text)
        except (OSError, ValidationError):
            return None

    def write(self, name: str, value: object) -> None:
        """Keep a value as JSON, on the disk and in one step. Raises OSError."""
        fresh = self.path / f"{name}.new"
        with fresh.open("wb") as file:
            file.write(TypeAdapter(type(value)).dump_json(value, indent=2))
            file.flush()
            os.fsync(file.fileno())
        _unless_busy(lambda: fresh.replace(self.path / name))


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove the folders there whose names begin so, and of which nothing was heard for a day: the
    program that was to remove them was killed."""
    before = time.time() - ABANDONED_S
    for path in folder.glob(f"{prefix}*"):
        if path.stat().st_mtime < before:
            shutil.rmtree(path, ignore_errors=True)


def _unless_busy(act: Callable[[], T]) -> T:
    """Try again while another process has the file open. Raises OSError."""
    for _ in range(BUSY_TRIES):
        try:
            return act()
        except PermissionError:
            time.sleep(BUSY_WAIT_S)
    return act()


def _newest(records: Iterator[Any]) -> list[Any]:
    """Without what was said of steps that were done again: by a later run, or by one that went back
    to a checkpoint with less at once."""
    kept: list[Any] = []
    for record in records:
        goes_back = bool(kept) and kept[-1].step > record.step
        while kept and kept[-1].step >= record.step and (goes_back or kept[-1].run < record.run):
            kept.pop()
        kept.append(record)
    return kept
