"""Rows of a person's own chats, edited before a model learns from them."""

from __future__ import annotations

import pytest
from studio_page import PAIRS, RATED

from multimodal.errors import RequestError
from multimodal.web.studio.actions import Row
from multimodal.web.studio.rows import read_rows, shown_rows


def test_what_is_not_touched_stays_as_it_was() -> None:
    rows = [Row(id=0, texts={"completion": "Goethe wrote it."}), Row(id=1)]
    assert read_rows(RATED, rows) == list(RATED)


def test_edited_words_take_the_place_of_the_answer_alone() -> None:
    (row,) = read_rows(PAIRS, [Row(id=0, texts={"chosen": "Good day!"})])
    assert row["chosen"] == [{"role": "assistant", "content": "Good day!"}]
    assert row["rejected"] == PAIRS[0]["rejected"]
    assert PAIRS[0]["chosen"] == [{"role": "assistant", "content": "Hello!"}]


def test_what_is_not_named_is_dropped() -> None:
    assert read_rows(RATED, [Row(id=1)]) == [RATED[1]]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "Keep at least one row."),
        ([Row(id=0, texts={"completion": "  "})], "Row 1: the answer is empty."),
        ([Row(id=7)], "no longer as they were shown"),
    ],
)
def test_what_cannot_be_learned_is_refused(rows: list[Row], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        read_rows(RATED, rows)


def test_a_conversation_is_shown_with_who_said_what() -> None:
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    (row,) = shown_rows([{**RATED[0], "prompt": prompt}])
    assert row.prompt == "system: Be kind.\n\nuser: Hi"
