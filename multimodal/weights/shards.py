"""Of a checkpoint in shards, those that hold the tensors that a card asks for.

The index of a checkpoint says which tensor is in which shard. Beside the shards that are fetched
lies an index of what they are fetched for: a checkpoint that is complete for whoever reads that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from multimodal.catalog.sources import HubSource
from multimodal.errors import WeightsError
from multimodal.weights.job import File

INDEX = ".safetensors.index"
LARGEST_BYTES = 100_000_000
"""Of an index; that of a model with a thousand layers has a few million."""

Shards = Mapping[str, str]
"""The name of the shard's file by the name of the tensor."""


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


def needed(
    files: Iterable[File], index: File, shards: Shards, source: HubSource
) -> tuple[File, ...]:
    """`files` without the shards that nothing is asked of, and with an index of the others."""
    asked = _asked_for(shards, source)
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
    asked = _asked_for(shards, source)
    return json.dumps({"metadata": {}, "weight_map": asked}, indent=2, sort_keys=True).encode()


def _asked_for(shards: Shards, source: HubSource) -> Shards:
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
