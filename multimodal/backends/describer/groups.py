"""Objects of one category together: how many, how surely, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from multimodal.backends.describer.detector import PERSON, Box, Category
from multimodal.backends.describer.objects import FoundObject

Place = Literal["left", "middle", "right", "foreground", "background"]
SIDES: tuple[Place, ...] = ("left", "middle", "right")
LEFT_OF, RIGHT_OF = 0.37, 0.63
"""Where the centre of an object on the left or right lies, as a share of the width."""
WIDE = 0.7
"""Of the width: what takes more is on no side of the picture."""
NEAR, FAR = 0.12, 0.01
"""Areas of an object in the foreground at least, and of one in the background at most."""


@dataclass(frozen=True, slots=True)
class ObjectGroup:
    """`sure` and `doubtful` objects of `category`."""

    category: Category
    sure: tuple[FoundObject, ...]
    doubtful: tuple[FoundObject, ...]

    @property
    def area(self) -> float:
        return max(found.box.area for found in (*self.sure, *self.doubtful))


def grouped(objects: Sequence[FoundObject]) -> tuple[ObjectGroup, ...]:
    """People first, then by the area of the largest."""
    names = dict.fromkeys(found.category.name for found in objects)
    groups = []
    for name in names:
        same = [found for found in objects if found.category.name == name]
        sure = tuple(found for found in same if found.is_sure)
        doubtful = tuple(found for found in same if not found.is_sure)
        groups.append(ObjectGroup(same[0].category, sure, doubtful))
    return tuple(sorted(groups, key=lambda group: (group.category.name != PERSON, -group.area)))


def horizontal_position(box: Box) -> Place | None:
    """Left, middle or right; None for what takes most of the width."""
    if box.right - box.left > WIDE:
        return None
    centre = (box.left + box.right) / 2
    return "left" if centre < LEFT_OF else "right" if centre > RIGHT_OF else "middle"


def is_at(box: Box, place: Place) -> bool:
    if place == "foreground":
        return box.area >= NEAR
    if place == "background":
        return box.area <= FAR
    return horizontal_position(box) == place


def phrase(place: Place) -> str:
    return (
        f"in the {place}" if place in ("middle", "foreground", "background") else f"on the {place}"
    )
