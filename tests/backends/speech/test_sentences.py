"""Where a sentence ends, and what is said of a text in Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal.backends.speech.sentences import clauses, segment, sentences
from multimodal.backends.speech.spoken_text import spoken_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?\nFour", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met Mrs. Jones. They talked.", ["Dr. Smith met Mrs. Jones.", "They talked."]),
        ("It is 3.5 m. It is red.", ["It is 3.5 m.", "It is red."]),
        ("See https://a.org/b.html?c=d. Then go.", ["See https://a.org/b.html?c=d.", "Then go."]),
        ("Take fruit, e.g. Apples. Wash it.", ["Take fruit, e.g. Apples.", "Wash it."]),
        ("J. R. Tolkien wrote it. I read it.", ["J. R. Tolkien wrote it.", "I read it."]),
        ("So do I. You too.", ["So do I.", "You too."]),
        ("Well... maybe. Yes.", ["Well... maybe.", "Yes."]),
        ("1. First thing\n2. Second thing", ["1. First thing", "2. Second thing"]),
        ("See p. 5 and No. 7. Is it p? No. Go.", ["See p. 5 and No. 7.", "Is it p?", "No.", "Go."]),
        ("“Yes!” She left.", ["“Yes!”", "She left."]),
        ("M. Dupont et Mme. Petit. Ils rient !", ["M. Dupont et Mme. Petit.", "Ils rient !"]),
        ("今日は。元気ですか？はい！", ["今日は。", "元気ですか？", "はい！"]),
        ("「はい。」と言った。終わり", ["「はい。」", "と言った。", "終わり"]),
        ("It is 3.5 m. ... —", ["It is 3.5 m."]),
        (" ... ", []),
    ],
)
def test_a_sentence_ends_where_a_reader_pauses(text: str, expected: list[str]) -> None:
    assert list(sentences(text)) == expected


def test_a_growing_text_gives_a_sentence_once_it_cannot_go_on() -> None:
    assert segment("It is 3.").sentences == (), "3.5 may be meant"
    assert segment("It is 3. ").sentences == (), "a small letter may follow"
    assert segment("It is 3. T") == segment("It is 3. T")
    assert segment("It is 3. T").sentences == ("It is 3.",)
    assert segment("It is 3. T").rest.strip() == "T"
    assert segment("今日は。").sentences == (), "a closing bracket may follow"
    assert segment("今日は。元").sentences == ("今日は。",)


PARTS = [*'aA1 .!?…\n。」")*,é今', "Dr. ", "e.g. ", "http://a.b/c "]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=30).map("".join)


@given(TEXTS)
def test_sentences_of_a_growing_text_never_change(text: str) -> None:
    before: tuple[str, ...] = ()
    for end in range(len(text) + 1):
        now = segment(text[:end]).sentences
        assert now[: len(before)] == before, text[:end]
        before = now
    assert sentences(text)[: len(before)] == before


@given(TEXTS, st.integers(1, 20))
def test_no_letter_of_a_long_sentence_is_lost_and_no_piece_is_too_long(
    text: str, most: int
) -> None:
    pieces = clauses(text, most)
    assert all(len(piece) <= most for piece in pieces)
    letters = "".join(filter(str.isalnum, text))
    assert "".join(filter(str.isalnum, "".join(pieces))) == letters


def test_a_long_sentence_is_cut_between_its_clauses() -> None:
    assert clauses("First this, then 1,000 of that; and the end.", 24) == [
        "First this,",
        "then 1,000 of that;",
        "and the end.",
    ]


@pytest.mark.parametrize(
    ("markdown", "said"),
    [
        ("# A **bold** `word`", "A bold word."),
        ("See [the docs](https://example.org/a).", "See the docs."),
        ("See https://www.example.org/a/b?c=d#e, or not.", "See example.org, or not."),
        ("- one\n- two!", "one.\ntwo!"),
        ("```python\nx = 1\n```", "Here is a block of code."),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a, b.\n1, 2."),
        ("Well done 🎉👍🏽!", "Well done!"),
        ("![a cat](cat.png) sleeps", "a cat sleeps."),
        ("20 °C & 5 km/h", "20 degrees Celsius and 5 kilometres an hour."),
        ("so, e.g. $E = mc^2$", "so, for example E equals mc squared."),
        ("pages 3-5, in 2024-05-01", "pages 3 to 5, in 2024-05-01."),
        ("<b>x</b> <script>alert(1)</script>", "b x /b script alert(1) /script."),
        ("***", ""),
        ("🎉", ""),
    ],
)
def test_signs_for_the_eye_are_not_said(markdown: str, said: str) -> None:
    assert spoken_text(markdown) == said


def test_a_block_of_code_is_named_in_the_language_of_the_text() -> None:
    code = "```\nx\n```"
    assert spoken_text(code, "fr") == "Voici un bloc de code."
    assert spoken_text(code, "ja") == "ここにコードがあります。"
    assert spoken_text(code, "sw") == ""
    assert spoken_text("Du café & du thé", "fr") == "Du café & du thé."
