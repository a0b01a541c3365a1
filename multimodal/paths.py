"""Paths as people write them in options, cards and addresses."""

from __future__ import annotations

from pathlib import Path


def expand_home(path: Path) -> Path:
    """`path` with `~` and `~name` replaced by the home folder they stand for.

    Raises ValueError, one sentence, where nobody of that name has one.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such home folder") from error
