"""Records of a data set on the hub, through the library `datasets`.

Only data is read (Parquet, JSON, CSV, text): no script of a repository is run, and none of the
builders that unpack archives or unpickle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from multimodal.errors import DataError
from multimodal.studio.data.records import Record, Split
from multimodal.studio.recipes import check_libraries

SAMPLES = 100_000
"""The most that is taken of one split, which streams in."""
SAFE_BUILDERS = frozenset({"parquet", "json", "csv", "text"})

_SUBSET = re.compile(r"\w[\w.+-]*")

LoadDataset = Callable[[str, str | None], Mapping[str, Iterable[Mapping[str, Any]]]]
"""Of a repository and the name of a subset, the rows of each split."""


def read_hub(
    name: str, load: LoadDataset, tell: Callable[[str], None], most: int = SAMPLES
) -> Iterator[Record]:
    """The rows of owner/name, or of the subset in owner/name/subset, at most so many of each split,
    which is told. Splits called train and test (or validation) stay apart. Raises DataError."""
    parts = name.split("/", 2)
    repo, subset = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    try:
        validate_repo_id(repo)
    except HFValidationError:
        parts = []
    if len(parts) < 2 or (subset is not None and not _SUBSET.fullmatch(subset)):
        raise DataError(
            f"hub:{name} names no data set; write hub:OWNER/NAME, or hub:OWNER/NAME/SUBSET."
        )
    rows = load(repo, subset)
    is_split = "train" in rows and bool({"test", "validation"} & set(rows))
    for split, some in rows.items():
        kept: Split | None = ("train" if split == "train" else "test") if is_split else None
        place = f"hub:{name} ({split})"
        for number, values in enumerate(some, 1):
            if number > most:
                tell(f"{place} has more than {most} samples; the first are used.")
                break
            yield Record(dict(values), place, number, "row", kept)


def load_dataset(repo: str, subset: str | None) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    """Streams, so that a set that is larger than the disk can be begun. Raises DataError."""
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        raise DataError(
            f"hub:{repo} cannot be fetched, because the hub is not asked in offline mode; start "
            "without --offline, or give a file."
        )
    check_libraries()
    import datasets

    with _translated(repo):
        builder = datasets.load_dataset_builder(repo, subset)
        if builder.info.builder_name not in SAFE_BUILDERS:
            raise DataError(
                f"hub:{repo} holds {builder.info.builder_name} files; only Parquet, JSON, CSV and "
                "text are read."
            )
        streams = builder.as_streaming_dataset()
    return {str(split): _rows(repo, rows) for split, rows in streams.items()}


def _rows(repo: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    with _translated(repo):
        yield from rows


@contextmanager
def _translated(repo: str) -> Iterator[None]:
    """DataError for what `datasets` and the hub's client raise."""
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    try:
        yield
    except DataFilesNotFoundError as error:
        raise DataError(
            f"hub:{repo} holds no Parquet, JSON, CSV or text file, which are what is read."
        ) from error
    except (DatasetNotFoundError, RepositoryNotFoundError, EntryNotFoundError) as error:
        raise DataError(
            f"hub:{repo} is not on the hub, or must be applied for there; log in with "
            "`hf auth login`, or check how it is spelt."
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise DataError(f"hub:{repo} cannot be read ({reason}).") from error
