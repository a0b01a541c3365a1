"""What was measured of one model, as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from multimodal.studio.evaluation import intervals
from multimodal.studio.evaluation.plan import Evaluation

if TYPE_CHECKING:
    from multimodal.studio.evaluation.perplexity import SampleLoss


def evaluate_accuracy(name: str, answers: Sequence[bool]) -> Evaluation:
    """Of the model of that name, by which of its answers are right; without an interval of fewer
    than `intervals.MIN_SAMPLES`."""
    interval = intervals.share_interval(sum(answers), len(answers))
    is_enough = len(answers) >= intervals.MIN_SAMPLES
    return Evaluation(
        name,
        "accuracy",
        interval.value,
        interval.low if is_enough else None,
        interval.high if is_enough else None,
        len(answers),
        0,
    )


def evaluate_perplexity(name: str, losses: Sequence[SampleLoss]) -> Evaluation:
    """Of the model of that name, over the samples that have something to predict."""
    interval = intervals.perplexity_interval(losses)
    counted = [loss for loss in losses if loss.tokens]
    return Evaluation(
        name,
        "perplexity",
        intervals.perplexity(losses),
        interval.low if interval else None,
        interval.high if interval else None,
        len(counted),
        sum(loss.tokens for loss in counted),
    )


def few_samples_notice(count: int) -> tuple[str, ...]:
    """What is said of too few samples; nothing of enough."""
    if count >= intervals.MIN_SAMPLES:
        return ()
    return (
        f"How far this can be trusted cannot be told with {count} samples: at least "
        f"{intervals.MIN_SAMPLES} are needed.",
    )
