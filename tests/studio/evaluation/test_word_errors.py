"""Words that are heard wrong are counted, with their interval, and judged."""

from __future__ import annotations

import math

import pytest

from multimodal.studio.evaluation.gate import judge_word_errors
from multimodal.studio.evaluation.word_errors import (
    WordErrors,
    count_word_errors,
    word_error_change,
    word_error_interval,
    word_error_rate,
)

SAID = ["Tell Velmora, please!", "The cat sat.", "(sighs)", "One two three four"]


def test_words_are_compared_without_case_and_punctuation() -> None:
    heard = ["tell wellmore please", "the the cat", "anything", "one two three four"]
    found = count_word_errors(SAID, heard)
    assert found == [WordErrors(1, 3), WordErrors(2, 3), WordErrors(0, 0), WordErrors(0, 4)]
    assert word_error_rate(found) == pytest.approx(3 / 10)
    assert math.isnan(word_error_rate([WordErrors(0, 0)]))
    assert word_error_interval(found) is None, "of so few it cannot be told"
    assert count_word_errors(["今天天气"], ["今天天汽"], "zh") == [WordErrors(1, 4)]
    assert count_word_errors(["Never."], [""]) == [WordErrors(1, 1)]


def test_the_gate_judges_the_paired_change() -> None:
    before = [WordErrors(3 + at % 2, 6) for at in range(20)]
    after = [WordErrors(1 if at % 3 else 0, 6) for at in range(20)]
    report = judge_word_errors(before, after)
    assert report.passed
    assert report.measure == "word_error"
    assert report.before is not None
    assert report.after is not None
    assert report.change is not None
    assert report.before.value == pytest.approx(70 / 120)
    assert 0 <= report.after.low < report.after.value
    assert report.change.value == pytest.approx((13 - 70) / 120)
    assert report.change.high < 0
    assert "went from 58.3% to 10.8%" in report.verdict
    worse = judge_word_errors(after, before)
    assert not worse.passed
    assert worse.verdict.startswith("It got worse")
    same = judge_word_errors(before, before)
    assert not same.passed
    assert not judge_word_errors(before[:5], after[:5]).passed
    with pytest.raises(ValueError, match="not of the same recordings"):
        word_error_change(before, [WordErrors(0, 5)] * 20)
