"""Figures of samples with their 95 % confidence intervals; one sample is one draw.

Means over tokens, and what changed between two models, by the studentized bootstrap (Efron and
Tibshirani 1993, An Introduction to the Bootstrap, 12.5) over samples: tokens of one sample are not
independent of one another. Losses of few samples of unlike length are skewed. Of 95 % intervals of
8 and 20 samples, those of the percentile method held the true value in 81 to 92 % of
simulations, BCa's in 80 to 90 %, these in 90 to 94 %; from 200 samples on all three agree.
Shares are by Wilson (1927), and their paired change by Newcombe (1998, Statistics in Medicine 17,
2635, method 10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from multimodal.studio.records import Interval

if TYPE_CHECKING:
    from multimodal.studio.evaluation.perplexity import SampleLoss

    Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

MIN_SAMPLES = 8
"""Of fewer, no method holds what it promises: see above."""
RESAMPLES = 4000
"""So that the 100 outermost of each side say where the interval ends."""
_TAIL = 0.025
_CELLS = 2**22
"""Of the table of how often a resample has a sample, made in pieces of so many."""
_MAX_EXPONENT = 700.0
"""The largest whole one whose power of e is a number; a limit beyond is told as that."""


def perplexity(losses: Sequence[SampleLoss]) -> float:
    """Of all trained tokens together; NaN without any."""
    tokens = sum(loss.tokens for loss in losses)
    return _exp(sum(loss.total for loss in losses) / tokens) if tokens else math.nan


def perplexity_interval(losses: Sequence[SampleLoss], seed: int = 0) -> Interval | None:
    """None of fewer than MIN_SAMPLES samples with trained tokens, or with a loss that is not a
    number."""
    counted = [loss for loss in losses if loss.tokens]
    return _exp_interval(
        ratio_interval([x.total for x in counted], [x.tokens for x in counted], seed)
    )


def perplexity_change(
    before: Sequence[SampleLoss], after: Sequence[SampleLoss], seed: int = 0
) -> Interval | None:
    """Perplexity after over before, paired by sample; None as in `perplexity_interval`.

    Raises ValueError where the two did not count the same tokens.
    """
    if [x.tokens for x in before] != [x.tokens for x in after]:
        raise ValueError("before and after are not of the same samples")
    pairs = [(x, y) for x, y in zip(before, after, strict=True) if x.tokens]
    differences = [y.total - x.total for x, y in pairs]
    return _exp_interval(ratio_interval(differences, [x.tokens for x, _ in pairs], seed))


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """None of fewer than MIN_SAMPLES values or with one that is not a number."""
    return ratio_interval(values, [1.0] * len(values), seed)


def mean_change(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Interval | None:
    """Mean of after minus before, paired; None as in `mean_interval`."""
    return mean_interval([y - x for x, y in zip(before, after, strict=True)], seed)


def ratio_interval(
    parts: Sequence[float], weights: Sequence[float], seed: int = 0
) -> Interval | None:
    """Sum of `parts` over sum of `weights` (positive), each of one sample, by the studentized
    bootstrap; None as in `mean_interval`. Standard errors are those of the linearised ratio."""
    table = np.array([parts, weights], dtype=np.float64)
    size = table.shape[1]
    if size < MIN_SAMPLES or not np.isfinite(table).all():
        return None
    value, error = _ratios(np.ones((1, size)), table)
    random = np.random.default_rng(seed)
    rows = max(1, min(RESAMPLES, _CELLS // size))
    scaled: list[Array] = []
    for start in range(0, RESAMPLES, rows):
        counts = random.multinomial(
            size, np.full(size, 1 / size), min(rows, RESAMPLES - start)
        ).astype(np.float64)
        values, errors = _ratios(counts, table)
        # A resample without spread has no standard error to scale by.
        has_spread = errors > 1e-9 * error
        scaled.append((values - value)[has_spread] / errors[has_spread])
    low, high = np.quantile(np.concatenate(scaled), [_TAIL, 1 - _TAIL]) if error > 0 else (0, 0)
    return Interval(
        float(value[0]), float((value - high * error)[0]), float((value - low * error)[0])
    )


def _ratios(counts: Array, table: Array) -> tuple[Array, Array]:
    """The ratio and its standard error of each resample; `counts`: how often it has each sample
    (resamples, samples); `table`: parts and weights (2, samples)."""
    parts, weights = table
    size = table.shape[1]
    total = counts @ weights
    value = counts @ parts / total
    squares = (
        counts @ parts**2
        - 2 * value * (counts @ (parts * weights))
        + value**2 * (counts @ weights**2)
    )
    return value, np.sqrt(np.maximum(squares, 0) * size / (size - 1)) / total


def share_interval(hits: int, size: int) -> Interval:
    """A share of `size` > 0 independent trials, by Wilson."""
    z, share = NormalDist().inv_cdf(1 - _TAIL), hits / size
    scale = 1 + z * z / size
    centre = (share + z * z / (2 * size)) / scale
    half = z * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size)) / scale
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def share_change(before: Sequence[bool], after: Sequence[bool]) -> Interval:
    """Share after minus before of the same trials, by Newcombe's method 10: Wilson's limits of
    the two, and how strongly they go together."""
    pairs, size = list(zip(before, after, strict=True)), len(before)
    was, now = share_interval(sum(before), size), share_interval(sum(after), size)
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    lost, gained = pairs.count((True, False)), pairs.count((False, True))
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    excess = both * neither - lost * gained
    # Where they go together, Newcombe corrects for continuity.
    corrected = max(0.0, excess - size / 2) if excess > 0 else excess
    phi = corrected / math.sqrt(margins) if margins else 0.0
    value = now.value - was.value

    def half(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    return Interval(
        value,
        value - half(now.value - now.low, was.high - was.value),
        value + half(now.high - now.value, was.value - was.low),
    )


def _exp_interval(interval: Interval | None) -> Interval | None:
    if interval is None:
        return None
    return Interval(_exp(interval.value), _exp(interval.low), _exp(interval.high))


def _exp(value: float) -> float:
    return math.exp(min(value, _MAX_EXPONENT))
