"""An answer said while it is written."""

from __future__ import annotations

import pytest

from multimodal.backends.speech.growing_text import GrowingText
from multimodal.backends.speech.sentences import sentences
from multimodal.backends.speech.spoken_text import spoken_text

STORY = (
    "Once, a long while ago, there was a **dog**. It lived by the sea!\n\n"
    "1. It swam.\n2. It slept, e.g. at 3.5 p.m. every day.\n\n"
    "```python\nprint('a dog. and a cat.')\n```\n\nThat is all. Is it? Yes"
)


def said(text: str, size: int, language: str = "en") -> list[str]:
    """What is said of `text`, written `size` characters at a time."""
    growing = GrowingText(language)
    found: list[str] = []
    for at in range(size, len(text) + size, size):
        found += growing.next_sentences(text[:at], at >= len(text))
    return found


@pytest.mark.parametrize("size", [1, 3, 10, 50, 1000])
def test_every_word_is_said_once_and_in_order(size: int) -> None:
    whole = " ".join(sentences(spoken_text(STORY)))
    assert " ".join(said(STORY, size)).split() == whole.split()


def test_a_sentence_is_said_as_soon_as_the_next_begins() -> None:
    growing = GrowingText("en")
    assert growing.next_sentences("It rains. ", False) == []
    assert growing.next_sentences("It rains. It", False) == ["It rains."]
    assert growing.next_sentences("It rains. It snows.", True) == ["It snows."]
    assert growing.next_sentences("It rains. It snows.", True) == []


def test_the_first_clause_does_not_wait_for_its_sentence() -> None:
    growing = GrowingText("en")
    text = "The capital of France is Paris, a city"
    assert growing.next_sentences(text, False) == ["The capital of France is Paris,"]
    assert growing.next_sentences(f"{text} on the", False) == []
    assert growing.next_sentences(f"{text} on the Seine. It", False) == ["a city on the Seine."]


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_first_clause_does_not_wait_for_the_rest_of_a_sentence_that_is_written(
    is_whole: bool,
) -> None:
    growing = GrowingText("en")
    text = "No, the capital of France is Paris, a city on the Seine. It rains, and it snows, there."
    found = ["No, the capital of France is Paris,", "a city on the Seine."]
    rest = ["It rains, and it snows, there."] if is_whole else []
    assert growing.next_sentences(text, is_whole) == found + rest


def test_japanese_is_said_sentence_by_sentence() -> None:
    assert said("東京です。京都もあります。", 1, "ja") == ["東京です。", "京都もあります。"]


def test_code_is_named_and_not_read() -> None:
    assert not any("print" in sentence for sentence in said(STORY, 1))
