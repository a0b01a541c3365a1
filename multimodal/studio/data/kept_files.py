"""Files of a job's data that were read and kept, each known by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from multimodal.errors import DataError
from multimodal.studio.data.records import Split

NAMED = 5
"""How many files a sentence names."""


def listed(names: Sequence[str], separator: str = "; ") -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{separator.join(names[:NAMED])}{more}"


class KeptFile(Protocol):
    """`digest`: SHA-256 of what is kept."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def split(self) -> Split | None: ...


F = TypeVar("F", bound=KeptFile)


def unique_files(
    name: str,
    found: Sequence[F],
    notices: list[str],
    noun: str,
    meaning: Callable[[F], str],
    clash: str,
) -> list[F]:
    """Each file once a split; how many are not goes into `notices`. `noun`: one of them; `meaning`:
    what is to be learned of it, which must be the same for the same content. Raises DataError,
    which ends with `clash`, where it is not."""
    first: dict[str, F] = {}
    kept: dict[tuple[str, Split | None], F] = {}
    for one in found:
        known = first.setdefault(one.digest, one)
        if meaning(known) != meaning(one):
            raise DataError(f"{name}: {known.name} and {one.name} are the same {noun} {clash}")
        kept.setdefault((one.digest, one.split), one)
    if lost := len(found) - len(kept):
        notices.append(f"{lost} of {len(found)} {noun}s are duplicates and are used once.")
    return list(kept.values())


def without_leaks(found: Sequence[F], notices: list[str], noun: str) -> tuple[list[F], list[F]]:
    """Those to learn from and those to test with, as their folders say; what is in both is left
    for the test, which goes into `notices`."""
    test = [one for one in found if one.split == "test"]
    held = {one.digest for one in test}
    mine = [one for one in found if one.split != "test"]
    train = [one for one in mine if one.digest not in held]
    if leaks := len(mine) - len(train):
        notices.append(
            f"{leaks} {noun}{'' if leaks == 1 else 's'} for training "
            f"{'is' if leaks == 1 else 'are'} in the test as well and left out of the training."
        )
    return train, test


def held_out_digests(members: Sequence[KeptFile], seed: int, share: float) -> set[str]:
    """Which of two or more different files are held out: that share of them, at least one and never
    all. Which ones depends on the seed and on what they hold, not on their names."""
    digests = {one.digest for one in members}
    order = sorted(digests, key=lambda it: hashlib.sha256(f"{seed} {it}".encode()).digest())
    return set(order[: min(len(order) - 1, max(1, round(share * len(order))))])
