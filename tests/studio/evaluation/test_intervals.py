"""Intervals hold what they promise, in simulations whose true value is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from multimodal.studio.evaluation.intervals import (
    MIN_SAMPLES,
    mean_change,
    mean_interval,
    perplexity,
    perplexity_change,
    perplexity_interval,
    ratio_interval,
    share_change,
    share_interval,
)
from multimodal.studio.evaluation.perplexity import SampleLoss
from multimodal.studio.records import Interval

Draw = Callable[[np.random.Generator, int], tuple[list[float], list[float]]]


def losses(rates: list[float], tokens: list[int]) -> list[SampleLoss]:
    return [SampleLoss(rate * count, count) for rate, count in zip(rates, tokens, strict=True)]


def skewed(random: np.random.Generator, size: int) -> tuple[list[float], list[float]]:
    """Losses of samples of unlike length: 2.4 nats a token on average."""
    tokens = np.maximum(1, random.lognormal(4, 0.8, size).astype(int))
    return list(random.gamma(4, 0.6, size) * tokens), list(tokens)


def rare(random: np.random.Generator, size: int) -> tuple[list[float], list[float]]:
    """Rewards of which most stay: on average 0.15 more."""
    changes = random.choice([-1, 0, 1], size, p=[0.05, 0.75, 0.2])
    return list(changes.astype(float)), [1.0] * size


@pytest.mark.parametrize(
    ("draw", "size", "true", "least"),
    [(skewed, 8, 2.4, 0.88), (skewed, 40, 2.4, 0.91), (rare, 40, 0.15, 0.91)],
)
def test_intervals_hold_the_true_value_about_as_often_as_they_say(
    draw: Draw, size: int, true: float, least: float
) -> None:
    random = np.random.default_rng(5)
    found = [ratio_interval(*draw(random, size), seed=i) for i in range(250)]
    assert None not in found
    held = sum(it.low <= true <= it.high for it in found if it is not None) / len(found)
    assert least <= held <= 0.985


def test_half_as_wide_an_interval_would_miss_the_true_value_too_often() -> None:
    """So that the test above can fail."""
    random = np.random.default_rng(5)
    found = [ratio_interval(*skewed(random, 40), seed=i) for i in range(150)]
    halves = [(it.value - it.low, it.high - it.value, it.value) for it in found if it is not None]
    held = sum(value - low / 2 <= 2.4 <= value + high / 2 for low, high, value in halves)
    assert held / len(found) < 0.8


def test_where_few_large_losses_make_the_mean_it_may_well_be_higher_than_it_looks() -> None:
    random, longer_above = np.random.default_rng(8), 0
    for seed in range(20):
        found = mean_interval(list(random.lognormal(0, 1, 30)), seed)
        assert found is not None
        longer_above += found.high - found.value > 1.2 * (found.value - found.low)
    assert longer_above >= 18


def test_perplexity_is_that_of_all_tokens_and_not_the_mean_of_samples() -> None:
    samples = losses([1.0, 4.0], [900, 100])
    assert perplexity(samples) == pytest.approx(math.exp(1.3))
    many = samples * 8
    interval = perplexity_interval(many)
    assert interval is not None
    assert interval.value == pytest.approx(math.exp(1.3))
    assert interval.low < interval.value < interval.high


def test_the_same_seed_gives_the_same_interval() -> None:
    samples = losses([float(i % 5) for i in range(20)], list(range(10, 30)))
    assert perplexity_interval(samples) == perplexity_interval(samples)
    assert perplexity_interval(samples) != perplexity_interval(samples, seed=1)


def test_pairing_sees_a_change_that_lies_within_both_intervals() -> None:
    random = np.random.default_rng(0)
    tokens = [int(it) for it in random.integers(20, 90, 30)]
    rates = random.normal(3, 1, 30)
    before = losses(list(rates), tokens)
    after = losses(list(rates - random.normal(0.05, 0.02, 30)), tokens)
    change, was, now = (
        perplexity_change(before, after),
        perplexity_interval(before),
        perplexity_interval(after),
    )
    assert change is not None
    assert was is not None
    assert now is not None
    assert now.high > was.low
    assert 0.93 < change.low < change.value < change.high < 0.97
    assert change.value == pytest.approx(now.value / was.value)


def test_a_model_that_did_not_change_has_a_ratio_of_one() -> None:
    before = losses([1.0, 2.0, 3.0] * 4, [10] * 12)
    assert perplexity_change(before, before) == Interval(1, 1, 1)


def test_few_samples_and_losses_that_are_no_numbers_have_no_interval() -> None:
    few = losses([2.0] * (MIN_SAMPLES - 1), [10] * (MIN_SAMPLES - 1))
    empty = [SampleLoss(0.0, 0)] * 5
    assert perplexity_interval([*few, *empty]) is None
    assert perplexity_change([*few, *empty], [*few, *empty]) is None
    assert perplexity_interval([*few, SampleLoss(20.0, 10)]) is not None
    assert perplexity_interval([*few, SampleLoss(math.nan, 10)]) is None
    assert mean_interval([1.0, math.inf] * 8) is None
    assert math.isnan(perplexity(empty))


def test_losses_of_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="same samples"):
        perplexity_change(losses([1.0] * 9, [5] * 9), losses([1.0] * 9, [6] * 9))


def test_what_is_beyond_numbers_is_told_as_the_largest() -> None:
    found = perplexity_interval(losses([900.0 + i for i in range(9)], [1] * 9))
    assert found is not None
    assert math.isfinite(found.high)


def test_means_change_by_the_mean_of_the_differences() -> None:
    before, after = [float(i) for i in range(20)], [i + 0.5 + i % 2 for i in range(20)]
    found = mean_change(before, after)
    assert found is not None
    assert found.value == pytest.approx(1.0)
    assert 0.5 < found.low < 1 < found.high < 1.5


def test_shares_have_wilsons_interval() -> None:
    """Figures of Newcombe 1998 (Statistics in Medicine 17, 857), table I: 81 of 263, 0 of 20 and
    1 of 29."""
    table = {(81, 263): (0.2553, 0.3662), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (hits, size), (low, high) in table.items():
        found = share_interval(hits, size)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_shares_change_by_newcombes_interval() -> None:
    """Figures of Newcombe 1998 (Statistics in Medicine 17, 2635), table II, method 10: trials that
    were right both times, only first, only then and never."""
    table = {
        (36, 12, 2, 0): (0.0569, 0.3404),
        (36, 14, 0, 0): (0.1528, 0.4167),
        (20, 12, 2, 16): (0.0562, 0.3292),
        (54, 0, 0, 0): (-0.0664, 0.0664),
    }
    outcomes = [(True, True), (True, False), (False, True), (False, False)]
    for counts, (low, high) in table.items():
        pairs = [outcome for i, outcome in enumerate(outcomes) for _ in range(counts[i])]
        found = share_change([was for was, _ in pairs], [now for _, now in pairs])
        assert (-found.high, -found.low) == pytest.approx((low, high), abs=5e-5)


def test_shares_of_the_same_trials_hold_their_true_change() -> None:
    random, held = np.random.default_rng(2), 0
    for _ in range(600):
        was = random.random(30) < 0.5
        now = np.where(random.random(30) < 0.3, True, was)  # 15 % more
        found = share_change(list(map(bool, was)), list(map(bool, now)))
        held += found.low <= 0.15 <= found.high
    assert 0.92 <= held / 600 <= 0.99
