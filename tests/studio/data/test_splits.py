"""What is held out depends on the seed and on what is said, and on nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal.studio.data.splits import hold_out, keep_apart, row_key, unique

Row = dict[str, Any]

texts = st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=60)
shares = st.floats(0.01, 0.5)
seeds = st.integers(0, 5)


def rows_of(said: Sequence[str]) -> list[Row]:
    return [{"text": text} for text in said]


def keys(rows: Sequence[Row]) -> set[str]:
    return {row_key(row) for row in rows}


@given(texts, shares, seeds)
def test_every_row_is_on_one_side_and_no_side_is_empty(
    said: list[str], share: float, seed: int
) -> None:
    rows = unique(rows_of([*said, "one", "two"]))
    train, test = hold_out(rows, share, seed)
    assert sorted([*train, *test], key=row_key) == sorted(rows, key=row_key)
    assert not keys(train) & keys(test)
    assert train
    assert test


@given(texts, shares, seeds)
def test_as_many_are_held_out_as_asked_for(said: list[str], share: float, seed: int) -> None:
    rows = unique(rows_of([*said, "one", "two"]))
    _, test = hold_out(rows, share, seed)
    assert len(test) == max(1, round(share * len(rows)))


@given(texts, shares, seeds, st.randoms())
def test_the_order_of_rows_and_columns_does_not_matter(
    said: list[str], share: float, seed: int, chance: random.Random
) -> None:
    rows: list[Row] = [
        {"prompt": f"{n}: {text}", "completion": text} for n, text in enumerate(said)
    ]
    turned = [dict(reversed(row.items())) for row in rows]
    chance.shuffle(turned)
    assert keys(hold_out(rows, share, seed)[1]) == keys(hold_out(turned, share, seed)[1])


def test_another_seed_holds_out_others() -> None:
    rows = rows_of([str(number) for number in range(100)])
    held = [hold_out(rows, 0.1, seed)[1] for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_rows_stay_in_their_order() -> None:
    rows = rows_of([str(number) for number in range(50)])
    for part in hold_out(rows, 0.3, 7):
        assert part == [row for row in rows if row in part]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), shares, seeds)
def test_answers_to_one_prompt_are_on_one_side(asked: list[int], share: float, seed: int) -> None:
    rows: list[Row] = [
        {"prompt": [{"role": "user", "content": str(prompt)}], "completion": str(number)}
        for number, prompt in enumerate([*asked, 6, 7])
    ]
    train, test = hold_out(rows, share, seed)
    prompts = [{row["prompt"][0]["content"] for row in part} for part in (train, test)]
    assert not prompts[0] & prompts[1]
    assert train
    assert test


@pytest.mark.parametrize("seed", range(8))
def test_a_prompt_that_most_rows_have_is_not_held_out(seed: int) -> None:
    rows: list[Row] = [{"prompt": "Go on.", "completion": str(number)} for number in range(50)]
    train, test = hold_out([*rows, {"prompt": "Stop.", "completion": "No."}], 0.1, seed)
    assert (len(train), len(test)) == (50, 1)


def test_rows_that_all_have_the_same_prompt_are_split_all_the_same() -> None:
    rows: list[Row] = [{"prompt": "Write a poem.", "completion": str(n)} for n in range(20)]
    train, test = hold_out(rows, 0.1, 0)
    assert (len(train), len(test)) == (18, 2)


def test_the_first_of_several_equal_rows_is_kept() -> None:
    rows = rows_of(["b", "a ", "b", "a", "c"])
    assert unique(rows) == rows_of(["b", "a ", "c"])


def test_what_is_tested_is_not_taught() -> None:
    rows = rows_of(["a", "b", "c", " b", "d", "d"])
    splits = ["train", "train", "train", "test", "test", "test"]
    train, test, leaks = keep_apart(list(zip(rows, splits, strict=True)))  # type: ignore[arg-type]
    assert train == rows_of(["a", "c"])
    assert test == rows_of([" b", "d"])
    assert leaks == 1


def test_what_is_asked_in_the_test_is_not_taught_with_another_answer() -> None:
    taught: list[Row] = [{"prompt": prompt, "completion": "Yes."} for prompt in ("a", "b")]
    tested: list[Row] = [{"prompt": "b", "completion": "No."}]
    rows = [(row, "train") for row in taught] + [(row, "test") for row in tested]
    assert keep_apart(rows) == (taught[:1], tested, 1)  # type: ignore[arg-type]
    assert keep_apart(rows[1:]) == (taught[1:], tested, 0)  # type: ignore[arg-type]
