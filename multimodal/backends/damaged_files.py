"""Why weights could not be read, by looking at the files: none of the libraries that read them
names the file that is cut off, or was never fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = 1024
"""A pointer of Git LFS is shorter than this."""
WAY_OUT = "Delete it, so that it is fetched again, or put the whole file in its place."


def find_damage(files: Path) -> str | None:
    """A sentence about the first file under `files`, a folder or one file, that is no whole file;
    None where all are.

    Looked for: pointers of Git LFS in place of files, safetensors that are cut off or are none, and
    parts that an index names and that are missing.
    """
    return next(_damages(files), None)


def _damages(files: Path) -> Iterator[str]:
    is_alone = files.is_file()
    paths = [files] if is_alone else sorted(path for path in files.rglob("*") if path.is_file())
    files = files.parent if is_alone else files
    for path in paths:
        name = path.relative_to(files)
        if _is_pointer(path):
            yield f"{name} is a pointer of Git LFS and not the file itself. {WAY_OUT}"
        elif path.suffix == ".safetensors" and (reason := _refusal(path)):
            yield f"{name} is damaged or no file of safetensors ({reason}). {WAY_OUT}"
    for path in paths:
        if path.name.endswith(".index.json"):
            for part in sorted(_parts(path)):
                if not (path.parent / part).is_file():
                    yield f"{part}, which {path.relative_to(files)} names, is missing. Fetch it."


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size >= POINTER_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def _refusal(path: Path) -> str | None:
    """What safetensors says against the file's header and length; the tensors are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return None
    except (SafetensorError, OSError) as error:
        return str(error)


def _parts(index: Path) -> set[str]:
    try:
        found = json.loads(index.read_text("utf-8")).get("weight_map", {})
        return {str(name) for name in found.values()}
    except (OSError, ValueError, AttributeError):
        return set()
