"""Objects in a picture: which are said, how surely, where, and what is answered about them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from fakes import StopAfter
from PIL import Image

from multimodal.backends.describer.caption import (
    Findings,
    answer,
    caption,
    describe_doubts,
    description,
    object_named,
    overview,
)
from multimodal.backends.describer.findings import Text
from multimodal.backends.describer.labels import Vocabulary
from multimodal.backends.describer.objects import (
    CHECKED_AT_ONCE,
    MOST_CHECKED,
    SURE,
    Box,
    Category,
    Detection,
    FoundObject,
    LabelRelation,
    ObjectFinder,
    likelihood,
    read_categories,
    suppress_overlapping,
)
from multimodal.turn.vocabulary import OBJECTS

LEFT, MIDDLE, RIGHT = Box(0.0, 0.2, 0.3, 0.9), Box(0.4, 0.3, 0.6, 0.6), Box(0.7, 0.2, 1.0, 0.9)
WHOLE, SPECK = Box(0.0, 0.0, 1.0, 1.0), Box(0.1, 0.1, 0.15, 0.15)
PICTURE, NEVER = Image.new("RGB", (64, 64), "red"), threading.Event()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.read(ROOT / "models/labels/imagenet-1k.tsv")


@pytest.fixture(scope="module")
def categories() -> dict[str, Category]:
    return {c.name: c for c in read_categories(ROOT / "models/labels/coco.tsv").values()}


def probabilities(vocabulary: Vocabulary, word: str, probability: float) -> list[float]:
    """Of every class, where that one is so likely and all others are alike."""
    rest = (1 - probability) / (len(vocabulary.names) - 1)
    return [probability if name == word else rest for name in vocabulary.names]


class FakeDetector:
    """Finds what it was given."""

    def __init__(self, found: Sequence[Detection]) -> None:
        self.found = list(found)

    def detect(self, image: Image.Image, least_score: float) -> list[Detection]:
        return [detection for detection in self.found if detection.score >= least_score]


class FakeClassifier:
    """Sees the same class in every region, and keeps how many it looked at each time."""

    def __init__(self, vocabulary: Vocabulary, word: str, probability: float) -> None:
        self.classes = probabilities(vocabulary, word, probability)
        self.looks: list[int] = []

    def region_probabilities(
        self, image: Image.Image, regions: Sequence[tuple[float, float, float, float]]
    ) -> list[list[float]]:
        self.looks.append(len(regions))
        return [self.classes for _ in regions]


class World:
    """Categories, and findings made of them."""

    def __init__(self, categories: dict[str, Category], vocabulary: Vocabulary) -> None:
        self.categories = categories
        self.vocabulary = vocabulary

    def found(self, name: str, box: Box = MIDDLE, is_sure: bool = True) -> FoundObject:
        return FoundObject(self.categories[name], box, is_sure)

    def finder(
        self, found: Sequence[tuple[str, float, Box]], word: str, probability: float
    ) -> tuple[ObjectFinder, FakeClassifier]:
        detections = [Detection(self.categories[n], score, box) for n, score, box in found]
        classifier: Any = FakeClassifier(self.vocabulary, word, probability)
        detector: Any = FakeDetector(detections)
        kinds = tuple(self.categories.values())
        return ObjectFinder(detector, kinds, classifier, self.vocabulary), classifier

    def findings(
        self, *objects: FoundObject, label: str = "maze", share: float = 0.05, faces: int = 0
    ) -> Findings:
        labels = self.vocabulary.choose(probabilities(self.vocabulary, label, share))
        finder, _ = self.finder([], "maze", 0.5)
        relation = finder.relate_label(labels, objects)
        about = {"objects": objects, "relation": relation, "plurals": finder.plurals}
        return Findings(labels, Text(), faces, ("red",), **about)


@pytest.fixture(scope="module")
def world(categories: dict[str, Category], vocabulary: Vocabulary) -> World:
    return World(categories, vocabulary)


def ask(findings: Findings, question: str) -> str:
    return answer(findings, "objects", question)


# ---------------------------------------------------------------- what is said, and how surely


def test_an_object_that_both_networks_see_is_sure(world: World) -> None:
    finder, _ = world.finder([("dog", 0.6, MIDDLE)], "boxer", 0.7)
    (dog,) = finder.find(PICTURE, False, NEVER)
    assert (dog.category.name, dog.is_sure) == ("dog", True)


def test_a_bird_where_the_classifier_is_sure_of_a_beetle_is_not_said(world: World) -> None:
    finder, _ = world.finder([("bird", 0.99, MIDDLE)], "dung beetle", 0.65)
    assert finder.find(PICTURE, False, NEVER) == ()


def test_an_object_that_only_one_network_sees_is_doubtful(world: World) -> None:
    finder, _ = world.finder([("phone", 0.7, MIDDLE)], "maze", 0.1)
    finder_sure, _ = world.finder([("phone", 0.7, MIDDLE)], "cellular telephone", 0.5)
    assert not any(found.is_sure for found in finder.find(PICTURE, False, NEVER))
    (phone,) = finder_sure.find(PICTURE, False, NEVER)
    assert phone.is_sure


def test_people_are_sure_without_a_second_look(world: World) -> None:
    finder, classifier = world.finder(
        [("person", 0.41, LEFT), ("person", 0.39, RIGHT)], "barbell", 0.99
    )
    (person,) = finder.find(PICTURE, False, NEVER)
    assert person.is_sure
    assert person.box == LEFT
    assert classifier.looks == []


def test_without_colour_only_people_are_sure(world: World) -> None:
    finder, _ = world.finder([("person", 0.9, LEFT), ("dog", 0.9, RIGHT)], "boxer", 0.9)
    sure = {o.category.name: o.is_sure for o in finder.find(PICTURE, True, NEVER)}
    assert sure == {"person": True, "dog": False}


def test_agreement_makes_an_object_likelier_and_another_class_less_likely() -> None:
    alone = likelihood(0.7, None, 0.0)
    assert likelihood(0.9, None, 0.0) > alone > likelihood(0.4, None, 0.0)
    assert likelihood(0.7, 0.8, 0.1) > SURE > likelihood(0.7, 0.0, 0.1)
    assert likelihood(0.7, 0.0, 0.1) > likelihood(0.7, 0.0, 0.9)
    assert 0 < likelihood(1.0, 0.0, 1.0) < likelihood(1.0, 1.0, 0.0) < 1


def test_two_names_for_one_thing_leave_the_likelier(world: World) -> None:
    car, truck, other = (
        Detection(world.categories[name], 0.5, box)
        for name, box in (("car", MIDDLE), ("truck", Box(0.4, 0.31, 0.6, 0.6)), ("truck", LEFT))
    )
    kept = suppress_overlapping([(truck, 0.7), (car, 0.9), (other, 0.6)])
    assert kept == [(car, 0.9), (other, 0.6)]


def test_of_many_objects_only_the_surest_get_a_second_look(world: World) -> None:
    many = [("car", 0.5, Box(i / 40, 0, i / 40 + 0.02, 1)) for i in range(30)]
    finder, classifier = world.finder(many, "cab", 0.9)
    found = finder.find(PICTURE, False, NEVER)
    assert sum(classifier.looks) == MOST_CHECKED
    assert max(classifier.looks) == CHECKED_AT_ONCE
    assert sum(o.is_sure for o in found) == MOST_CHECKED


def test_second_looks_end_when_they_are_stopped(world: World) -> None:
    many = [("car", 0.5, Box(i / 40, 0, i / 40 + 0.02, 1)) for i in range(12)]
    finder, classifier = world.finder(many, "cab", 0.9)
    assert finder.find(PICTURE, False, StopAfter(1)) == ()
    assert len(classifier.looks) == 1


# ---------------------------------------------------------------- names


def test_every_object_has_words_and_every_word_an_object(categories: dict[str, Category]) -> None:
    assert set(OBJECTS) == set(categories)
    assert len(categories) == 80
    for name, category in categories.items():
        for word in (name.removeprefix("pair of ").removeprefix("piece of "), category.plural):
            called = word.removeprefix("pairs of ").removeprefix("pieces of ")
            assert object_named(f"Is there a {called}?") == name


def test_what_imagenet_calls_an_object_is_in_its_vocabulary(
    categories: dict[str, Category], vocabulary: Vocabulary
) -> None:
    known = {*vocabulary.names, *(group for groups in vocabulary.groups for group in groups)}
    assert {word for c in categories.values() for word in c.imagenet} <= known


def test_the_longest_name_is_meant() -> None:
    assert object_named("Is there a hot dog?") == "hot dog"
    assert object_named("Where is the teddy bear?") == "teddy bear"
    assert object_named("Is there a unicorn?") is None


# ---------------------------------------------------------------- captions


def test_people_and_a_dog_are_one_sentence_with_their_places(world: World) -> None:
    person = world.found("person", LEFT)
    findings = world.findings(world.found("dog", RIGHT), person, person)
    told = "two people on the left and a dog on the right"
    assert caption(findings).startswith(f"This shows {told}.")
    assert told in description(findings)


def test_places_that_tell_nothing_apart_are_left_out(world: World) -> None:
    assert overview([world.found("dog", LEFT), world.found("cat", LEFT)], {}) == "a dog and a cat"


def test_the_label_and_the_dog_it_names_are_one_thing(world: World) -> None:
    person, dog = world.found("person", LEFT), world.found("dog", RIGHT)
    assert caption(world.findings(person, dog, label="boxer", share=0.8)).startswith(
        "This shows a person on the left and a dog (most likely a boxer) on the right."
    )
    alone = world.findings(world.found("dog"), label="boxer", share=0.8)
    assert caption(alone).startswith("This looks like a dog, most likely a boxer (82 %).")
    several = world.findings(world.found("dog", LEFT), dog, label="boxer", share=0.8)
    assert "two dogs (one of them most likely a boxer)" in caption(several)


def test_a_part_of_an_object_is_no_kind_of_it(world: World) -> None:
    findings = world.findings(world.found("motorcycle"), label="crash helmet", share=0.8)
    assert caption(findings).startswith("This shows a motorcycle.")
    assert "helmet" not in caption(findings)


def test_a_label_that_names_the_place_is_the_scene(world: World) -> None:
    person, dog = world.found("person", LEFT), world.found("dog", RIGHT)
    beach = world.findings(person, dog, label="seashore", share=0.8)
    assert "The scene looks like a seashore." in caption(beach)
    perhaps = world.findings(world.found("person"), label="restaurant", share=0.5)
    assert "The scene may be a restaurant." in caption(perhaps)


def test_what_people_wear_or_do_is_not_taken_for_a_thing(world: World) -> None:
    person = world.found("person", LEFT)
    for label in ("lab coat", "dumbbell"):
        assert caption(world.findings(person, label=label, share=0.8)).startswith(
            "This shows a person. Main colour"
        )


def test_a_label_that_the_objects_do_not_cover_is_told_besides(world: World) -> None:
    small = world.found("person", Box(0.1, 0.1, 0.2, 0.4))
    assert "It also shows what looks like a weapon, most likely a cannon." in caption(
        world.findings(small, label="cannon", share=0.8)
    )
    dog = world.findings(world.found("person", LEFT), label="boxer", share=0.8)
    assert "It may also show a dog." in caption(dog)


def test_doubtful_objects_are_told_with_doubt(world: World) -> None:
    cup = world.found("cup", RIGHT, is_sure=False)
    assert describe_doubts([cup]) == "There may be a cup in it."
    assert "This shows a person. There may also be a cup." in caption(
        world.findings(world.found("person", LEFT), cup)
    )
    more = [world.found("car", LEFT), world.found("car", RIGHT, is_sure=False)]
    assert describe_doubts(more) == "There may also be one more car."


def test_more_than_eight_are_many(world: World) -> None:
    cars = [world.found("car", LEFT) for _ in range(9)]
    assert overview(cars, {}) == "many cars"
    assert overview(cars[:8], {}) == "eight cars"
    assert ask(world.findings(*cars), "How many cars?") == "I can see many cars, nine or more."


def test_faces_and_people_are_not_counted_twice(world: World) -> None:
    one = world.findings(world.found("person"), faces=1)
    assert "face" not in caption(one)
    two = replace(one, faces=2)
    assert "I can see two faces." in caption(two)
    assert ask(two, "How many people are there?") == "I can see two people."


def test_a_face_without_a_person_is_doubtful(world: World) -> None:
    assert "There may be one face in it." in caption(world.findings(world.found("dog"), faces=1))
    assert "This may show a person." in caption(world.findings(faces=1))


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("How many people are there?", "I can see two people: one on the left and one in the"),
        ("How many dogs do you see?", "I can see one dog on the right."),
        ("Combien de chiens y a-t-il ?", "I can see one dog on the right."),
        ("How many cats are there?", "I can find no cat in this picture."),
        ("How many cups?", "There may be a cup in the middle, but I am not sure."),
        ("Is there a dog?", "Yes, I can see a dog on the right."),
        ("Are there any people?", "Yes, I can see two people"),
        ("Is there a cup?", "There may be a cup in the middle, but I am not sure."),
        ("Is there a car in this picture?", "I can find no car in this picture."),
        ("Where is the dog?", "The dog is on the right."),
        ("Where are the people?", "The people are one on the left and one in the middle."),
        ("What is on the left?", "On the left I can see a person."),
        ("What is in the middle?", "In the middle I can see a person, and perhaps a cup."),
        ("What is in the background?", "I can find nothing in the background that I know by name"),
        ("Qu'y a-t-il à gauche ?", "On the left I can see a person."),
        ("What objects are there?", "I can see two people and a dog on the right. There may also"),
        (
            "Is there a dog? Is there a cat?",
            "Yes, I can see a dog on the right. I can find no cat in this picture.",
        ),
    ],
)
def test_questions_about_objects_are_answered(world: World, question: str, told: str) -> None:
    findings = world.findings(
        world.found("person", LEFT),
        world.found("person", MIDDLE),
        world.found("dog", RIGHT),
        world.found("cup", MIDDLE, is_sure=False),
    )
    assert ask(findings, question).startswith(told)


def test_an_object_that_only_the_label_knows_is_answered_by_it(world: World) -> None:
    findings = world.findings(world.found("person", LEFT), label="boxer", share=0.9)
    assert ask(findings, "Is there a dog?") == "This looks like a boxer (90 %)."
    assert ask(findings, "Is there a cat?") == "I can find no cat in this picture."


def test_what_fills_the_picture_is_on_no_side(world: World) -> None:
    findings = world.findings(world.found("cat", WHOLE))
    assert ask(findings, "Where is the cat?") == "The cat takes up most of the picture."


def test_what_is_small_is_in_the_background(world: World) -> None:
    findings = world.findings(world.found("person", SPECK), world.found("bus", RIGHT))
    assert ask(findings, "What is in the background?") == "In the background I can see a person."
    assert ask(findings, "What is in the foreground?") == "In the foreground I can see a bus."


def test_findings_without_objects_are_captioned_as_labels(world: World) -> None:
    findings = world.findings(label="boxer", share=0.9)
    assert findings.relation == LabelRelation("dog", is_kind=True)
    assert caption(findings).startswith("This looks like a boxer (90 %).")


def test_boxes_overlap_by_intersection_over_union() -> None:
    left, right = Box(0, 0, 0.5, 1), Box(0.25, 0, 0.75, 1)
    assert left.overlap(right) == pytest.approx(1 / 3)
    assert left.overlap(Box(0.6, 0, 1, 1)) == 0
    assert np.isclose(left.area, 0.5)


def test_the_table_of_categories_is_read(tmp_path: Path) -> None:
    table = tmp_path / "coco.tsv"
    table.write_text("id\tname\tplural\twords\n18\tdog\tdogs\tdog, wolf\n25\tgiraffe\tgiraffes\t\n")
    assert read_categories(table) == {
        18: Category("dog", "dogs", frozenset({"dog", "wolf"})),
        25: Category("giraffe", "giraffes", frozenset()),
    }
