"""Models saved as they were quantized, so that later starts read 4 GB in place of 14.

    <weights>/mistral-7b-instruct/             what was fetched, verified; never written to here
    <weights>/mistral-7b-instruct.quantized/   one folder, named after its settings:
        nf4-double_bfloat16_bitsandbytes-0.50.2_transformers-5.24.0_1f0c.../
            config.json, *.safetensors, quantized.json (the record)

One a model: another quantization, another library, or other published files make a new one, and
the old one goes. It is written to a folder with the ending .part, which is renamed once its files
are on the disk and their SHA-256 are recorded, so nothing that is half there is ever read; what a
program that was ended left behind is removed by the next one. One program at a time saves a model,
under a lock; reading takes none, so whoever reads has to bear that a checkpoint is gone.

Each start compares settings, sizes and times with the record. Where a time is another, as in a
folder that was copied, the SHA-256 decide, once. This module knows nothing of what is saved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from multimodal.catalog.architectures import StrictModel
from multimodal.errors import WeightsError
from multimodal.sizes import download_size
from multimodal.weights.fetch_context import PART

RECORD = "quantized.json"
FOLDER = ".quantized"
LIBRARIES = ("bitsandbytes", "transformers")
LAYOUT = 1
"""Another number once what is saved changes, so that none of an older version is read."""
SPARE_BYTES = 5_000_000_000
"""So much of the disk stays free."""
SAMPLES, SAMPLE_BYTES = 16, 4096
"""What is read of a published file to tell it from another one of its size and time."""

log = logging.getLogger(__name__)


class QuantizationSettings(StrictModel):
    """All that decides what quantizing makes. `source` is a digest of the published files, and
    `libraries` are those that quantize, with their versions."""

    kind: str
    compute: str
    model: str
    source: str
    libraries: dict[str, str]
    layout: int = LAYOUT

    @property
    def folder_name(self) -> str:
        libraries = [f"{name}-{release}" for name, release in self.libraries.items()]
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
        return "_".join((self.kind, self.compute, *libraries, digest))


class SavedFile(StrictModel):
    """A file of the checkpoint as it was when it was last known to be right."""

    size_bytes: int
    modified_ns: int
    sha256: str


class CheckpointRecord(StrictModel):
    """`published_bytes` were read in `published_s`, quantizing included; the model held
    `true_bytes`. `saved_s`: in how many seconds what was saved was last read.

    One that is not `is_readable` has no files: what was saved with these settings could not be
    read, so it is not saved again.
    """

    title: str
    settings: QuantizationSettings
    published_bytes: int
    published_s: float
    true_bytes: int
    files: dict[str, SavedFile]
    saved_s: float | None = None
    is_readable: bool = True


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """One that is there. `used_s`: when it was saved or last read, in seconds of Unix time."""

    model: str
    folder: Path
    record: CheckpointRecord
    used_s: float

    @cached_property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.record.files.values())

    @property
    def is_readable(self) -> bool:
        return self.record.is_readable

    @property
    def seconds(self) -> str:
        """“3.6 s instead of 10.4 s”, as far as they were measured."""
        record = self.record
        if record.saved_s is None:
            return f"{record.published_s:.1f} s when it was quantized"
        return f"{record.saved_s:.1f} s instead of {record.published_s:.1f} s"

    def as_dict(self) -> dict[str, object]:
        """For JSON; `used` is the time in seconds of Unix time."""
        record = self.record
        return {
            "model": self.model,
            "folder": str(self.folder),
            "quantization": record.settings.kind,
            "libraries": record.settings.libraries,
            "size_bytes": self.size_bytes,
            "published_bytes": record.published_bytes,
            "published_s": record.published_s,
            "saved_s": record.saved_s,
            "is_readable": record.is_readable,
            "used": self.used_s,
        }


class QuantizedCheckpoints:
    """Those in a folder of weights, `most_bytes` together; 0: none is saved or read."""

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._free_bytes = free_bytes
        self._sealing: list[threading.Thread] = []

    @property
    def are_wanted(self) -> bool:
        return self._most_bytes > 0

    def find(self, model: str, settings: QuantizationSettings) -> QuantizedCheckpoint | None:
        """The checkpoint that `model` was saved as with these settings, if its files are right; one
        that is damaged is removed."""
        self._sweep(model)
        folder = self._of(model) / settings.folder_name
        if not folder.is_dir():
            return None
        found = _read(model, folder)
        if found is None or found.record.settings != settings:
            self._discard(folder, f"{RECORD} is damaged or missing")
            return None
        if not found.is_readable:
            return None
        try:
            if (reason := self._damage(found)) is not None:
                self._discard(folder, reason)
                return None
        except OSError as error:
            log.warning("%s cannot be read (%s)", folder, error)
            return None
        with suppress(OSError):  # one that others own is read as well
            os.utime(folder / RECORD)
        return _read(model, folder) or found

    def save(self, model: str, record: CheckpointRecord, write: Callable[[Path], None]) -> None:
        """Let `write` fill a folder, and keep it under `record`, whose `files` are filled in here.

        Returns once it is written; its checksums are made behind that. Never raises what the disk
        or `write` does: the model is loaded, whatever becomes of this.
        """
        known = _read(model, self._of(model) / record.settings.folder_name)
        if known is not None and known.record.settings == record.settings:
            return  # another start saved it meanwhile, or it could not be read
        if (reason := self._refusal(record.true_bytes)) is not None:
            _not_saved(record, reason)
            return
        lock = self._lock(model)
        try:
            lock.acquire(blocking=False)
        except Timeout:  # another start saves it
            return
        except (OSError, NotImplementedError) as error:
            _not_saved(record, f"it cannot be locked ({error})")
            return
        part = self._of(model) / f"{record.settings.folder_name}-{secrets.token_hex(4)}{PART}"
        try:
            self._remove_parts(model)
            part.mkdir(parents=True)
            write(part)
        except BaseException as error:
            self._give_up(model, part, lock)
            if not isinstance(error, Exception):
                raise
            _not_saved(record, str(error))
            return
        arguments, name = (model, record, part, lock), f"seal {model}"
        sealing = threading.Thread(target=self._seal, args=arguments, daemon=True, name=name)
        self._sealing = [thread for thread in self._sealing if thread.is_alive()] + [sealing]
        sealing.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until what was written is kept, but no longer than that."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._sealing:
            thread.join(None if end_s is None else max(0.0, end_s - time.monotonic()))

    def note_seconds(self, checkpoint: QuantizedCheckpoint, seconds: float) -> QuantizedCheckpoint:
        """Record in how many seconds it was read; the checkpoint with that."""
        record = checkpoint.record.model_copy(update={"saved_s": seconds})
        self._write(checkpoint.folder, record)
        return replace(checkpoint, record=record)

    def discard_unreadable(self, checkpoint: QuantizedCheckpoint) -> None:
        """Remove one that could not be read. Where its files are as they were saved, the next one
        could not be read either: that is recorded, and none is saved with these settings."""
        folder, record = checkpoint.folder, checkpoint.record
        try:
            is_whole = all(_sha256(folder / n) == f.sha256 for n, f in record.files.items())
        except OSError:
            is_whole = False
        if not is_whole:
            self._drop(folder)
            return
        log.warning(
            "%s is read as published from now on; to try again: multimodal quantized remove %s",
            record.title,
            checkpoint.model,
        )
        self._write(folder, record.model_copy(update={"files": {}, "is_readable": False}))
        for name in record.files:
            with suppress(OSError):
                (folder / name).unlink()

    def all(self) -> list[QuantizedCheckpoint]:
        """Those that are there, the longest unused first; their files are not checked."""
        folders = self._folder.glob(f"*{FOLDER}/*/")
        read = (_read(f.parent.name.removesuffix(FOLDER), f) for f in folders if f.suffix != PART)
        return sorted((found for found in read if found is not None), key=lambda c: c.used_s)

    def remove(self, model: str) -> int:
        """Remove what is saved of `model`; how many bytes that were.

        Raises WeightsError where there is nothing, or it cannot be removed now.
        """
        folder = self._of(model)
        if not model or Path(model).name != model or not folder.is_dir():
            saved = ", ".join(sorted({found.model for found in self.all()})) or "nothing"
            raise WeightsError(f"No quantized checkpoint of {model!r} is saved here; {saved} is.")
        lock = self._lock(model)
        try:
            with lock.acquire(blocking=False):
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                shutil.rmtree(folder)
        except Timeout as error:
            raise WeightsError(
                f"The quantized checkpoint of {model} is being saved by a program that runs. Try "
                "again in a minute."
            ) from error
        except OSError as error:
            raise WeightsError(
                f"{folder} cannot be removed ({error.strerror or error}). Stop the program that "
                "uses it, then try again."
            ) from error
        return size

    # ------------------------------------------------------------ saving

    def _refusal(self, size_bytes: int) -> str | None:
        if size_bytes > self._most_bytes:
            return (
                f"it takes {download_size(size_bytes)}, and --quantized-checkpoints allows "
                f"{download_size(self._most_bytes)} for all"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = self._free_bytes(self._folder)
        except OSError as error:
            return str(error)
        if free - size_bytes < SPARE_BYTES:
            return (
                f"it takes {download_size(size_bytes)}, and the disk of {self._folder} has "
                f"{download_size(free)} left, of which {download_size(SPARE_BYTES)} stay free"
            )
        return None

    def _seal(self, model: str, record: CheckpointRecord, part: Path, lock: FileLock) -> None:
        """Bring what was written to the disk, record it, and let it be found."""
        try:
            paths = sorted(path for path in part.rglob("*") if path.is_file())
            files = {path.relative_to(part).as_posix(): _kept(path) for path in paths}
            sealed = record.model_copy(update={"files": files})
            (part / RECORD).write_text(sealed.model_dump_json(indent=2), "utf-8")
            _flush(part / RECORD)
            target = self._of(model) / record.settings.folder_name
            self._drop(target)
            part.rename(target)
            for other in self._of(model).iterdir():
                if other != target:
                    self._drop(other)
            self._make_room(target)
            log.info("%s is saved as it was quantized, in %s", record.title, target)
            lock.release()
        except Exception as error:
            _not_saved(record, str(error))
            self._give_up(model, part, lock)

    def _give_up(self, model: str, part: Path, lock: FileLock) -> None:
        shutil.rmtree(part, ignore_errors=True)
        self._remove_if_empty(model)
        lock.release()

    def _make_room(self, newest: Path) -> None:
        """Remove the longest unused ones until all are within their bound."""
        found = self.all()
        total = sum(checkpoint.size_bytes for checkpoint in found)
        for checkpoint in found:
            if total <= self._most_bytes:
                return
            if checkpoint.folder != newest:
                log.info("%s makes room for another one", checkpoint.folder)
                self._drop(checkpoint.folder)
                total -= checkpoint.size_bytes

    # ------------------------------------------------------------ reading

    def _damage(self, checkpoint: QuantizedCheckpoint) -> str | None:
        """What is wrong with its files; None where they are those that were recorded."""
        moved: dict[str, SavedFile] = {}
        for name, file in checkpoint.record.files.items():
            path = checkpoint.folder / name
            state = path.stat() if path.is_file() else None
            if state is None:
                return f"{name} is missing"
            if state.st_size != file.size_bytes:
                return f"{name} has {state.st_size:,} bytes in place of {file.size_bytes:,}"
            if state.st_mtime_ns != file.modified_ns:
                if _sha256(path) != file.sha256:
                    return f"{name} has another SHA-256"
                moved[name] = file.model_copy(update={"modified_ns": state.st_mtime_ns})
        if moved:  # their SHA-256 were right: with their times recorded, they are read once only
            files = checkpoint.record.files | moved
            self._write(checkpoint.folder, checkpoint.record.model_copy(update={"files": files}))
        return None

    def _write(self, folder: Path, record: CheckpointRecord) -> None:
        """Replace the record in one step, if it can be written."""
        fresh = folder / f"{RECORD}-{secrets.token_hex(4)}"
        with suppress(OSError):
            fresh.write_text(record.model_dump_json(indent=2), "utf-8")
            fresh.replace(folder / RECORD)

    def _discard(self, folder: Path, reason: str) -> None:
        log.warning("%s is removed, and the published weights are read: %s", folder, reason)
        self._drop(folder)

    # ------------------------------------------------------------ folders

    def _of(self, model: str) -> Path:
        return self._folder / f"{model}{FOLDER}"

    def _lock(self, model: str) -> FileLock:
        # Taken by the thread that loads and released by the one that seals.
        return FileLock(self._folder / f".{model}{FOLDER}.lock", thread_local=False)

    def _drop(self, folder: Path) -> None:
        """Remove a folder so that nobody finds half of it; one that is not there is no error."""
        gone = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}{PART}")
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return
        except OSError as error:  # on Windows: somebody reads it
            log.warning("%s cannot be removed (%s)", folder, error)
            return
        shutil.rmtree(gone, ignore_errors=True)
        self._remove_if_empty(folder.parent.name.removesuffix(FOLDER))

    def _sweep(self, model: str) -> None:
        """Remove what a program that was ended left half written."""
        if not any(self._of(model).glob(f"*{PART}")):
            return
        with suppress(Timeout, OSError, NotImplementedError), self._lock(model).acquire(0):
            self._remove_parts(model)

    def _remove_parts(self, model: str) -> None:
        for part in self._of(model).glob(f"*{PART}"):
            shutil.rmtree(part, ignore_errors=True)
        self._remove_if_empty(model)

    def _remove_if_empty(self, model: str) -> None:
        with suppress(OSError):
            self._of(model).rmdir()


def source_digest(files: Path, patterns: tuple[str, ...]) -> tuple[str, int]:
    """A digest of the published files that match, and their bytes.

    Of configurations the content counts, of weights name, size, time and a few samples: to read
    all of them would take as long as what this saves.
    """
    digest, size = hashlib.sha256(), 0
    for path in sorted({path for pattern in patterns for path in files.glob(pattern)}):
        state = path.stat()
        told: list[object] = [path.name, state.st_size]
        if path.suffix == ".json":
            content = path.read_bytes()
        else:
            told.append(state.st_mtime_ns)
            size += state.st_size
            content = b"".join(_samples(path, state.st_size))
        digest.update(json.dumps(told).encode() + b"\0" + content)
    return digest.hexdigest(), size


def library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _not_saved(record: CheckpointRecord, reason: str) -> None:
    log.warning("%s is not saved as it was quantized: %s", record.title, reason)


def _samples(path: Path, size_bytes: int) -> Iterator[bytes]:
    """From the beginning to the end of a file, at equal distances."""
    with path.open("rb") as file:
        for index in range(SAMPLES):
            file.seek(max(0, size_bytes - SAMPLE_BYTES) * index // (SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)


def _read(model: str, folder: Path) -> QuantizedCheckpoint | None:
    """Without a look at its files; None where the record is damaged or gone."""
    try:
        record = CheckpointRecord.model_validate_json((folder / RECORD).read_text("utf-8"))
        used_s = (folder / RECORD).stat().st_mtime
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    return QuantizedCheckpoint(model, folder, record, used_s)


def _kept(path: Path) -> SavedFile:
    _flush(path)
    state = path.stat()
    return SavedFile(size_bytes=state.st_size, modified_ns=state.st_mtime_ns, sha256=_sha256(path))


def _flush(path: Path) -> None:
    """Bring a file to the disk: a name must not last longer than its content."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
