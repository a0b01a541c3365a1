"""What words ask for: tables of sentences as people type and say them, in English and French."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable

import pytest
from conftest import ROOT

from multimodal.turn.intents import (
    EXCERPT_CHARACTERS,
    excerpt,
    focus_of,
    names_a_picture,
    points_at_something,
    wants_drawing,
    wants_transcript,
)
from multimodal.turn.references import is_elliptic, means_many_pictures, ordinal_of

LONGEST_S = 2.0
"""Of processor time, for one look at the longest message."""
TABLES = tomllib.loads((ROOT / "tests/fixtures/sentences.toml").read_text("utf-8"))


def lines(table: str) -> list[str]:
    return [line.strip() for line in table.strip().splitlines()]


@pytest.mark.parametrize(
    ("focus", "words"),
    [(focus, w) for focus, table in TABLES["about_a_picture"].items() for w in lines(table)],
)
def test_a_question_about_a_picture_has_its_focus(focus: str, words: str) -> None:
    assert (focus_of(words) or "none") == focus


def test_a_picture_without_words_is_described() -> None:
    assert focus_of("") == focus_of(" \n") == "general"


JUDGES: dict[str, tuple[Callable[[str], bool], bool]] = {
    "drawing": (wants_drawing, True),
    "not_drawing": (wants_drawing, False),
    "transcript": (wants_transcript, True),
    "no_transcript": (wants_transcript, False),
    "follow_up": (points_at_something, True),
    "no_follow_up": (points_at_something, False),
    "elliptic": (is_elliptic, True),
    "not_elliptic": (is_elliptic, False),
    "names_a_picture": (names_a_picture, True),
    "names_no_picture": (names_a_picture, False),
}


@pytest.mark.parametrize(
    ("table", "words"), [(table, w) for table in JUDGES for w in lines(TABLES[table])]
)
def test_words_ask_for_what_their_table_says(table: str, words: str) -> None:
    judge, expected = JUDGES[table]
    assert bool(judge(words)) is expected


@pytest.mark.parametrize(
    ("words", "index"),
    [
        ("What does the first picture say?", 0),
        ("the 2nd photo", 1),
        ("And the third one?", 2),
        ("Describe picture 2", 1),
        ("image number three", 2),
        ("the last picture", -1),
        ("the previous image", -2),
        ("the first cat picture", 0),
        ("Décris la première image", 0),
        ("la deuxième photo", 1),
        ("l'image précédente", -2),
        ("la dernière photo", -1),
        ("What is the first thing you see in the picture?", None),
        ("Describe the picture first", None),
        ("What is this?", None),
        ("And the second?", 1),
        ("and the 3rd", 2),
        ("What about the first?", 0),
        ("And the last?", -1),
        ("Et la deuxième ?", 1),
        ("Et la troisième ?", 2),
        ("Et la dernière ?", -1),
        ("The second world war", None),
        ("Who was the first?", None),
    ],
)
def test_an_order_is_read_only_where_it_counts_pictures(words: str, index: int | None) -> None:
    assert ordinal_of(words) == index


@pytest.mark.parametrize(
    ("words", "many"),
    [
        ("Compare both pictures", True),
        ("Describe all the pictures", True),
        ("What do the two images show?", True),
        ("Compare the photos", True),
        ("Décris les deux images", True),
        ("What is in the picture?", False),
        ("Both are nice", False),
    ],
)
def test_all_the_pictures_are_meant_only_when_said(words: str, many: bool) -> None:
    assert means_many_pictures(words) is many


@pytest.mark.slow
def test_no_words_keep_a_pattern_busy() -> None:
    """Every pattern and every question about words, over words that were made to be hard; measured
    in processor time, which is the same on a busy machine."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests/fixtures/adversarial_words.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = ended.stdout.splitlines()[-1]
    assert ended.returncode == 0, f"{last}: {ended.stderr}"
    seconds, _, what = last.partition(" ")
    assert float(seconds) < LONGEST_S, what


LONG = "It rained in the village, and the baker told me of his oven. " * 5000


@pytest.mark.parametrize(
    "words", [f"Transcribe the text.\n\n{LONG}", f"{LONG}\n\nWhat does the sign say?"]
)
def test_what_is_asked_before_or_after_a_long_text_is_understood(words: str) -> None:
    assert focus_of(words) == "text"


@pytest.mark.parametrize("size", [999, 1000, 1001, 5000])
@pytest.mark.parametrize("word", ["word ", "w", "w ", "  w  "])
def test_an_excerpt_has_whole_words_and_is_not_longer_than_said(word: str, size: int) -> None:
    words = (word * size)[:size]
    found = excerpt(words)
    assert len(found) <= EXCERPT_CHARACTERS + 1
    assert set(found.replace("…", " ").split()) <= set(words.split()) or word == "w"
