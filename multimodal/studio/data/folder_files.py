"""The files of a folder, or of a .zip of one, by their places in it.

Nothing is unpacked: a file of a zip is read when it is wanted, and its name is only ever taken
apart into folders and a file.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from multimodal.errors import DataError
from multimodal.limits import Limits
from multimodal.sizes import download_size
from multimodal.studio.settings import CHATS, HUB

CLASSES = "a folder with a folder for each class"
MOST_FILES = 50_000
FILE_BYTES = Limits().file_bytes
MOST_ZIP_BYTES = 20_000_000_000
"""Of all files of a zip once they are unpacked; one may have FILE_BYTES."""
MOST_RATIO = 200
"""How much larger than in the zip all files together may be: pictures are hardly packed at all."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """`parts`: the folders below the data that it lies in, and its own name."""

    parts: tuple[str, ...]
    read: Callable[[], bytes]
    """At most one byte more than FILE_BYTES. Raises OSError, and DataError for a damaged
    zip."""

    @property
    def name(self) -> str:
        return "/".join(self.parts)

    @property
    def is_hidden(self) -> bool:
        """What systems put beside a person's files."""
        return any(part.startswith(".") or part == "__MACOSX" for part in self.parts)


@contextmanager
def open_source(data: str, wanted: str = CLASSES) -> Iterator[list[SourceFile]]:
    """The files of what `settings.data` names, in the order of their names, which can be read until
    the block ends. `wanted`: what the folder is to be, for people. Raises DataError."""
    path = Path(data).expanduser()
    if data == CHATS or data.startswith(HUB):
        raise DataError(f"{data} is no folder; give {wanted}, or a .zip of one.")
    if path.is_dir():
        yield _checked(path.name, _unwrapped(_of_folder(path)))
    elif path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield _checked(path.name, _unwrapped(_of_zip(path.name, archive)))
    elif path.is_file():
        raise DataError(f"{path.name} is no folder and no .zip of one; give {wanted}.")
    else:
        raise DataError(f"{data} does not exist; give {wanted}, or a .zip of one.")


def _of_folder(folder: Path) -> list[SourceFile]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [SourceFile(path.relative_to(folder).parts, partial(_read_file, path)) for path in paths]


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FILE_BYTES + 1)


def _of_zip(name: str, archive: zipfile.ZipFile) -> list[SourceFile]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    _check_members(name, members)
    members.sort(key=lambda member: member.filename)
    return [
        SourceFile(tuple(member.filename.split("/")), partial(_read_member, name, archive, member))
        for member in members
    ]


def _check_members(name: str, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        parts = member.filename.split("/")
        if "\\" in member.filename or ":" in parts[0] or {"", ".", ".."} & set(parts):
            raise DataError(
                f"{name}: {member.filename[:80]!r} is the name of no file below a folder; pack the "
                "folder again."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{name}: {member.filename} is a link; pack the files themselves.")
        if member.flag_bits & 1:
            raise DataError(f"{name}: {member.filename} is encrypted; pack it without a password.")
    size, packed = (
        (sum(one) for one in zip(*map(_sizes, members), strict=True)) if members else (0, 0)
    )
    if size > min(MOST_ZIP_BYTES, MOST_RATIO * packed):
        raise DataError(
            f"{name} would have {download_size(size)} once unpacked, which is too much; pack "
            "fewer files, or make them smaller."
        )


def _sizes(member: zipfile.ZipInfo) -> tuple[int, int]:
    return member.file_size, member.compress_size + 100


def _read_member(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            return file.read(FILE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{name}: {member.filename} is damaged in it ({error}); pack the folder again."
        ) from error


def _unwrapped(files: list[SourceFile]) -> list[SourceFile]:
    """Without folders around everything, as zips have: those that hold one folder alone."""
    seen = [file for file in files if not file.is_hidden]
    while seen and all(len(file.parts) > 2 for file in seen):
        if len({file.parts[0] for file in seen}) != 1:
            break
        seen = [replace(file, parts=file.parts[1:]) for file in seen]
    return seen


def _checked(name: str, files: list[SourceFile]) -> list[SourceFile]:
    if len(files) > MOST_FILES:
        raise DataError(
            f"{name} holds {len(files):,} files, and at most {MOST_FILES:,} are read; take fewer."
        )
    return files
