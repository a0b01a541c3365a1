"""Findings about a picture put into plain English sentences, the same for the same findings: a
caption, a description for a text model, and answers to the questions that `intents.py` knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from multimodal.backends.articles import with_article
from multimodal.backends.describer.findings import Text
from multimodal.backends.describer.labels import LIKELY, SURE, Labels
from multimodal.backends.describer.objects import PERSON, Box, Category, FoundObject, LabelRelation
from multimodal.messages import Focus
from multimodal.turn.intents import excerpt, sentences
from multimodal.turn.vocabulary import OBJECTS

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MOST_COUNTED = 8
"""Of more objects the detector misses too many for a number to mean much."""


def spell_number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def pluralize(count: int, singular: str, plural: str) -> str:
    """“a dog”, “two dogs”, “many dogs”."""
    if count == 1:
        return with_article(singular)
    return f"{spell_number(count) if count <= MOST_COUNTED else 'many'} {plural}"


def join_list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


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


def group_objects(objects: Sequence[FoundObject]) -> tuple[ObjectGroup, ...]:
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
    return f"{'on' if place in ('left', 'right') else 'in'} the {place}"


MOST_PLACED = 4
"""Groups whose places are said in a caption."""


def sure_groups(objects: Sequence[FoundObject]) -> list[ObjectGroup]:
    return [group for group in group_objects(objects) if group.sure]


def overview(objects: Sequence[FoundObject], details: dict[str, str]) -> str:
    """“two people on the left and a dog (probably a boxer) in the middle”. `details`: what is to be
    added to the objects of a category."""
    groups = sure_groups(objects)
    sides = [{horizontal_position(found.box) for found in group.sure} for group in groups]
    places = [found.pop() if len(found) == 1 else None for found in sides]
    # A place says something of several things only where it tells them apart.
    with_places = len(groups) <= MOST_PLACED and len(set(places)) > 1
    told = places if with_places else [None] * len(groups)
    return join_list([_one_group(g, details, place) for g, place in zip(groups, told, strict=True)])


def describe_doubts(objects: Sequence[FoundObject]) -> str:
    """The objects that may be there besides, as a sentence; "" if there are none."""
    groups = [g for g in group_objects(objects) if g.doubtful and len(g.sure) <= MOST_COUNTED]
    if not groups:
        return ""
    words = []
    for group in groups:
        count, category = len(group.doubtful), group.category
        noun = category.name if count == 1 else category.plural
        more = f"{spell_number(count)} more {noun}"
        words.append(more if group.sure else _counted(group.doubtful))
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


def answer_presence(objects: Sequence[FoundObject], name: str) -> str:
    """In answer to “is there?”."""
    group = _group(objects, name)
    if group and group.sure:
        return f"Yes, I can see {_counted(group.sure)}{_at(group.sure)}."
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
    groups = group_objects([found for found in objects if is_at(found.box, place)])
    sure = [_counted(group.sure) for group in groups if group.sure]
    perhaps = [_counted(group.doubtful) for group in groups if not group.sure]
    if sure:
        more = f", and perhaps {join_list(perhaps)}" if perhaps else ""
        return f"{phrase(place).capitalize()} I can see {join_list(sure)}{more}."
    if perhaps:
        return f"{phrase(place).capitalize()} there may be {join_list(perhaps)}; I am not sure."
    return f"I can find nothing {phrase(place)} that I know by name."


def none_found(name: str) -> str:
    return f"I can find no {name} in this picture."


def _perhaps(group: ObjectGroup | None) -> str:
    if group is None or not group.doubtful:
        return ""
    return f"There may be {_counted(group.doubtful)}{_at(group.doubtful)}, but I am not sure."


def _counted(objects: Sequence[FoundObject]) -> str:
    """“two dogs”, of objects of one category."""
    category = objects[0].category
    return pluralize(len(objects), category.name, category.plural)


def _one_group(group: ObjectGroup, details: dict[str, str], place: Place | None) -> str:
    words = [_counted(group.sure)]
    if detail := details.get(group.category.name):
        words.append(f"({detail})")
    if place is not None:
        words.append(phrase(place))
    return " ".join(words)


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
    return next((group for group in group_objects(objects) if group.category.name == name), None)


COUNT = re.compile(r"how many|count|combien", re.IGNORECASE)
WHERE = re.compile(r"where|o[ùu]\b", re.IGNORECASE)
PLACE_WORDS: dict[Place, str] = {
    "background": "background|arri[èe]re-plan",
    "foreground": "foreground|front|premier plan",
    "left": "left|gauche",
    "right": "right|droite",
    "middle": "middle|cent(?:er|re)|milieu",
}
PLACES = {
    place: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for place, words in PLACE_WORDS.items()
}
CALLED = {name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for name, words in OBJECTS.items()}


def answer_about_objects(
    question: str,
    objects: Sequence[FoundObject],
    plurals: Mapping[str, str],
    faces: int,
    label: str,
) -> str:
    """One sentence for each question. `plurals`: of every name there is; `faces`: there are as many
    people at least; `label`: the picture as a whole, which is said where no object is."""
    answers = (_one_answer(one, objects, plurals, faces) for one in sentences(excerpt(question)))
    return " ".join(dict.fromkeys(filter(None, answers))) or _all_objects(objects, label)


def object_named(sentence: str) -> str | None:
    """The object whose name stands in it, the longest where one is part of another."""
    found = [
        (match.end() - match.start(), name)
        for name, called in CALLED.items()
        if (match := called.search(sentence))
    ]
    return max(found)[1] if found else None


def _one_answer(
    sentence: str, objects: Sequence[FoundObject], plurals: Mapping[str, str], faces: int
) -> str:
    if (name := object_named(sentence)) is not None:
        plural = plurals[name]
        if COUNT.search(sentence):
            return how_many(objects, name, plural, faces if name == PERSON else 0)
        if WHERE.match(sentence):
            return answer_location(objects, name, plural)
        return answer_presence(objects, name)
    place = next((place for place, called in PLACES.items() if called.search(sentence)), None)
    return what_is_at(objects, place) if place is not None else ""


def _all_objects(objects: Sequence[FoundObject], label: str) -> str:
    seen = f"I can see {overview(objects, {})}." if sure_groups(objects) else label
    return " ".join(filter(None, (seen, describe_doubts(objects))))


TEXT_LEADS_SHARE = 0.06
TEXT_LEADS_CHARACTERS = 16
QUOTED_CHARACTERS = 300
DESCRIBED_CHARACTERS = 800
FILLS = 0.1
"""Share of the picture that a person takes up who fills it."""


@dataclass(frozen=True, slots=True)
class Findings:
    labels: Labels
    text: Text
    faces: int
    colours: tuple[str, ...]
    colourless: bool = False
    size: tuple[int, int] = (0, 0)
    reduced_from: tuple[int, int] | None = None
    """Width and height as it was looked at, and as it was sent where that is more."""
    objects: tuple[FoundObject, ...] = ()
    relation: LabelRelation = field(default_factory=LabelRelation)
    """Of the labels to the objects."""

    plurals: Mapping[str, str] = field(default_factory=dict)
    """Of the names of all objects that can be found."""

    @property
    def people(self) -> int:
        return sum(o.is_sure and o.category.name == PERSON for o in self.objects)


def answer(found: Findings, focus: Focus, question: str = "") -> str:
    """The reply to a question about the picture that the findings alone can answer."""
    if focus == "objects":
        return _about_objects(found, question)
    if focus == "text":
        all_text = "I can find no text in this picture that I could read."
        if found.text.lines:
            all_text = "\n".join(("The picture says:", "", *found.text.lines))
        told = (all_text, _left_out(found.text), _made_smaller(found))
        return "\n\n".join(filter(None, told))
    if focus == "colours":
        verb = "colour is" if len(found.colours) == 1 else "colours are"
        return f"The main {verb} {join_list(found.colours)}."
    if focus == "faces":
        return _faces(found) or "I can find no face seen from the front in this picture."
    return caption(found)


def _about_objects(found: Findings, question: str) -> str:
    """The label of the whole picture stands in for an object that the detector missed."""
    named = {object_named(sentence) for sentence in sentences(excerpt(question))} - {None}
    seen = {o.category.name for o in found.objects}
    label = _label(found)
    if len(named) == 1 and not named & seen and _names(found, next(iter(named)) or ""):
        return label
    return answer_about_objects(question, found.objects, found.plurals, found.faces, label)


def caption(found: Findings) -> str:
    """What the picture shows, its text, faces and colours, the most telling first."""
    shown = _shown(found)
    text = _quoted(found.text, "The picture contains text", QUOTED_CHARACTERS)
    led_by_text = _is_about_text(found.text)
    sentences = [text, shown if _is_sure(found) or sure_groups(found.objects) else ""]
    if not led_by_text:
        sentences = [shown, text]
    faces = _faces(found) if found.faces > found.people else ""
    sentences += [_left_out(found.text), faces, _colours(found.colours)]
    sentences.append(_made_smaller(found) if found.text.lines else "")
    return " ".join(filter(None, sentences))


def description(found: Findings) -> str:
    """All findings, short, as context for a text model."""
    parts = [_shown(found)] if not _is_about_text(found.text) else ["It is mostly text."]
    parts += [_quoted(found.text, "Text in it", DESCRIBED_CHARACTERS), _left_out(found.text)]
    parts += [_faces(found) or "No faces.", _colours(found.colours)]
    parts.append(_made_smaller(found) if found.text.lines else "")
    return " ".join(filter(None, parts))


def _is_about_text(text: Text) -> bool:
    return text.characters >= TEXT_LEADS_CHARACTERS and text.share >= TEXT_LEADS_SHARE


def _shown(found: Findings) -> str:
    """The objects and the label of the whole picture, one thing said once."""
    groups = sure_groups(found.objects)
    named = [group.category.name for group in groups]
    is_alone = len(groups) == 1 and len(groups[0].sure) == 1
    if not groups or (is_alone and _is_sure(found) and _names(found, named[0])):
        sentences = [_label(found)]
    else:
        details = {name: _detail(found, len(g.sure)) for name, g in zip(named, groups, strict=True)}
        told = {name: detail for name, detail in details.items() if _names(found, name) and detail}
        sentences = [f"This shows {overview(found.objects, told)}.", _besides(found)]
    return " ".join(filter(None, (*sentences, describe_doubts(found.objects))))


def _names(found: Findings, category: str) -> bool:
    """Whether the label is a kind of that object."""
    relation = found.relation
    return found.labels.certainty >= LIKELY and relation.is_kind and relation.category == category


def _specific(found: Findings) -> str:
    labels = found.labels
    return labels.closer.word if labels.closer else labels.best.word


def _detail(found: Findings, count: int) -> str:
    """The kind that one of so many objects is by the label; "" if it says no more than they do."""
    word = _specific(found)
    category = found.relation.category or ""
    if word != found.labels.others[0].word or category in word or count > MOST_COUNTED:
        return ""
    one = "" if count == 1 else "one of them "
    return f"{one}{'most likely' if _is_sure(found) else 'perhaps'} {with_article(word)}"


def _besides(found: Findings) -> str:
    """What the label says that the objects do not. Where people fill the picture it says least:
    ImageNet has no class for them, and takes what they do for a thing."""
    relation, objects = found.relation, found.objects
    named = {o.category.name for o in objects}
    if found.labels.certainty < LIKELY or relation.is_implied or relation.category in named:
        return ""
    best, what = found.labels.best.word, with_article(_specific(found))
    if relation.is_scene:
        return f"The scene {'looks like' if _is_sure(found) else 'may be'} {what}."
    fills = any(o.category.name == PERSON and o.box.area >= FILLS for o in objects)
    if fills and relation.category is None:
        return ""
    if _is_sure(found) and not fills:
        kind = "" if what == with_article(best) else f", most likely {what}"
        return f"It also shows what looks like {with_article(best)}{kind}."
    return f"It may also show {with_article(best)}." if _is_sure(found) or not fills else ""


def _label(found: Findings) -> str:
    best, closer = found.labels.best, found.labels.closer
    share = "" if found.colourless else f" ({min(99, round(100 * best.probability))} %)"
    if found.labels.certainty >= LIKELY:
        verb = "This looks like" if _is_sure(found) else "This may be"
        is_closer = closer is not None and closer.word != best.word
        more = f", most likely {with_article(closer.word)}" if closer and is_closer else ""
        return f"{verb} {with_article(best.word)}{more}{share}."
    if found.faces:
        return "This may show people." if found.faces > 1 else "This may show a person."
    guesses = " or ".join(with_article(name.word) for name in found.labels.others[:2])
    return f"I am not sure what this shows; it might be {guesses}."


def _is_sure(found: Findings) -> bool:
    """Never of a picture without colour: the network learned from colour photographs, and takes
    the moon for a worm and the outline of a horse for a hound."""
    return found.labels.certainty >= SURE and not found.colourless


def _quoted(text: Text, lead: str, most: int) -> str:
    words = " / ".join(text.lines)
    if len(words) > most:
        words = f"{words[:most].rsplit(' ', 1)[0]} …"
    return f"{lead}: “{words}”." if words else ""


def _left_out(text: Text) -> str:
    told = "There is more text in it than is read of one picture; the end was left out."
    return "" if text.is_whole else told


def _made_smaller(found: Findings) -> str:
    if found.reduced_from is None:
        return ""
    sent, seen = (f"{width}x{height}" for width, height in (found.reduced_from, found.size))
    told = f"The picture was made smaller, from {sent} to {seen} pixels"
    return f"{told}; small print may be misread."


def _faces(found: Findings) -> str:
    """With doubt where no person is seen: patterns of leaves and fur look like faces."""
    if found.faces == 0:
        return ""
    told = f"{spell_number(found.faces)} face{'s' if found.faces > 1 else ''}"
    return f"I can see {told}." if found.people else f"There may be {told} in it."


def _colours(names: Sequence[str]) -> str:
    return f"Main colour{'s' if len(names) > 1 else ''}: {join_list(names)}."
