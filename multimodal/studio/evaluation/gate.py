"""Did it learn? Judges what was measured on held-out samples before the first step and after the
last. Passed means that the 95 % interval of the paired change leaves out “no change”, that the
change is for the better and no mere trifle, and that plain text was not forgotten."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from multimodal.studio.evaluation import intervals
from multimodal.studio.evaluation.forgetting import plain_text_bytes
from multimodal.studio.evaluation.intervals import MIN_SAMPLES
from multimodal.studio.records import Comparison, Interval, Metric, Report

if TYPE_CHECKING:
    from multimodal.studio.evaluation.perplexity import SampleLoss
    from multimodal.studio.evaluation.word_errors import WordErrors

LEAST_CHANGE = 0.01
"""Of perplexity as a share, of denoising as a share of what was missed (a model that draws finds
nearly all of the noise before it is taught anything), of the others as it is. Paired, even what the
smallest of learning rates does stands out from chance; but bfloat16 resolves 0.4 % (2 to the minus
8), so that a change of less than 1 % may be gone on another device."""
FORGETTING_WARNING = 1.1
FORGETTING_LIMIT = 1.5
"""Perplexity of plain text after over before. On WikiText-2, GPT-2 with 762 million parameters has
1.09 times the perplexity of that with 1,542 million, and that with 117 million 1.60 times (Radford
et al. 2019, table 3): the first is the loss of one size of the family, the second nearly that of
all."""
FORGETTABLE_BITS = 4.0
"""Bits a byte of plain text, above which a model has nothing to forget: English has 4.03 when only
the frequencies of its letters are known (Shannon 1951)."""
Measure = Literal["perplexity", "word_error", "accuracy", "margin", "reward", "denoising"]

OVERFITTING = 0.02
"""How far the evaluation loss must have risen above its least, as a share: the generalization loss
of Prechelt (1998, Early Stopping - But When?), which stops at 1 to 5 %; 2 % of a loss of 2.5 is
5 % of perplexity."""


@dataclass(frozen=True)
class _MetricChange:
    """`before`, `after`: the figures alone, which few samples have, too."""

    measure: Measure
    samples: int
    before: float
    after: float
    before_interval: Interval | None
    after_interval: Interval | None
    change: Interval | None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.before) and math.isfinite(self.after)

    @property
    def is_better(self) -> bool:
        return self.is_told and self.gain >= LEAST_CHANGE

    @property
    def is_worse(self) -> bool:
        return self.is_told and self.gain <= -LEAST_CHANGE

    @property
    def is_told(self) -> bool:
        """Whether the interval of the change leaves out that there is none."""
        change, none = self.change, 1 if self.measure == "perplexity" else 0
        return change is not None and not change.low <= none <= change.high

    @property
    def gain(self) -> float:
        if self.change is None:
            return 0.0
        if self.measure == "word_error":
            return -self.change.value
        if self.measure == "denoising":
            return self.change.value / max(1 - self.before, LEAST_CHANGE)
        return 1 - self.change.value if self.measure == "perplexity" else self.change.value


def judge_supervised(
    before: Sequence[SampleLoss],
    after: Sequence[SampleLoss],
    forgetting_before: Sequence[SampleLoss] = (),
    forgetting_after: Sequence[SampleLoss] = (),
    metrics: Sequence[Metric] = (),
    comparisons: Sequence[Comparison] = (),
) -> Report:
    """By the perplexity of held-out samples; the others are of `forgetting.forgetting_losses`,
    and may be left out. Raises ValueError where before and after are not of the same samples."""
    found = _MetricChange(
        "perplexity",
        sum(1 for loss in before if loss.tokens),
        intervals.perplexity(before),
        intervals.perplexity(after),
        intervals.perplexity_interval(before),
        intervals.perplexity_interval(after),
        intervals.perplexity_change(before, after),
        {"tokens": float(sum(loss.tokens for loss in before))},
    )
    return _judge(found, forgetting_before, forgetting_after, metrics, comparisons)


def judge_margin(
    before: Sequence[float],
    after: Sequence[float],
    comparisons: Sequence[Comparison] = (),
    forgetting_before: Sequence[SampleLoss] = (),
    forgetting_after: Sequence[SampleLoss] = (),
    metrics: Sequence[Metric] = (),
) -> Report:
    """By how much more likely (or better rewarded) the chosen answer of each held-out pair is
    than the rejected one. `figures` gets the share of pairs in which it is at all."""
    shares = _positive_shares("before", before) | _positive_shares("after", after)
    found = _means("margin", before, after, shares)
    return _judge(found, forgetting_before, forgetting_after, metrics, comparisons)


def judge_reward(
    before: Sequence[float],
    after: Sequence[float],
    comparisons: Sequence[Comparison] = (),
    forgetting_before: Sequence[SampleLoss] = (),
    forgetting_after: Sequence[SampleLoss] = (),
    metrics: Sequence[Metric] = (),
) -> Report:
    """By the mean reward of the answers to each held-out prompt."""
    found = _means("reward", before, after)
    return _judge(found, forgetting_before, forgetting_after, metrics, comparisons)


def judge_accuracy(
    before: Sequence[bool],
    after: Sequence[bool],
    comparisons: Sequence[Comparison] = (),
    forgetting_before: Sequence[SampleLoss] = (),
    forgetting_after: Sequence[SampleLoss] = (),
    metrics: Sequence[Metric] = (),
) -> Report:
    """By the share of held-out samples that are right."""
    size = len(before)
    is_enough = size >= MIN_SAMPLES
    found = _MetricChange(
        "accuracy",
        size,
        _mean(before),
        _mean(after),
        intervals.share_interval(sum(before), size) if is_enough else None,
        intervals.share_interval(sum(after), size) if is_enough else None,
        intervals.share_change(before, after) if is_enough else None,
    )
    return _judge(found, forgetting_before, forgetting_after, metrics, comparisons)


def judge_denoising(
    before: Sequence[float],
    after: Sequence[float],
    metrics: Sequence[Metric] = (),
) -> Report:
    """By the share of the noise in each held-out picture that is found: 1 less the mean square of
    what is missed, where noise has a mean square of 1; 0 where more is missed than there is."""
    return _judge(_means("denoising", before, after), (), (), metrics, ())


def judge_word_errors(
    before: Sequence[WordErrors],
    after: Sequence[WordErrors],
    comparisons: Sequence[Comparison] = (),
    metrics: Sequence[Metric] = (),
) -> Report:
    """By the share of words of held-out recordings that are heard wrong. Raises ValueError where
    before and after are not of the same recordings."""
    from multimodal.studio.evaluation import word_errors

    found = _MetricChange(
        "word_error",
        sum(1 for one in before if one.words),
        word_errors.word_error_rate(before),
        word_errors.word_error_rate(after),
        word_errors.word_error_interval(before),
        word_errors.word_error_interval(after),
        word_errors.word_error_change(before, after),
        {"words": float(sum(one.words for one in before))},
    )
    return _judge(found, (), (), metrics, comparisons)


def _means(
    measure: Literal["margin", "reward", "denoising"],
    before: Sequence[float],
    after: Sequence[float],
    figures: Mapping[str, float] | None = None,
) -> _MetricChange:
    return _MetricChange(
        measure,
        len(before),
        _mean(before),
        _mean(after),
        intervals.mean_interval(before),
        intervals.mean_interval(after),
        intervals.mean_change(before, after),
        figures or {},
    )


def _positive_shares(name: str, margins: Sequence[float]) -> dict[str, float]:
    if not margins:
        return {}
    return {f"accuracy_{name}": sum(margin > 0 for margin in margins) / len(margins)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _judge(
    found: _MetricChange,
    forgetting_before: Sequence[SampleLoss],
    forgetting_after: Sequence[SampleLoss],
    metrics: Sequence[Metric],
    comparisons: Sequence[Comparison],
) -> Report:
    forgetting = _Forgetting.between(forgetting_before, forgetting_after)
    overfitting = find_overfitting(metrics)
    faults = [*_faults(found, metrics), *forgetting.faults()]
    figures = {**found.figures, **forgetting.figures}
    if found.is_finite:
        figures |= {"before": found.before, "after": found.after}
    warnings = [*forgetting.warnings(), *([overfitting.sentence] if overfitting else [])]
    return Report(
        passed=not faults,
        verdict=" ".join(faults) or _success(found),
        measure=found.measure,
        before=found.before_interval,
        after=found.after_interval,
        change=found.change,
        forgetting=forgetting.change,
        is_overfitted=overfitting is not None,
        samples=found.samples,
        comparisons=tuple(comparisons),
        warnings=tuple(warnings),
        figures=figures,
    )


def _faults(found: _MetricChange, metrics: Sequence[Metric]) -> Iterator[str]:
    """Why it cannot be said that it learned, and what to try."""
    if not found.samples:
        yield "It cannot be told whether it learned: no held-out sample has anything to predict."
    elif not found.is_finite:
        yield (
            f"It broke: the {found.measure} of the held-out samples is not a number any more. "
            "Lower the learning rate, or compute in fp32 or bf16 instead of fp16."
        )
    elif found.change is None:
        yield (
            f"{_summarize(found)}, but whether it learned cannot be told with {found.samples} "
            f"held-out sample{'s' * (found.samples > 1)}: hold out at least {MIN_SAMPLES}, with "
            "more data or a larger test share."
        )
    elif found.is_worse:
        yield (
            f"It got worse: {_summarize(found)}. Lower the learning rate, and see whether the "
            "held-out samples are of the same kind as the others."
        )
    elif not found.is_better:
        why = "too little to matter" if found.is_told else "which may be chance"
        told = f"{_summarize(found)}, {why}"
        yield f"It did not learn anything that shows: {told}. {_advice(metrics)}"


def _success(found: _MetricChange) -> str:
    return f"It learned: {_summarize(found)}."


_SUBJECTS = {
    "perplexity": "the perplexity of {} went from {:.4g} to {:.4g}",
    "accuracy": "of {}, {:.1%} were right before and {:.1%} are now",
    "word_error": "the word error rate of {} went from {:.1%} to {:.1%}",
    "margin": "the margin of {} went from {:.3g} to {:.3g}",
    "reward": "the mean reward of {} went from {:.3g} to {:.3g}",
    "denoising": "of the noise put into {}, {:.1%} was found before and {:.1%} is now",
}


def _summarize(found: _MetricChange) -> str:
    samples = f"{found.samples} held-out sample{'s' * (found.samples != 1)}"
    told = _SUBJECTS[found.measure].format(samples, found.before, found.after)
    if (change := found.change) is None:
        return told[0].upper() + told[1:]
    name = "ratio" if found.measure == "perplexity" else "change"
    return (
        f"{told} ({name} {change.value:.3g}, 95 % interval {change.low:.3g} to {change.high:.3g})"
    )


def _advice(metrics: Sequence[Metric]) -> str:
    losses = _values(metrics, "loss")
    if len(losses) > 1 and _mean(losses[len(losses) // 2 :]) < (1 - OVERFITTING) * losses[0]:
        return (
            "The training loss fell, so it learns its samples by heart: give it more samples, or "
            "fewer epochs."
        )
    return "Raise the learning rate or the epochs, or give it more samples."


@dataclass(frozen=True)
class Overfitting:
    best_step: int
    best_loss: float
    last_step: int
    last_loss: float

    @property
    def sentence(self) -> str:
        return (
            f"It overfitted: the evaluation loss was least at step {self.best_step} "
            f"({self.best_loss:.3f}) and {self.last_loss:.3f} at step {self.last_step}, while the "
            f"training loss fell. The checkpoint of step {self.best_step} was kept; fewer epochs "
            "or more samples give the same sooner or better."
        )


def find_overfitting(metrics: Sequence[Metric]) -> Overfitting | None:
    """Whether the evaluation loss rose again by OVERFITTING from its least, while the training
    loss was lower after that step than before it (or is not known)."""
    measured = [(m.values["eval_loss"], m.step) for m in metrics if "eval_loss" in m.values]
    if not measured:
        return None
    (best, best_step), (last, last_step) = min(measured), measured[-1]
    if not last > best + OVERFITTING * abs(best):
        return None
    earlier = _values([m for m in metrics if m.step <= best_step], "loss")
    later = _values([m for m in metrics if m.step > best_step], "loss")
    if earlier and later and _mean(later) >= _mean(earlier[-len(later) :]):
        return None
    return Overfitting(best_step, best, last_step, last)


def _values(metrics: Sequence[Metric], name: str) -> list[float]:
    return [metric.values[name] for metric in metrics if name in metric.values]


@dataclass(frozen=True)
class _Forgetting:
    """`change`: perplexity of plain text, after over before."""

    change: Interval | None = None
    is_known: bool = False
    """Whether the model knew anything of plain text before."""
    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def between(cls, before: Sequence[SampleLoss], after: Sequence[SampleLoss]) -> _Forgetting:
        if not before:
            return cls()
        bits = sum(loss.total for loss in before) / math.log(2) / plain_text_bytes()
        figures = {
            "plain_text_before": intervals.perplexity(before),
            "plain_text_after": intervals.perplexity(after),
        }
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        change = intervals.perplexity_change(before, after)
        return cls(change, bits <= FORGETTABLE_BITS, figures)

    def faults(self) -> Iterator[str]:
        if self.change is not None and self.is_known and self.change.low > FORGETTING_LIMIT:
            yield (
                f"It forgot plain text: its perplexity is {self.change.value:.2f} times what it "
                f"was (limit {FORGETTING_LIMIT}). Lower the learning rate or the epochs, teach an "
                "adapter instead of the whole model, or mix other texts into the data."
            )

    def warnings(self) -> Iterator[str]:
        if self.change is None or not self.is_known or not self.change.value > FORGETTING_WARNING:
            return
        if not self.change.low > FORGETTING_LIMIT:
            yield (
                f"It forgot some of plain text: its perplexity is {self.change.value:.2f} times "
                f"what it was (95 % interval {self.change.low:.2f} to {self.change.high:.2f})."
            )
