"""What is said of the objects in a picture and in answer to questions about them."""

from __future__ import annotations

from collections.abc import Sequence

from multimodal.backends.describer.groups import (
    SIDES,
    ObjectGroup,
    Place,
    grouped,
    horizontal_position,
    is_at,
    phrase,
)
from multimodal.backends.describer.objects import FoundObject
from multimodal.backends.describer.wording import (
    MOST_COUNTED,
    capitalized,
    join_list,
    pluralize,
    spell_number,
)

MOST_PLACED = 4
"""Groups whose places are said in a caption."""


def sure_groups(objects: Sequence[FoundObject]) -> list[ObjectGroup]:
    return [group for group in grouped(objects) if group.sure]


def overview(objects: Sequence[FoundObject], details: dict[str, str]) -> str:
    """“two people on the left and a dog (probably a boxer) in the middle”. `details`: what is to be
    added to the objects of a category."""
    groups = sure_groups(objects)
    places = [_shared_side(group) for group in groups]
    # A place says something of several things only where it tells them apart.
    with_places = len(groups) <= MOST_PLACED and len(set(places)) > 1
    told = places if with_places else [None] * len(groups)
    return join_list([_one_group(g, details, place) for g, place in zip(groups, told, strict=True)])


def describe_doubts(objects: Sequence[FoundObject]) -> str:
    """The objects that may be there besides, as a sentence; "" if there are none."""
    groups = [g for g in grouped(objects) if g.doubtful and len(g.sure) <= MOST_COUNTED]
    if not groups:
        return ""
    words = []
    for group in groups:
        count, category = len(group.doubtful), group.category
        noun = category.name if count == 1 else category.plural
        more = f"{spell_number(count)} more {noun}"
        words.append(more if group.sure else pluralize(count, category.name, category.plural))
    if any(found.is_sure for found in objects):
        return f"There may also be {join_list(words)}."
    return f"There may be {join_list(words)} in it."


def how_many(objects: Sequence[FoundObject], name: str, plural: str, least: int = 0) -> str:
    """In answer to “how many?”. `least`: so many there are at any rate, as of people with faces."""
    group = _group(objects, name)
    count = max(least, len(group.sure) if group else 0)
    more = len(group.doubtful) if group else 0
    if count > MOST_COUNTED:
        return f"I can see many {plural}, {spell_number(count)} or more."
    if count:
        place = _at(group.sure) if group and len(group.sure) == count else ""
        told = f"I can see {spell_number(count)} {name if count == 1 else plural}{place}"
        return f"{told}; there may be {spell_number(more)} more." if more else f"{told}."
    return _perhaps(group) or none_found(name)


def answer_presence(objects: Sequence[FoundObject], name: str, plural: str) -> str:
    """In answer to “is there?”."""
    group = _group(objects, name)
    if group and group.sure:
        return f"Yes, I can see {pluralize(len(group.sure), name, plural)}{_at(group.sure)}."
    return _perhaps(group) or none_found(name)


def answer_location(objects: Sequence[FoundObject], name: str, plural: str) -> str:
    """In answer to “where is?”."""
    group = _group(objects, name)
    if group is None or not group.sure:
        return _perhaps(group) or none_found(name)
    places = _places(group.sure)
    if not places:
        fills = "takes up" if len(group.sure) == 1 else "take up"
        return f"The {name if len(group.sure) == 1 else plural} {fills} most of the picture."
    return f"The {name} is {places}." if len(group.sure) == 1 else f"The {plural} are {places}."


def what_is_at(objects: Sequence[FoundObject], place: Place) -> str:
    """In answer to “what is on the left?”."""
    there = [found for found in objects if is_at(found.box, place)]
    groups = grouped(there)
    sure = [pluralize(len(g.sure), g.category.name, g.category.plural) for g in groups if g.sure]
    perhaps = [
        pluralize(len(g.doubtful), g.category.name, g.category.plural) for g in groups if not g.sure
    ]
    if sure:
        more = f", and perhaps {join_list(perhaps)}" if perhaps else ""
        return f"{capitalized(phrase(place))} I can see {join_list(sure)}{more}."
    if perhaps:
        return f"{capitalized(phrase(place))} there may be {join_list(perhaps)}; I am not sure."
    return f"I can find nothing {phrase(place)} that I know by name."


def none_found(name: str) -> str:
    return f"I can find no {name} in this picture."


def _perhaps(group: ObjectGroup | None) -> str:
    if group is None or not group.doubtful:
        return ""
    category, count = group.category, len(group.doubtful)
    what = pluralize(count, category.name, category.plural)
    return f"There may be {what}{_at(group.doubtful)}, but I am not sure."


def _one_group(group: ObjectGroup, details: dict[str, str], place: Place | None) -> str:
    category = group.category
    words = [pluralize(len(group.sure), category.name, category.plural)]
    if detail := details.get(category.name):
        words.append(f"({detail})")
    if place is not None:
        words.append(phrase(place))
    return " ".join(words)


def _shared_side(group: ObjectGroup) -> Place | None:
    """Where all of them are that are sure; None if they are apart."""
    sides = {horizontal_position(found.box) for found in group.sure}
    return sides.pop() if len(sides) == 1 else None


def _at(objects: Sequence[FoundObject]) -> str:
    """“ on the left”, “: two on the left and one in the middle”; "" where that says nothing."""
    places = _places(objects)
    is_split = len({horizontal_position(found.box) for found in objects}) > 1
    return (": " if is_split else " ") + places if places else ""


def _places(objects: Sequence[FoundObject]) -> str:
    """“on the left”, “two on the left and one in the middle”; "" where one is on no side."""
    sides = [horizontal_position(found.box) for found in objects]
    counts = {place: sides.count(place) for place in SIDES if place in sides}
    if len(counts) == 1 and None not in sides:
        return phrase(next(iter(counts)))
    if len(objects) > MOST_COUNTED:
        return join_list([phrase(place) for place in counts])
    if None in sides:
        return ""
    return join_list([f"{spell_number(count)} {phrase(place)}" for place, count in counts.items()])


def _group(objects: Sequence[FoundObject], name: str) -> ObjectGroup | None:
    return next((group for group in grouped(objects) if group.category.name == name), None)
