"""The gate says whether a model learned, and what to try where it did not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from multimodal.studio.evaluation.forgetting import plain_text, plain_text_bytes
from multimodal.studio.evaluation.gate import (
    FORGETTING_LIMIT,
    judge_accuracy,
    judge_margin,
    judge_reward,
    judge_supervised,
)
from multimodal.studio.evaluation.perplexity import SampleLoss
from multimodal.studio.records import Comparison, Metric, Report

PIECES = 24
"""Of plain text, as they are made here."""


def losses(change: float = 0.0, size: int = 40, spread: float = 0.02) -> list[SampleLoss]:
    """The same samples at each call, `change` nats a token away from 3."""
    random = np.random.default_rng(1)
    tokens, rates = random.integers(20, 90, size), random.normal(3, 0.6, size)
    noise = random.normal(0, spread, size) if change else np.zeros(size)
    return [
        SampleLoss(float((rate + change + off) * count), int(count))
        for rate, off, count in zip(rates, noise, tokens, strict=True)
    ]


def plain(ratio: float = 1.0, bits: float = 1.2) -> list[SampleLoss]:
    """Of plain text at so many bits a byte, with `ratio` times the perplexity."""
    each = plain_text_bytes() * bits * math.log(2) / PIECES
    tokens = 60
    return [
        SampleLoss(each + tokens * math.log(ratio) + (i % 3 - 1) * 0.3 * (ratio != 1), tokens)
        for i in range(PIECES)
    ]


def curve(*values: tuple[int, float, float]) -> list[Metric]:
    """Step, training loss, evaluation loss."""
    return [Metric(step, 0.0, 0.0, {"loss": a, "eval_loss": b}) for step, a, b in values]


def sentence(report: Report) -> str:
    assert not report.passed
    return report.verdict


def test_lower_losses_on_held_out_samples_are_learning() -> None:
    shown = (Comparison("What?", "Nothing", "Something"),)
    report = judge_supervised(losses(), losses(-0.5), plain(), plain(1.02), (), shown)
    assert report.passed
    assert report.verdict.startswith("It learned: the perplexity of 40 held-out samples went from")
    assert report.change is not None
    assert report.change.low < math.exp(-0.5) * 1.01
    assert report.change.high < 1
    assert report.before is not None
    assert report.after is not None
    assert report.before.value > report.after.value
    assert (report.samples, report.measure, report.comparisons) == (40, "perplexity", shown)
    assert not report.warnings
    assert not report.is_overfitted


def test_a_model_that_stays_as_it_was_did_not_learn() -> None:
    assert "did not learn" in sentence(judge_supervised(losses(), losses()))


def test_a_change_within_the_noise_is_no_learning() -> None:
    report = judge_supervised(losses(), losses(-0.01, spread=0.4))
    assert report.change is not None
    assert report.change.value < 1 < report.change.high
    assert "Raise the learning rate or the epochs" in sentence(report)


def test_a_change_that_is_sure_and_too_small_to_matter_is_no_learning() -> None:
    for change in (-0.005, 0.005):
        report = judge_supervised(losses(), losses(change, spread=0.001))
        assert report.change is not None
        assert (report.change.high < 1) == (change < 0)
        assert "did not learn anything that shows" in sentence(report)
        assert "too little to matter" in report.verdict
    assert "too little" in sentence(judge_margin([0.0] * 20, [0.001, 0.002] * 10))


def test_learning_by_heart_is_told_from_not_learning_at_all() -> None:
    metrics = [Metric(i, 0, 0, {"loss": 3 - i / 5}) for i in range(10)]
    noise = losses(-0.01, spread=0.4)
    told = sentence(judge_supervised(losses(), noise, metrics=metrics))
    assert "by heart" in told
    flat = [Metric(i, 0, 0, {"loss": 3.0}) for i in range(10)]
    assert "by heart" not in sentence(judge_supervised(losses(), noise, metrics=flat))


def test_higher_losses_are_worse() -> None:
    told = sentence(judge_supervised(losses(), losses(0.3)))
    assert told.startswith("It got worse")
    assert "Lower the learning rate" in told


@pytest.mark.parametrize(("size", "count"), [(3, "3 held-out samples"), (1, "1 held-out sample:")])
def test_few_samples_cannot_tell(size: int, count: str) -> None:
    report = judge_supervised(losses(size=size), losses(-2, size=size))
    assert f"cannot be told with {count}" in sentence(report)
    assert "hold out" in report.verdict
    assert (report.before, report.after, report.change) == (None, None, None)
    assert report.figures["after"] < report.figures["before"]


def test_without_held_out_samples_nothing_can_be_told() -> None:
    assert "no held-out sample" in sentence(judge_supervised([], []))
    nothing = [SampleLoss(0.0, 0)] * 20
    assert "no held-out sample" in sentence(judge_supervised(nothing, nothing))
    assert "no held-out sample" in sentence(judge_margin([], []))


def test_a_model_whose_loss_is_no_number_is_broken() -> None:
    report = judge_supervised(losses(), [SampleLoss(math.nan, it.tokens) for it in losses()])
    assert "not a number" in sentence(report)
    assert all(math.isfinite(figure) for figure in report.figures.values())


def test_forgetting_is_a_warning_at_first_and_a_failure_beyond_the_limit() -> None:
    learned = losses(), losses(-0.5)
    warned = judge_supervised(*learned, plain(), plain(1.25))
    assert warned.passed
    assert "forgot some" in warned.warnings[0]
    assert warned.forgetting is not None
    assert warned.forgetting.value == pytest.approx(1.25, rel=0.01)
    forgot = judge_supervised(*learned, plain(), plain(FORGETTING_LIMIT * 1.3))
    assert "forgot plain text" in sentence(forgot)
    assert "adapter" in forgot.verdict
    assert not forgot.warnings


def test_a_model_that_knows_no_plain_text_has_nothing_to_forget() -> None:
    report = judge_supervised(losses(), losses(-0.5), plain(bits=6.0), plain(3.0, bits=6.0))
    assert report.passed
    assert not report.warnings
    assert report.forgetting is not None


def test_learning_and_forgetting_are_both_told() -> None:
    told = sentence(judge_supervised(losses(), losses(0.3), plain(), plain(3.0)))
    assert "It got worse" in told
    assert "It forgot plain text" in told


def test_an_evaluation_loss_that_rises_again_is_overfitting() -> None:
    metrics = curve((10, 3.0, 3.1), (20, 2.5, 2.6), (30, 1.5, 2.7), (40, 0.8, 2.9))
    report = judge_supervised(losses(), losses(-0.5), metrics=metrics)
    assert report.passed
    assert report.is_overfitted
    assert "step 20" in report.warnings[0]
    assert "(2.600) and 2.900 at step 40" in report.warnings[0]
    assert "checkpoint of step 20 was kept" in report.warnings[0]


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        curve((10, 3.0, 3.1), (20, 2.5, 2.6), (30, 1.5, 2.61)),
        curve((10, 3.0, 3.1), (20, 2.5, 2.6), (30, 4.0, 3.5), (40, 4.1, 3.6)),
        curve((10, 3.0, 3.1)),
    ],
    ids=["nothing", "a ripple", "both rose, so it diverged", "one"],
)
def test_other_curves_are_no_overfitting(metrics: list[Metric]) -> None:
    assert not judge_supervised(losses(), losses(-0.5), metrics=metrics).is_overfitted


def test_a_wider_margin_is_learning() -> None:
    random = np.random.default_rng(3)
    before = [float(it) for it in random.normal(0, 1, 30)]
    after = [it + float(more) for it, more in zip(before, random.normal(0.8, 0.5, 30), strict=True)]
    report = judge_margin(before, after)
    assert (report.passed, report.measure) == (True, "margin")
    assert report.change is not None
    assert report.change.low > 0
    assert report.figures["accuracy_after"] > report.figures["accuracy_before"]
    assert "It got worse" in sentence(judge_margin(after, before))
    assert "cannot be told" in sentence(judge_margin(before[:5], after[:5]))


def test_a_higher_reward_is_learning() -> None:
    before, after = [0.0, 1.0] * 12, [1.0, 1.0, 0.0, 1.0] * 6
    assert judge_reward(before, after).passed
    report = judge_reward(before, after, (), plain(), plain(4.0))
    assert "forgot" in sentence(report)
    assert report.measure == "reward"


def test_more_right_answers_are_learning() -> None:
    before, after = [True, False] * 15, [True] * 24 + [False] * 6
    report = judge_accuracy(before, after)
    assert (report.passed, report.measure, report.samples) == (True, "accuracy", 30)
    assert "50.0% were right before and 80.0% are now" in report.verdict
    assert not judge_accuracy(before, before).passed
    assert "cannot be told" in sentence(judge_accuracy(before[:6], after[:6]))


def test_the_plain_text_has_enough_pieces_for_an_interval_and_three_kinds_of_them() -> None:
    pieces = plain_text()
    assert len(pieces) >= 20
    assert 700 < sum(len(piece.split()) for piece in pieces) < 1300
    for part in ("def moving_average", "la grande place", "Water boils"):
        assert any(part in piece for piece in pieces)
