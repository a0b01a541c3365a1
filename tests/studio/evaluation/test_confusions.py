"""Classes that are mixed up are told, the most frequent first."""

from __future__ import annotations

import pytest

from multimodal.studio.evaluation.confusions import confusion_sentence, find_confusions
from multimodal.studio.records import Confusion

EXPECTED = ["cat"] * 4 + ["dog"] * 3 + ["owl"] * 2
PREDICTED = ["cat", "dog", "dog", "owl", "dog", "cat", "cat", "owl", "cat"]


def test_pairs_are_counted_with_how_many_there_are_of_the_class() -> None:
    assert find_confusions(EXPECTED, PREDICTED) == (
        Confusion("cat", "dog", 2, 4),
        Confusion("dog", "cat", 2, 3),
        Confusion("cat", "owl", 1, 4),
        Confusion("owl", "cat", 1, 2),
    )
    assert find_confusions(EXPECTED, EXPECTED) == ()


def test_no_more_are_told_than_asked_for() -> None:
    assert find_confusions(EXPECTED, PREDICTED, most=1) == (Confusion("cat", "dog", 2, 4),)
    assert confusion_sentence(find_confusions(EXPECTED, PREDICTED), most=2) == (
        "Mixed up most often: cat taken for dog (2 of 4), dog taken for cat (2 of 3)."
    )
    assert confusion_sentence(()) == ""


def test_samples_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        find_confusions(EXPECTED, PREDICTED[1:])
