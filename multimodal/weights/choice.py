"""Which files of a repository are fetched: what its card asks for, and nothing that can be run.

The index of a checkpoint in shards says which tensor is in which shard. Where a card asks for some
of the tensors, only their shards are fetched, and beside them lies an index of what they are
fetched for: a checkpoint that is complete for whoever reads that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from multimodal.catalog.architectures import StrictModel
from multimodal.catalog.sources import CODE, HubSource
from multimodal.errors import WeightsError
from multimodal.weights.fetch_context import PART, PINNED, RECORD, File

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5"}
"""Formats that may carry code, or hold the same weights once more: only when named."""
WITHOUT_WEIGHTS = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".md", ""}
WEIGHTS = ".safetensors"
INDEX = ".safetensors.index"
LARGEST_BYTES = 100_000_000
"""Of an index; that of a model with a thousand layers has a few million."""

Shards = Mapping[str, str]
"""The name of the shard's file by the name of the tensor."""


class ListedFile(StrictModel):
    """A file as the hub lists it; a path is not yet trusted."""

    path: str
    size_bytes: int | None
    checksum: str | None


def choose_files(files: Iterable[ListedFile], source: HubSource) -> tuple[File, ...]:
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


# ------------------------------------------------------------ some of the tensors


class _Index(BaseModel):
    weight_map: dict[str, Annotated[str, StringConstraints(min_length=1)]] = Field(min_length=1)


def index_among(files: Iterable[File], source: HubSource) -> File | None:
    """The index of the checkpoint's shards; None where it is not in shards."""
    found = [file for file in files if INDEX in file.path and file.path.endswith(".json")]
    if len(found) > 1:
        raise WeightsError(
            f"{source.repo} has several checkpoints in shards ({found[0].path}, {found[1].path}), "
            "and `weights` of its card chooses within one; name the files of one in `files`"
        )
    if found and (found[0].size_bytes or 0) > LARGEST_BYTES:
        raise WeightsError(f"{found[0].path} of {source.repo} is no index: it is too large")
    return found[0] if found else None


def shards_in(content: bytes, index: File, source: HubSource) -> Shards:
    """What the content of an index says."""
    try:
        return _Index.model_validate_json(content).weight_map
    except ValidationError as error:
        raise WeightsError(
            f"{index.path} of {source.repo} is no index of shards; use another repository, or "
            "leave `weights` out of the card"
        ) from error


def choose_shards(
    files: Iterable[File], index: File, shards: Shards, source: HubSource
) -> tuple[File, ...]:
    """`files` without the shards that nothing is asked of, and with an index of the others."""
    asked = _asked_tensors(shards, source)
    folder = PurePosixPath(index.path).parent
    left = {str(folder / shard) for shard in set(shards.values()) - set(asked.values())}
    kept = tuple(file for file in files if file.path not in left)
    here = {file.path for file in kept}
    if lacking := sorted({str(folder / shard) for shard in asked.values()} - here):
        raise WeightsError(
            f"{source.repo} does not have {lacking[0]}, which its index names, among the files "
            "that its card asks for; correct `files` in the card"
        )
    content = filter_shard_index(shards, source)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    ours = File(path=index.path, size_bytes=len(content), checksum=checksum)
    return tuple(ours if file.path == index.path else file for file in kept)


def filter_shard_index(shards: Shards, source: HubSource) -> bytes:
    """The content of an index of the tensors that the card asks for."""
    asked = _asked_tensors(shards, source)
    return json.dumps({"metadata": {}, "weight_map": asked}, indent=2, sort_keys=True).encode()


def _asked_tensors(shards: Shards, source: HubSource) -> Shards:
    asked: dict[str, str] = {}
    for pattern in source.weights:
        found = {name: shards[name] for name in shards if fnmatchcase(name, pattern)}
        if not found:
            raise WeightsError(
                f"no tensor of {source.repo} is called '{pattern}', as `weights` of its card says; "
                f"one of them is called '{next(iter(shards))}'"
            )
        asked |= found
    return asked
