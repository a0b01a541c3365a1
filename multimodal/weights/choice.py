"""Which files of a repository are fetched: what its card asks for, and nothing that can be run."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from multimodal.catalog.architectures import StrictModel
from multimodal.catalog.sources import CODE, HubSource
from multimodal.errors import WeightsError
from multimodal.weights.job import PART, PINNED, RECORD, File

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5"}
"""Formats that may carry code, or hold the same weights once more: only when named."""
WITHOUT_WEIGHTS = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".md", ""}
WEIGHTS = ".safetensors"


class ListedFile(StrictModel):
    """A file as the hub lists it; a path is not yet trusted."""

    path: str
    size_bytes: int | None
    checksum: str | None


def chosen(files: Iterable[ListedFile], source: HubSource) -> tuple[File, ...]:
    """The files to be fetched. Raises WeightsError where they cannot be had safely."""
    kept = [file for file in files if _asked_for(file.path, source)]
    if source.variant:
        kept = _of_variant(kept, source.variant)
    if all(PurePosixPath(file.path).suffix in WITHOUT_WEIGHTS for file in kept):
        raise WeightsError(
            f"{source.repo} has no weights of the kinds its card asks for "
            f"({', '.join(source.files)}); correct `files` in the card"
        )
    return tuple(_trusted(file, source) for file in kept)


def _asked_for(path: str, source: HubSource) -> bool:
    suffix = PurePosixPath(path).suffix.lower()
    if path.lower().endswith((*CODE, PART)) or path in {RECORD, PINNED}:
        return False
    patterns = [p for p in source.files if suffix not in PICKLED or p.lower().endswith(suffix)]
    return _matches(path, patterns) and not _matches(path, source.ignore)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _of_variant(files: list[ListedFile], variant: str) -> list[ListedFile]:
    """Without the other weights of every folder that has weights of the variant."""
    folders = {
        PurePosixPath(file.path).parent
        for file in files
        if _is_weights(file.path) and _is_variant(file.path, variant)
    }
    return [
        file
        for file in files
        if not _is_weights(file.path)
        or PurePosixPath(file.path).parent not in folders
        or _is_variant(file.path, variant)
    ]


def _is_weights(path: str) -> bool:
    """Whether it is weights, or the index of their shards."""
    return path.endswith(WEIGHTS) or f"{WEIGHTS}.index" in path


def _is_variant(path: str, variant: str) -> bool:
    """model.fp16.safetensors, model.fp16-00001-of-00002.safetensors, their index in .fp16.json"""
    name = PurePosixPath(path).name
    return f".{variant}." in name or f".{variant}-" in name


def _trusted(file: ListedFile, source: HubSource) -> File:
    parts = file.path.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in file.path or ":" in file.path:
        raise WeightsError(
            f"{source.repo} lists a file outside its own folder ('{file.path}'); nothing of it is "
            "fetched. Use another repository"
        )
    if file.size_bytes is None or file.checksum is None:
        raise WeightsError(
            f"the hub does not tell the size and the checksum of {file.path} in {source.repo}; use "
            "another endpoint (HF_ENDPOINT)"
        )
    return File(path=file.path, size_bytes=file.size_bytes, checksum=file.checksum)
