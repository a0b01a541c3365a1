"""What is held out of the training, and what is taught only once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from multimodal.studio.data.records import Split

Row = Mapping[str, Any]


def row_key(row: Row) -> str:
    """Equal for the same row, whatever the order of its columns and the white space around it."""
    return _digest({name: _stripped(value) for name, value in row.items()})


def group_key(row: Row) -> str:
    """Equal for rows with the same prompt, which are held out together: their answers say much of
    one another."""
    return _digest(_stripped(row["prompt"])) if "prompt" in row else row_key(row)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _stripped(value: Any) -> Any:
    match value:
        case str():
            return value.strip()
        case list():
            return [_stripped(one) for one in value]
        case dict():
            return {name: _stripped(one) for name, one in value.items()}
    return value


def unique(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of each, in their order."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row_key(row), row)
    return list(found.values())


def hold_out(
    rows: Sequence[dict[str, Any]], share: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train and to test, both in their order and neither empty, of two or more different
    ones. Which are held out depends on `seed` and the rows themselves, not on where they stand.
    Rows with the same prompt stay together, unless all have the same."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(group_key(row), []).append(index)
    if len(groups) < 2:
        groups = {row_key(row): [index] for index, row in enumerate(rows)}
    wanted = max(1, round(share * len(rows)))
    held: set[int] = set()
    for members in _shuffled(groups, seed):
        if not held or len(held) + len(members) <= wanted:
            held.update(members)
    test = [row for index, row in enumerate(rows) if index in held]
    return [row for index, row in enumerate(rows) if index not in held], test


def _shuffled(groups: Mapping[str, list[int]], seed: int) -> list[list[int]]:
    """By a digest of the seed and each key. The largest group is never held out first, where the
    others are smaller."""
    largest = max(map(len, groups.values()))
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    order.sort(key=lambda key: len(groups[key]) == largest > 1)
    return [groups[key] for key in order]


def keep_apart(
    rows: Sequence[tuple[dict[str, Any], Split | None]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Rows to train and to test as their files say, and how many were left out of the training
    because the test has them or their prompts; only the rows themselves, where all have one
    prompt."""
    test = unique(row for row, split in rows if split == "test")
    train = unique(row for row, split in rows if split != "test")
    for key in (group_key, row_key):
        held = {key(row) for row in test}
        kept = [row for row in train if key(row) not in held]
        if kept:
            break
    return kept, test, len(train) - len(kept)
