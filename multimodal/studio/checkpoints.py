"""Which checkpoints can be resumed from, and why others cannot.

A checkpoint is whole once its manifest lies in it: the size and the SHA-256 of each of its files,
written after they are on the disk. A folder without one was not written to its end, and costs no
more than the steps since the one before; a folder that is not what its manifest says was damaged
later.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

MANIFEST = "manifest.json"
KEPT = 2
"""Checkpoints that stay: should the newest be damaged, the one before is used."""
_NAME = re.compile(r"checkpoint-(\d+)")


class FileRecord(NamedTuple):
    size_bytes: int
    sha256: str


_records = TypeAdapter(dict[str, FileRecord])


def step_of(folder: Path) -> int:
    """N of checkpoint-N."""
    found = _NAME.fullmatch(folder.name)
    return int(found[1]) if found else 0


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Whole or not, the newest first."""
    if not checkpoints.is_dir():
        return []
    found = [path for path in checkpoints.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def write_manifest(folder: Path) -> None:
    """Record the files of `folder` once they are on the disk, so that the record outlives a power
    loss only where they do. Raises OSError."""
    records = {}
    for path in _files(folder):
        with path.open("rb") as file:
            _sync(file.fileno())
            records[path.relative_to(folder).as_posix()] = _record(path)
    fresh = folder / f"{MANIFEST}.new"
    with fresh.open("wb") as file:
        file.write(_records.dump_json(records, indent=1))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / MANIFEST)
    for changed in (folder, folder.parent):
        _sync_folder(changed)


def is_finished(folder: Path) -> bool:
    """Whether it was written to its end, damaged later or not."""
    return (folder / MANIFEST).exists()


def why_not_whole(folder: Path) -> str | None:
    """What is wrong with it, in a clause for people; None where every file is as it was recorded.
    A file whose size and time did not change since is not read a second time."""
    try:
        records = _records.validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return "it was not written to its end"
    except (OSError, ValidationError):
        return f"its {MANIFEST} cannot be read"
    for name, record in records.items():
        path = folder / name
        try:
            found = path.stat()
            if found.st_size != record.size_bytes:
                return f"{name} has {found.st_size:,} bytes instead of {record.size_bytes:,}"
            if _digest(path, found.st_size, found.st_mtime_ns) != record.sha256:
                return f"{name} is damaged: it is not what was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None


def find_whole(checkpoints: Path) -> Path | None:
    """The newest that can be resumed from."""
    found = (path for path in list_checkpoints(checkpoints) if why_not_whole(path) is None)
    return next(found, None)


def why_not_resumable(checkpoints: Path) -> str | None:
    """Why none of them can be resumed from, in a clause; None where one can, or where none was
    ever finished, so that nothing is lost by beginning anew."""
    finished = [path for path in list_checkpoints(checkpoints) if is_finished(path)]
    faults = [f"{path.name}: {fault}" for path in finished if (fault := why_not_whole(path))]
    return "; ".join(faults) if finished and len(faults) == len(finished) else None


def discard_broken(checkpoints: Path) -> list[str]:
    """Remove those that a run cannot begin with, and say of each newer one why it was passed over.
    All stay where none is whole but one was."""
    if why_not_resumable(checkpoints) is not None:
        return []
    whole = find_whole(checkpoints)
    told = []
    for path in list_checkpoints(checkpoints):
        if (fault := why_not_whole(path)) is None:
            continue
        if step_of(path) > (step_of(whole) if whole else 0):
            begun = f"goes on from {whole.name}" if whole else "begins anew"
            told.append(f"{path.name} was passed over: {fault}. The job {begun}.")
        _remove(path)
    return told


def prune(checkpoints: Path, keep: int = KEPT, spare: Collection[str] = ()) -> None:
    """Remove all but the newest `keep` whole ones and those named in `spare`, such as the best; to
    be called after `write_manifest`, never before."""
    whole = [path for path in list_checkpoints(checkpoints) if is_finished(path)]
    for path in whole[keep:]:
        if path.name not in spare:
            _remove(path)


def _remove(folder: Path) -> None:
    """Without its manifest first, so that what a crash leaves of it counts as unfinished."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _files(folder: Path) -> list[Path]:
    skipped = {MANIFEST, f"{MANIFEST}.new"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in skipped)


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, _hash(path))


@lru_cache(maxsize=4096)
def _digest(path: Path, _size_bytes: int, _time_ns: int) -> str:
    """A page asks every second whether a job can be resumed."""
    return _hash(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(descriptor: int) -> None:
    if os.name == "posix":  # Windows flushes only what is open for writing
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """So that the names in it are on the disk, too; Windows cannot open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
