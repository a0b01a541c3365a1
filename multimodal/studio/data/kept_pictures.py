"""Pictures of a job's data, kept as those of a chat are: read by their content, bounded before they
are decoded, turned upright, made small, without metadata."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from multimodal.errors import DataError, MediaError
from multimodal.limits import Limits
from multimodal.media.ingestion import FORMATS, MediaFolder, is_picture
from multimodal.media.pixels import flatten
from multimodal.studio.data.file_texts import suffix_of
from multimodal.studio.data.folder_files import SourceFile
from multimodal.studio.data.kept_files import listed

PICTURES = "pictures"
"""In the folder of a job's data."""
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif",
})  # fmt: skip
"""Of files that are meant to be pictures, whatever they hold."""

THUMBNAIL_SIDE = 192
"""Pixels of the longer side of a thumbnail at most."""


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """`file`: below the folder PICTURES. `digest`: SHA-256 of what is kept."""

    file: str
    digest: str


class PictureKeeper:
    """Keeps pictures below `folder`, their shorter side at most `side` pixels. A context: at its
    end DataError is raised for what could not be read, in one sentence that begins with `name`."""

    def __init__(self, name: str, folder: Path, side: int) -> None:
        limits = Limits(min_side=8, stored_side=side, page_width=side, page_length=4 * side)
        self._name, self._folder = name, folder / PICTURES
        self._media = MediaFolder(self._folder, limits)
        self._faults: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self._media.close()
        if kind is None and self._faults:
            them = "it" if len(self._faults) == 1 else "them"
            raise DataError(
                f"{self._name}: {listed(self._faults)}. Repair or remove {them}, then try again."
            )

    def read(self, file: SourceFile) -> bytes | None:
        """What is in `file`; None for what is no picture and is not meant to be one."""
        try:
            data = file.read()
        except OSError as error:
            self._faults.append(f"{file.name} cannot be read ({error.strerror or error})")
            return None
        return data if is_picture(data) or suffix_of(file) in SUFFIXES else None

    def keep(self, file: SourceFile, data: bytes) -> KeptPicture | None:
        """None for a damaged one."""
        try:
            part = self._media.add_image(data, file.parts[-1])
        except MediaError as error:
            self._faults.append(_clause(file, error))
            return None
        return KeptPicture(self._media.path(part).relative_to(self._folder).as_posix(), part.sha256)


def read_picture(path: Path) -> Image.Image:
    """In RGB; what is transparent on a ground that it stands out from."""
    with Image.open(path, formats=FORMATS) as stored:
        stored.load()
        return flatten(stored)


def thumbnail(folder: Path, file: str) -> bytes:
    """A JPEG of the picture that was kept as `file` in `folder`, as it is learned from."""
    buffer = io.BytesIO()
    shown = read_picture(folder / PICTURES / file)
    shown.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    shown.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _clause(file: SourceFile, error: MediaError) -> str:
    """What is wrong with a picture, without what a chat says to who sent it."""
    told = str(error).partition("” ")[2] or str(error)
    return f"{file.name} {told.partition('. ')[0].rstrip('.')}"
