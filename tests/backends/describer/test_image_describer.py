"""Pictures described without a vision-language model, on real pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from fakes import StopAfter
from media_files import saved
from PIL import Image, ImageDraw, ImageFont
from skimage import data as pictures

from multimodal.backends.base import Backend, load
from multimodal.backends.describer.caption import Findings, answer, caption, description
from multimodal.backends.describer.findings import (
    Text,
    TextReader,
    colour_name,
    colours,
    is_colourless,
)
from multimodal.backends.describer.labels import LIKELY, Vocabulary
from multimodal.catalog.cards import Catalog
from multimodal.events import ImageDescribed
from multimodal.media.ingestion import MediaFolder
from multimodal.messages import Focus
from multimodal.requests import ImageDescriptionRequest

NAME = "picture-describer"
Line = tuple[tuple[float, float], str, int]
data: Any = pictures  # scikit-image does not say its types


@pytest.fixture(scope="module")
def eyes(catalog: Catalog, weights_of: Callable[[str], Path]) -> Iterator[Backend]:
    backend = load(catalog.card(NAME), weights_of(NAME), "cpu")
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.read(ROOT / "models/labels/imagenet-1k.tsv")


def look(eyes: Backend, image: Image.Image, focus: Focus = "general") -> ImageDescribed:
    request = ImageDescriptionRequest(image.convert("RGB"), focus)
    (event,) = eyes.run(request, threading.Event())
    assert isinstance(event, ImageDescribed)
    return event


def ask(eyes: Backend, image: Image.Image, question: str) -> str:
    request = ImageDescriptionRequest(image.convert("RGB"), "objects", question)
    (event,) = eyes.run(request, threading.Event())
    assert isinstance(event, ImageDescribed)
    return event.answer


def test_chelsea_is_a_cat(eyes: Backend) -> None:
    seen = look(eyes, Image.fromarray(data.chelsea()))
    assert seen.answer.startswith("This looks like a cat, most likely")
    assert "a cat" in seen.description


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


def test_people_and_things_are_found_counted_and_placed(eyes: Backend) -> None:
    person = Image.fromarray(data.astronaut()).resize((400, 400))
    cat = Image.fromarray(data.chelsea()).resize((400, 266))
    both = Image.new("RGB", (800, 400), "grey")
    both.paste(person, (0, 0))
    both.paste(cat, (400, 70))
    seen = look(eyes, both)
    assert "a person on the left and a cat" in seen.answer
    assert "a person on the left and a cat" in (seen.description)
    assert ask(eyes, both, "How many people are there?") == "I can see one person on the left."
    assert ask(eyes, both, "Is there a cat?") == "Yes, I can see a cat on the right."
    assert ask(eyes, both, "Where is the dog?") == "I can find no dog in this picture."
    assert ask(eyes, both, "What is on the left?") == "On the left I can see a person."


def test_a_motorcycle_is_found(eyes: Backend) -> None:
    left = Image.fromarray(data.stereo_motorcycle()[0])
    assert ask(eyes, left, "Is there a motorcycle?").startswith("Yes, I can see a motorcycle")
    assert look(eyes, left).answer.startswith("This shows a motorcycle")


@pytest.mark.slow
def test_no_object_is_claimed_where_there_is_none(eyes: Backend) -> None:
    for picture in (data.brick(), data.coins(), data.rocket(), data.moon()):
        image = Image.fromarray(picture)
        assert "no person" in ask(eyes, image, "How many people are there?")
        assert "This shows" not in look(eyes, image).answer


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


def test_a_face_is_found_in_a_large_picture_too(eyes: Backend) -> None:
    large = Image.fromarray(data.astronaut()).resize((2048, 2048))
    assert "one face" in look(eyes, large, "faces").answer


def test_no_text_is_said_to_be_none(eyes: Backend) -> None:
    assert "no text" in look(eyes, Image.fromarray(data.astronaut()), "text").answer


@pytest.mark.parametrize("size", [(16, 16), (2048, 41), (16, 800)])
def test_odd_shapes_are_described_too(eyes: Backend, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    assert look(eyes, Image.fromarray(noise)).answer


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


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("words", ["OPEN FROM NINE", "Closed on Sunday", "Mind the step"])
@pytest.mark.parametrize(
    ("size", "spacing"), [(20, 0), (40, 4), (60, 0), (60, 8), (90, 0), (160, 0)]
)
def test_each_word_of_a_line_is_read_once(
    eyes: Backend, words: str, size: int, spacing: int
) -> None:
    assert read(eyes, sign(words, size, spacing)) == [words]


def page(
    size: tuple[int, int], *lines: Line, ink: str = "black", ground: Any = "white"
) -> Image.Image:
    """Lines of text at their places, each with the size of its letters."""
    image = Image.new("RGB" if isinstance(ground, str) else "RGBA", size, ground)
    draw = ImageDraw.Draw(image)
    for place, text, height in lines:
        draw.text(place, text, ink, ImageFont.load_default(height))
    return image


def test_a_short_sign_is_read_once(eyes: Backend) -> None:
    image = page((640, 160), ((30, 40), "OPEN FROM NINE", 60))
    assert read(eyes, image) == ["OPEN FROM NINE"]


def test_columns_and_lines_stay_apart(eyes: Backend) -> None:
    lines: list[Line] = [
        ((40 + 540 * column, 30 + 70 * row), f"{side} words of row {row + 1}", 36)
        for row in range(6)
        for column, side in enumerate(("left", "right"))
    ]
    assert read(eyes, page((1100, 460), *lines)) == [text for _, text, _ in lines]


@pytest.mark.parametrize("degrees", [12, 90, 180, 270])
def test_turned_text_is_read(eyes: Backend, degrees: int) -> None:
    image = page((800, 800), ((80, 370), "Turn left at the church", 50))
    assert read(eyes, image.rotate(degrees, fillcolor="white")) == ["Turn left at the church"]


@pytest.mark.slow
def test_long_lines_are_not_taken_for_upside_down(eyes: Backend) -> None:
    words = "The dense page goes on and on with many words on line"
    wanted = [f"{n}. {words} {n} until {n * 7 - 7} ends" for n in range(1, 79)]
    lines = (((20, 8 + 30 * row), line, 24) for row, line in enumerate(wanted))
    assert read(eyes, page((1280, 2400), *lines)) == wanted


@pytest.mark.slow
def test_a_long_page_is_read_whole_and_in_order(eyes: Backend, media: MediaFolder) -> None:
    costs = [100 + n * 37 % 900 for n in range(1, 100)]
    wanted = [f"{n}. Invoice {n * 7} costs {cost} euro" for n, cost in enumerate(costs, 1)]
    wanted.append(f"The sum of all is {sum(costs)} euro")
    image = page(
        (1080, 8000), *(((60, 25 + 79 * index), line, 30) for index, line in enumerate(wanted))
    )
    lines = read(eyes, through(media, image))
    assert len(lines) == 100
    assert sum(line == want for line, want in zip(lines, wanted, strict=True)) >= 98
    assert lines[-1] == wanted[-1]


def test_a_long_sign_is_read_across_its_strips(eyes: Backend, media: MediaFolder) -> None:
    across = (
        "The quick brown fox jumps over the lazy dog near the river bank and then it runs "
        "home again before nine in the evening to eat"
    )
    told = "Column {}, row {}: trains leave from platform {}"
    lines: list[Line] = [((60, 60), across, 100)]
    lines += [
        ((60 + 4000 * column, 250 + 100 * row), told.format(side, row + 1, row + 4), 60)
        for row in range(3)
        for column, side in enumerate(("one", "two"))
    ]
    wanted = [text for _, text, _ in lines]
    assert read(eyes, through(media, page((8000, 600), *lines))) == wanted


@pytest.mark.parametrize(
    ("ink", "ground"), [("white", (0, 0, 0, 0)), ("black", (255, 255, 255, 0))]
)
def test_text_on_a_transparent_ground_is_read(
    eyes: Backend, media: MediaFolder, ink: str, ground: tuple[int, int, int, int]
) -> None:
    image = page((700, 160), ((30, 40), "Ring the bell twice", 60), ink=ink, ground=ground)
    assert read(eyes, through(media, image)) == ["Ring the bell twice"]


def test_text_of_a_picture_that_was_made_smaller_says_so(eyes: Backend, media: MediaFolder) -> None:
    image = page((4000, 3000), ((300, 300), "Ring the bell twice", 200))
    part = media.add_image(saved(image, compress_level=1), "photo.png")
    focuses: tuple[Focus, ...] = ("text", "general")
    for focus in focuses:
        request = ImageDescriptionRequest(media.image(part), focus, "", part.reduced_from)
        (event,) = eyes.run(request, threading.Event())
        assert isinstance(event, ImageDescribed)
        told = "made smaller, from 4000x3000 to 2048x1536 pixels"
        assert told in event.answer
        assert told in event.description


def test_reading_a_long_page_ends_when_it_is_stopped() -> None:
    stop = StopAfter(3)
    assert TextReader(1).read(page((1080, 8000)), stop).lines == ()
    assert stop.asked == 4, "three strips of five were looked at"


def test_more_text_than_is_read_of_one_picture_is_told(vocabulary: Vocabulary) -> None:
    wanted = ["Ring the bell twice", "Mind the step", "No dogs"]
    image = page((700, 400), *(((30, 30 + 120 * row), line, 50) for row, line in enumerate(wanted)))
    text = TextReader(1, max_boxes=3).read(image, threading.Event())
    assert (text.lines, text.is_whole) == (tuple(wanted), True)
    text = TextReader(1, max_boxes=2).read(image, threading.Event())
    assert (len(text.lines), text.is_whole) == (2, False)
    found = Findings(vocabulary.choose([1 / 1000] * 1000), text, 0, ("white",))
    told = "more text in it than is read"
    assert told in caption(found)
    assert told in description(found)
    assert told in answer(found, "text")
    assert told not in caption(replace(found, text=replace(text, is_whole=True)))


@pytest.fixture
def media(tmp_path: Path) -> MediaFolder:
    return MediaFolder(tmp_path / "media")


def sign(words: str, size: int, spacing: int) -> Image.Image:
    """`words` in black on white, `spacing` pixels more than usual between the letters."""
    font = ImageFont.load_default(size)
    places, at = [], float(size)
    for letter in words:
        places.append(at)
        at += font.getlength(letter) + spacing
    letters = (((x, size // 2), letter, size) for x, letter in zip(places, words, strict=True))
    return page((round(at) + size, 5 * size // 2), *letters)


def read(eyes: Backend, image: Image.Image) -> list[str]:
    """The lines that are found in the picture."""
    return look(eyes, image, "text").answer.split("\n")[2:]


def through(media: MediaFolder, image: Image.Image) -> Image.Image:
    """As it is looked at after it was sent."""
    return media.image(media.add_image(saved(image, compress_level=1), "picture.png"))
