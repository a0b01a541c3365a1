"""Which classes a classifier mixes up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from multimodal.studio.records import Confusion

MOST = 10
"""How many pairs of classes are told."""


def find_confusions(
    expected: Sequence[str], predicted: Sequence[str], most: int = MOST
) -> tuple[Confusion, ...]:
    """The pairs of classes that were mixed up most often, in order; of equal ones by name. Raises
    ValueError where the two are not of the same samples."""
    totals = Counter(expected)
    pairs = Counter(
        (one, other) for one, other in zip(expected, predicted, strict=True) if one != other
    )
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        Confusion(one, other, count, totals[one]) for (one, other), count in ordered[:most]
    )


def confusion_sentence(confusions: Sequence[Confusion], most: int = 3) -> str:
    """“Mixed up most often: cat taken for dog (3 of 20) ...”; "" without any."""
    told = [
        f"{one.expected} taken for {one.predicted} ({one.count} of {one.total})"
        for one in confusions[:most]
    ]
    return f"Mixed up most often: {', '.join(told)}." if told else ""
