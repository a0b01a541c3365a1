"""The preview shows the samples as they are trained, token by token."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from chat_tokenizers import TEMPLATES, byte_level, pieces, plain, tokenizer_of
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from job_data import prepared, settings, write_jsonl

from multimodal.errors import DataError
from multimodal.studio.data.masks import tokenize_row
from multimodal.studio.data.prepare import PreparedData
from multimodal.studio.data.preview import Preview, SamplePreview, preview, token_texts

CHATML = byte_level(plain(TEMPLATES["chatml"]))


def previewed(
    folder: Path, rows: list[dict[str, Any]], method: str = "lora", **more: Any
) -> Preview:
    path = write_jsonl(folder / "a.jsonl", rows)
    how = {"max_length": 400, **more}
    return preview(settings(path, method, **how), prepared(path, method, **how), CHATML)


def trained_text(shown: SamplePreview) -> str:
    return "".join(text for text, is_trained in shown.tokens if is_trained)


QUESTIONS = [{"question": f"What is {n}? 🚗", "answer": f"The {n}. 日本"} for n in range(12)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_of_the_tokens_join_to_the_rendered_sample(name: str) -> None:
    tokenizer = tokenizer_of(name, plain(TEMPLATES[name]))
    messages = [
        {"role": "user", "content": "Grüß 🚗 the cat 日本"},
        {"role": "assistant", "content": "Ça va: 👍🏽 “the sun”"},
    ]
    made = tokenize_row({"messages": messages}, tokenizer, 1000, "answers")
    joined = "".join(text for text, _ in token_texts(made, tokenizer))
    assert joined == tokenizer.decode(made.input_ids)
    assert joined.replace(" ", "") == tokenizer.apply_chat_template(
        messages, tokenize=False
    ).replace(" ", "")


@budget(max_examples=80, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1), st.booleans(), st.integers(1, 50))
def test_whatever_is_said_the_texts_join_to_it(text: str, is_whole: bool, length: int) -> None:
    # A character whose bytes are cut off is read in one way or another by those tokenizers.
    tokenizer, length = (PIECES, 10_000) if is_whole else (BYTES, length)
    made = tokenize_row({"text": text}, tokenizer, length, "answers")
    joined = "".join(text for text, _ in token_texts(made, tokenizer))
    assert joined == tokenizer.decode(made.input_ids)


PIECES, BYTES = pieces(None), byte_level(None)


def test_the_answers_are_what_is_trained(tmp_path: Path) -> None:
    found = previewed(tmp_path, QUESTIONS)
    assert len(found.shown) == 5
    assert (found.kind, found.samples, found.test_samples, found.measured) == (
        "completion",
        11,
        1,
        11,
    )
    for shown in found.shown:
        number = trained_text(shown).split(".")[0].removeprefix("The ")
        assert trained_text(shown) == f"The {number}. 日本<|im_end|>\n"
        assert f"What is {number}? 🚗<|im_end|>" in "".join(text for text, _ in shown.tokens)
        assert not shown.is_cut


def test_everything_is_trained_where_that_is_asked_for(tmp_path: Path) -> None:
    found = previewed(tmp_path, QUESTIONS, loss_on="everything")
    assert found.trained_tokens == found.tokens
    assert all(is_trained for shown in found.shown for _, is_trained in shown.tokens)


def test_the_sums_are_those_of_all_samples(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", QUESTIONS)
    data = prepared(path)
    rows = [tokenize_row(row, CHATML, 400, "answers") for row in data.train]
    found = preview(settings(path, max_length=400), data, CHATML, count=2)
    assert found.tokens == sum(len(row.input_ids) for row in rows)
    assert found.trained_tokens == sum(sum(row.is_trained) for row in rows)
    assert found.longest == max(len(row.input_ids) for row in rows)
    assert (found.shown[0].length, found.shown[0].trained) == (
        len(rows[0].input_ids),
        sum(rows[0].is_trained),
    )
    assert 0 <= found.padding_before < 1
    assert 0 <= found.padding_after < 1


def test_a_cut_sample_is_shown_up_to_the_cut_and_told(tmp_path: Path) -> None:
    rows = [*QUESTIONS, {"question": "Why?", "answer": "Because. " * 200}]
    found = previewed(tmp_path, rows, max_length=100, seed=3)
    assert any("1 of 12 samples (8%) are longer than 100 tokens" in it for it in found.notices)
    assert found.longest == 100


def test_notices_of_the_data_are_told_too(tmp_path: Path) -> None:
    found = previewed(tmp_path, [*QUESTIONS, QUESTIONS[0]])
    assert "1 of 13 samples are duplicates and are used once." in found.notices


def test_both_answers_of_a_pair_are_shown(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."} for n in range(4)]
    found = previewed(tmp_path, rows, "dpo")
    assert [shown.title for shown in found.shown[:2]] == ["chosen", "rejected"]
    assert trained_text(found.shown[0]).startswith("Yes ")
    assert trained_text(found.shown[1]).startswith("No ")


def test_the_rating_of_an_answer_is_shown(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "completion": "So.", "label": n % 2 == 0} for n in range(6)]
    found = previewed(tmp_path, rows, "kto")
    assert {shown.title for shown in found.shown} == {"good", "bad"}


def test_of_prompts_alone_nothing_is_trained(tmp_path: Path) -> None:
    found = previewed(tmp_path, [{"prompt": f"{n}?", "answer": str(n)} for n in range(4)], "grpo")
    assert found.trained_tokens == 0
    assert "".join(text for text, _ in found.shown[0].tokens).endswith("<|im_start|>assistant\n")


def test_a_preview_is_plain_values(tmp_path: Path) -> None:
    found = asdict(previewed(tmp_path, QUESTIONS))
    assert json.loads(json.dumps(found))["shown"][0]["tokens"][0] == ["<|im_start|>", False]


def test_a_sample_that_cannot_be_trained_is_named() -> None:
    empty = {"messages": [{"role": "user", "content": "Hi"}]}
    data = PreparedData("chat", [empty], [empty], (), "")
    with pytest.raises(DataError, match="no token of it would be trained"):
        preview(settings("a"), data, CHATML)
    later = replace(data, train=[{"text": "a"}, empty])
    with pytest.raises(DataError, match="Sample 2: no token of it would be trained"):
        preview(settings("a"), later, CHATML, count=1)
