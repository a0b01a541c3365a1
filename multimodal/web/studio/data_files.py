"""Data that came through the page, kept until the job that learns from it is gone.

An upload lies in a folder that is emptied every hour; what a job is to learn from is copied out of
it, into a folder named by the digest of its content, so that who can name it knows what is in it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from multimodal.errors import RequestError
from multimodal.private_files import make_private_folder
from multimodal.settings import Settings
from multimodal.sizes import download_size

NAME = re.compile(r"[0-9a-f]{32}/[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
KEEP_UNUSED_S = 24 * 3600.0
SUFFIXES = (".txt", ".csv", ".parquet", ".jsonl", ".zip")


def data_folder(settings: Settings) -> Path:
    """Where data that came through the page is kept."""
    return settings.data / "studio" / "data"


class DataFiles:
    """Keeps files in `folder`; `uploads` is where Gradio puts them first."""

    def __init__(self, folder: Path, uploads: Path) -> None:
        self._folder = folder
        self._uploads = uploads.resolve()

    def keep_upload(self, path: str, name: str) -> str:
        """The reference of a copy. Raises RequestError for a file that is gone, or of no kind that
        is read."""
        found = self.upload(path, name)
        if Path(name).suffix.lower() not in SUFFIXES:
            raise RequestError(
                f"“{name}” is of no kind that is read. Data is {', '.join(SUFFIXES)}."
            )
        with found.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
        return self._keep(digest, name, found)

    def keep_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> str:
        """The reference of a file with one row a line."""
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        digest = hashlib.sha256(text).hexdigest()[:32]
        fresh = self._folder / f".{digest}.new"
        make_private_folder(self._folder)
        try:
            fresh.write_bytes(text)
            return self._keep(digest, name, fresh)
        finally:
            fresh.unlink(missing_ok=True)

    def path(self, reference: str) -> Path:
        """Where it lies. Raises RequestError for what was never kept, or is gone."""
        path = self._folder / reference
        if not NAME.fullmatch(reference) or not path.is_file():
            raise RequestError("The file is gone. Add it again.")
        return path

    def reference(self, path: Path) -> str | None:
        """That of a file which is kept here."""
        inside = path.is_absolute() and path.is_relative_to(self._folder)
        name = path.relative_to(self._folder).as_posix() if inside else ""
        return name if NAME.fullmatch(name) and path.is_file() else None

    def describe(self, reference: str) -> str:
        """“notes.csv, 11 kB”."""
        path = self.path(reference)
        return f"{path.name}, {download_size(path.stat().st_size)}"

    def sweep(self, used: Container[str], kept_s: float = KEEP_UNUSED_S) -> None:
        """Remove what no job of `used`, paths as text, learns from, a day after it came."""
        before = time.time() - kept_s
        for path in self._folder.glob("*/*"):
            if str(path) not in used and path.stat().st_mtime < before:
                shutil.rmtree(path.parent, ignore_errors=True)

    def upload(self, path: str, name: str) -> Path:
        """Where an upload lies. Raises RequestError for anything outside the folder of uploads."""
        try:
            found: Path | None = Path(path).resolve(strict=True)
        except (OSError, ValueError):
            found = None
        if found is None or not found.is_relative_to(self._uploads) or not found.is_file():
            raise RequestError(f"“{name}” was kept too long and is gone. Add it again.")
        return found

    def _keep(self, digest: str, name: str, source: Path) -> str:
        reference = f"{digest}/{_plain(name)}"
        path = self._folder / reference
        if not path.exists():
            make_private_folder(self._folder)
            make_private_folder(path.parent)
            fresh = path.with_name(f".{path.name}.new")
            shutil.copyfile(source, fresh)
            fresh.replace(path)
        return reference


def _plain(name: str) -> str:
    """A file name of letters that every system takes."""
    stem, suffix = Path(name).stem, Path(name).suffix.lower()
    kept = re.sub(r"[^A-Za-z0-9._ -]+", "-", stem).strip(" .-_")
    return f"{kept[:80] or 'data'}{suffix}"
