"""Pictures described without a vision-language model, on real pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from multimodal.backends.base import Backend, ImageRequest, load
from multimodal.backends.picture_caption import Findings, caption
from multimodal.backends.picture_findings import Text, colour_name, colours, is_colourless
from multimodal.backends.picture_labels import LIKELY, Vocabulary
from multimodal.cards import Catalog
from multimodal.errors import BackendError
from multimodal.events import Description
from multimodal.messages import Focus, ImagePart

NAME = "picture-describer"
data: Any = pictures  # scikit-image does not say its types
PART = ImagePart("0" * 64, "image/png", 1, 1)


@pytest.fixture(scope="module")
def eyes(catalog: Catalog, weights_of: Callable[[str], Path]) -> Iterator[Backend]:
    backend = load(catalog.card(NAME), weights_of(NAME), "cpu")
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.read(Path(__file__).parent.parent / "models/labels/imagenet-1k.tsv")


def look(eyes: Backend, image: Image.Image, focus: Focus = "general") -> Description:
    request = ImageRequest(PART, image.convert("RGB"), focus)
    (event,) = eyes.run(request, threading.Event())
    assert isinstance(event, Description)
    return event


def test_chelsea_is_a_cat(eyes: Backend) -> None:
    seen = look(eyes, Image.fromarray(data.chelsea()))
    assert seen.answer.startswith("This looks like a cat, most likely")
    assert "a cat" in (seen.part.description or "")


def test_coffee_is_an_espresso(eyes: Backend) -> None:
    assert "espresso" in look(eyes, Image.fromarray(data.coffee())).answer


def test_printed_words_are_quoted_and_lead(eyes: Backend, examples: Path) -> None:
    image = Image.open(examples / "printed-words.png")
    caption = look(eyes, image).answer
    assert caption.startswith("The picture contains text: “Tomatoes need sun")
    read = look(eyes, image, "text").answer
    for line in ("Tomatoes need sun", "Water them every morning,", "Garden notes, page 12"):
        assert line in read.split("\n")


def test_faces_are_counted_and_none_is_invented(eyes: Backend) -> None:
    assert "one face" in look(eyes, Image.fromarray(data.astronaut()), "faces").answer
    for picture in (data.chelsea(), data.coffee(), data.rocket()):
        assert "no face" in look(eyes, Image.fromarray(picture), "faces").answer


def test_what_is_not_known_is_not_claimed(eyes: Backend) -> None:
    for picture in (data.brick(), data.rocket(), data.coins()):
        assert "I am not sure" in look(eyes, Image.fromarray(picture)).answer


def test_a_picture_without_colour_is_never_named_with_certainty(eyes: Backend) -> None:
    for picture in (data.horse(), data.moon()):
        image = Image.fromarray(picture)
        assert is_colourless(image.convert("RGB"))
        seen = look(eyes, image).answer
        assert "looks like" not in seen
        assert "%" not in seen


def test_the_same_picture_is_described_in_the_same_words(eyes: Backend) -> None:
    image = Image.fromarray(data.coffee())
    assert look(eyes, image) == look(eyes, image)


def test_a_face_is_found_in_a_large_picture_too(eyes: Backend) -> None:
    large = Image.fromarray(data.astronaut()).resize((2048, 2048))
    assert "one face" in look(eyes, large, "faces").answer


def test_no_text_is_said_to_be_none(eyes: Backend) -> None:
    assert "no text" in look(eyes, Image.fromarray(data.astronaut()), "text").answer


@pytest.mark.parametrize("size", [(16, 16), (2048, 41), (16, 800)])
def test_odd_shapes_are_described_too(eyes: Backend, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    assert look(eyes, Image.fromarray(noise)).answer


def test_a_describer_that_was_closed_says_so(
    catalog: Catalog, weights_of: Callable[[str], Path]
) -> None:
    backend = load(catalog.card(NAME), weights_of(NAME), "cpu")
    backend.close()
    with pytest.raises(BackendError, match="unloaded"):
        look(backend, Image.new("RGB", (64, 64)))


def test_nothing_is_said_after_a_stop(eyes: Backend) -> None:
    stop = threading.Event()
    stop.set()
    request = ImageRequest(PART, Image.new("RGB", (64, 64)), "general")
    assert list(eyes.run(request, stop)) == []


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "grey"),
        ((220, 20, 20), "red"),
        ((255, 140, 0), "orange"),
        ((250, 230, 30), "yellow"),
        ((20, 160, 40), "green"),
        ((30, 60, 220), "blue"),
        ((120, 40, 180), "purple"),
        ((250, 110, 190), "pink"),
        ((110, 70, 30), "brown"),
        ((222, 200, 165), "beige"),
    ],
)
def test_colours_have_everyday_names(rgb: tuple[int, int, int], name: str) -> None:
    assert colour_name(*rgb) == name
    assert colours(Image.new("RGB", (50, 50), rgb)) == (name,)


def test_a_sure_class_is_named_and_unsure_ones_are_summed(vocabulary: Vocabulary) -> None:
    sure = spread(vocabulary, {"tabby": 0.9})
    assert vocabulary.choose(sure).best.word == "tabby"
    torn = vocabulary.choose(
        spread(vocabulary, {"tabby": 0.3, "tiger cat": 0.3, "Egyptian cat": 0.2})
    )
    assert torn.best.word == "cat"
    assert torn.best.probability == pytest.approx(0.8, abs=0.01)
    assert torn.closer is not None
    assert torn.closer.word == "tabby"


def test_a_large_group_needs_more_than_its_share_of_the_classes(vocabulary: Vocabulary) -> None:
    nothing = vocabulary.choose([1 / 1000] * 1000)
    assert nothing.certainty < 0.01
    animals = sum("animal" in groups for groups in vocabulary.groups)
    half = [0.5 / animals if "animal" in g else 0.5 / (1000 - animals) for g in vocabulary.groups]
    assert vocabulary.choose(half).certainty < LIKELY


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hourglass", "an hourglass"),
        ("European gallinule", "a European gallinule"),
        ("unicycle", "a unicycle"),
        ("umbrella", "an umbrella"),
        ("sunglasses", "like sunglasses"),
    ],
)
def test_names_have_the_article_one_says(vocabulary: Vocabulary, word: str, said: str) -> None:
    labels = vocabulary.choose(spread(vocabulary, {word: 0.95}))
    assert said in caption(Findings(labels, Text(), 0, ("red",)))


def test_every_class_has_a_name(vocabulary: Vocabulary) -> None:
    assert len(vocabulary.names) == len(vocabulary.groups) == 1000
    assert all(vocabulary.names)


def spread(vocabulary: Vocabulary, given: dict[str, float]) -> list[float]:
    rest = (1 - sum(given.values())) / (1000 - len(given))
    return [given.get(name, rest) for name in vocabulary.names]
