"""Questions about objects, answered from what was found. `intents.py` says which these are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from multimodal.backends.describer.detector import PERSON
from multimodal.backends.describer.groups import Place
from multimodal.backends.describer.object_sentences import (
    answer_location,
    answer_presence,
    describe_doubts,
    how_many,
    overview,
    sure_groups,
    what_is_at,
)
from multimodal.backends.describer.objects import FoundObject
from multimodal.turn.intents import excerpt, sentences
from multimodal.turn.vocabulary import OBJECTS

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
    answers = [
        _one_answer(sentence, objects, plurals, faces) for sentence in sentences(excerpt(question))
    ]
    told = dict.fromkeys(answer for answer in answers if answer)
    return " ".join(told) or _all_objects(objects, label)


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
    name = object_named(sentence)
    if name is not None:
        plural = plurals[name]
        if COUNT.search(sentence):
            return how_many(objects, name, plural, faces if name == PERSON else 0)
        if WHERE.match(sentence):
            return answer_location(objects, name, plural)
        return answer_presence(objects, name, plural)
    place = next((place for place, called in PLACES.items() if called.search(sentence)), None)
    return what_is_at(objects, place) if place is not None else ""


def _all_objects(objects: Sequence[FoundObject], label: str) -> str:
    if not sure_groups(objects):
        return " ".join(filter(None, (label, describe_doubts(objects))))
    return " ".join(filter(None, (f"I can see {overview(objects, {})}.", describe_doubts(objects))))
