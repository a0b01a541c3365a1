"""One card's weights on their way: what is wanted, what is there, what was verified before."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from multimodal.catalog.architectures import StrictModel
from multimodal.catalog.cards import ModelCard
from multimodal.catalog.sources import FilesSource
from multimodal.errors import WeightsError
from multimodal.weights.downloads import raise_if_stopped
from multimodal.weights.progress import FetchProgress, Phase, ReportFetch, silent

RECORD = "verified.json"
PINNED = "pinned.json"
PART = ".part"
REPORT_EVERY_S = 0.1
CHUNK_BYTES = 1 << 22
FORBIDDEN = "they are not complete here and --offline forbids fetching them"


class File(StrictModel):
    """A file as it must lie in the card's folder. `checksum` is "sha256:..." or "git:...", which
    is the SHA-1 that git names a file's content by; None where only the person knows it."""

    path: str
    size_bytes: int | None
    checksum: str | None


@dataclass(frozen=True, slots=True)
class DownloadSize:
    """How much a download is: all of it, what of it is there, and what it takes on the disk."""

    total_bytes: int = 0
    done_bytes: int = 0
    needed_bytes: int = 0

    def __add__(self, other: DownloadSize) -> DownloadSize:
        return DownloadSize(
            self.total_bytes + other.total_bytes,
            self.done_bytes + other.done_bytes,
            self.needed_bytes + other.needed_bytes,
        )


class Fetcher(ABC):
    """A kind of place that weights come from, for one card."""

    def declared_bytes(self) -> int:
        """What the card itself says will be fetched; 0 where only the place knows."""
        return 0

    @abstractmethod
    def query_bytes(self, context: FetchContext) -> int:
        """How much would be fetched. Raises WeightsError where it cannot be had."""

    @abstractmethod
    def required_files(self, context: FetchContext) -> tuple[File, ...]:
        """The files that the folder must hold in the end."""

    def download_size(
        self, context: FetchContext, wanted: tuple[File, ...], missing: tuple[File, ...]
    ) -> DownloadSize:
        """What fetching the missing files will come to."""
        total, needed = (sum(file.size_bytes or 0 for file in files) for files in (wanted, missing))
        return DownloadSize(total, total - needed, needed)

    @abstractmethod
    def fetch(self, context: FetchContext, missing: tuple[File, ...]) -> None:
        """Put the missing files there, each of them verified."""

    def local_copies(self, context: FetchContext, file: File) -> Iterable[Path]:
        """Where else on this machine the file may lie; nothing is asked over a connection."""
        return ()


@dataclass
class FetchTally:
    """How far one card is, counted over all of its parts."""

    total_bytes: int = 0
    done_bytes: int = 0
    note: str = ""
    told_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class FetchContext:
    """One card, or one part of it, on its way; `stop` ends it."""

    card: ModelCard
    folder: Path
    on_progress: ReportFetch = silent
    stop: threading.Event | None = None
    offline: bool = False
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    tally: FetchTally = field(default_factory=FetchTally)

    def part(self, name: str) -> FetchContext:
        """The same download in the sub-folder of that name."""
        return replace(self, folder=self.folder / name)

    def report(self, phase: Phase, more: int = 0) -> None:
        raise_if_stopped(self.stop)
        done = self.tally.done_bytes + more
        total, note = self.tally.total_bytes, self.tally.note
        self.on_progress(FetchProgress(self.card.name, done, total, phase, note))

    def note(self, note: str) -> None:
        """Tell the person what happened on the way; it stays beside the progress."""
        self.tally.note = note
        self.report("fetching")

    def report_bytes(self, size_bytes: int) -> None:
        """Of the file that is on its way, so much is there."""
        if time.monotonic() - self.tally.told_s > REPORT_EVERY_S:
            self.tally.told_s = time.monotonic()
            self.report("fetching", size_bytes)

    def finish_file(self, size_bytes: int) -> None:
        """A file of that size is there."""
        self.tally.done_bytes += size_bytes

    def begin(self, extent: DownloadSize) -> None:
        """Say how much there is to fetch, once the disk is seen to have room for it."""
        self.tally.total_bytes = extent.total_bytes
        self.tally.done_bytes = extent.done_bytes
        parts = sum(p.stat().st_size for p in self.folder.rglob(f"*{PART}"))
        needed = extent.needed_bytes - parts
        free = self.free_bytes(self.folder)
        if free < needed:
            raise WeightsError(
                f"they need {needed / 1e6:.0f} MB on the disk of {self.folder.parent} and "
                f"{free / 1e6:.0f} MB are free; free some, or choose another disk with --data DIR"
            )
        self.report("fetching")

    def has_file(self, file: File) -> bool:
        """Whether the file is there and right; a wrong one that can be fetched is removed."""
        path = self.folder / file.path
        if not path.is_file():
            return False
        self.report("verifying")
        if self.matches(path, file):
            return True
        if not self.offline:
            path.unlink()
        return False

    def fetch(
        self, part: Path, file: File, download: Callable[[], None], downloads: int = 2
    ) -> bool:
        """Whether `part` is the file after one download, or a second one if the first is wrong;
        a wrong one is removed."""
        if part.exists() and self.matches(part, file):
            return True
        for _attempt in range(downloads):
            download()
            if self.matches(part, file):
                return True
            part.unlink()
        return False

    def matches(self, path: Path, file: File) -> bool:
        """Whether the file at `path` has the size and the checksum of `file`."""
        size = path.stat().st_size
        if file.size_bytes is not None and size != file.size_bytes:
            return False
        if file.checksum is None:
            return True
        kind, _, expected = file.checksum.partition(":")
        digest = hashlib.sha256()
        if kind == "git":
            digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                raise_if_stopped(self.stop)
                digest.update(chunk)
        return digest.hexdigest() == expected

    # ------------------------------------------------------------ what was verified before

    def is_verified(self) -> bool:
        """Whether the files are those that were verified, by size and time; reads none of them."""
        try:
            record = json.loads((self.folder / RECORD).read_text("utf-8-sig"))
            source = self._source()
            files = read_stamps(record)
            same = record.get("source", source) == source and bool(files)
            return same and files == self._stamps(files)
        except (OSError, ValueError, TypeError, AttributeError):
            return False

    def record(self, wanted: tuple[File, ...]) -> None:
        stamps = self._stamps(file.path for file in wanted)
        record = json.dumps({"source": self._source(), "files": stamps})
        (self.folder / RECORD).write_text(record, "utf-8")
        self.report("ready")

    def _source(self) -> object:
        """What the files are known by; where else they can be had does not change them."""
        source = self.card.source
        if isinstance(source, FilesSource):
            return [[file.path, file.sha256, file.size_bytes] for file in source.files]
        return source.model_dump(mode="json")

    def _stamps(self, paths: Iterable[str]) -> dict[str, list[int]]:
        return {path: stamp(self.folder / path) for path in paths}


def stamp(path: Path) -> list[int]:
    """Size and modification time (ns) of a file. Raises OSError."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def read_stamps(record: Mapping[str, Any]) -> dict[str, list[int]]:
    """Size and modification time (ns) of every file that a record names."""
    # Records of wheels were once their files alone; those need not be read again.
    stamps: dict[str, list[int]] = record.get("files", record)
    return stamps
