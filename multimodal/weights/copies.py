"""Files that this machine already has under another name: linked, or copied, never fetched again.

A copy is used only after its checksum was computed, and it is linked rather than shared by name: a
twin that is removed leaves this one whole, and one that is damaged is noticed by its time as any
file of a record is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from multimodal.weights.fetch_context import PART, RECORD, FetchContext, File, read_stamps, stamp


def recorded_files(weights_folder: Path) -> Mapping[int, list[Path]]:
    """The files that cards' records name and that are unchanged since, by their size in bytes."""
    found: dict[int, list[Path]] = {}
    for record in sorted(weights_folder.glob(f"*/{RECORD}")):
        for path in _unchanged(record):
            found.setdefault(path.stat().st_size, []).append(path)
    return found


def cached_by_hub(repo: str, path: str, revision: str, cache: Path | None) -> Iterator[Path]:
    """The file in huggingface_hub's own cache (`cache`, or the one of this machine), if there."""
    try:
        found = try_to_load_from_cache(repo, path, cache_dir=cache, revision=revision)
    except (ValueError, OSError):  # a name that the library refuses, or a cache nobody may read
        return
    if isinstance(found, str):
        yield Path(found)


def take_copy(context: FetchContext, file: File, candidates: Iterable[Path]) -> bool:
    """Whether one of `candidates` was the file, and now lies in the card's folder too.

    Raises OSError where it can be neither linked nor copied.
    """
    if file.size_bytes is None or file.checksum is None:
        return False
    for candidate in candidates:
        if _is_right(context, candidate, file):
            target = context.folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(candidate, target)
            return True
    return False


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or where links are not possible a copy of it."""
    part = target.with_name(f"{target.name}.copy{PART}")
    part.unlink(missing_ok=True)
    try:
        try:
            os.link(source.resolve(), part)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _is_right(context: FetchContext, candidate: Path, file: File) -> bool:
    try:
        if candidate.stat().st_size != file.size_bytes:
            return False
        context.report("verifying")
        return context.matches(candidate, file)
    except OSError:
        return False


def _unchanged(record: Path) -> list[Path]:
    try:
        stamps = read_stamps(json.loads(record.read_text("utf-8-sig")))
    except (OSError, ValueError, TypeError, AttributeError):
        return []
    kept = []
    for name, known in stamps.items():
        with suppress(OSError):
            if stamp(path := record.parent / name) == known:
                kept.append(path)
    return kept
