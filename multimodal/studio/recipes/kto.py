"""Kahneman-Tversky optimization (Ethayarajh et al. 2024) of an adapter, by TRL's KTOTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from multimodal.errors import DataError
from multimodal.studio.data.masks import TokenizedRow, tokenize_row
from multimodal.studio.data.prepare import Row
from multimodal.studio.evaluation.comparisons import Example, find_examples
from multimodal.studio.evaluation.perplexity import sample_losses
from multimodal.studio.recipes.adapters import lora_config
from multimodal.studio.recipes.alignment import AlignmentRecipe, keep_rows
from multimodal.studio.recipes.batching import Batching
from multimodal.studio.recipes.pairs import log_probability

BETA = 0.1
"""As the authors and TRL have it."""
BALANCE = 4 / 3
"""The authors' equation 8: desirable samples, times their weight, are to be between 1 and so many
times the undesirable ones, times theirs."""


class LossWeights(NamedTuple):
    desirable: float
    undesirable: float


class KtoRecipe(AlignmentRecipe):
    """Makes answers that were liked more likely and those that were not less, from single ratings:
    no pairs are needed.

    Features: rows {"prompt", "completion", "label"} of text or messages; the reference is the base
    with the adapter off; the rarer label weighs more, as the authors recommend; batches mix both
    labels; the batch is halved where the device is full; resumed from checkpoints; the best
    evaluation loss is kept. Told while it trains: loss, rewards/margins, kl.

    Trade-offs: the loss is measured against the mean divergence of a batch, estimated with answers
    to other prompts of the same batch. A batch of one would be measured against itself, so there
    are at least two in each, and of few the estimate is rough: take the largest batch that fits,
    rather than accumulation. The order of samples is the same in each epoch, for TRL pairs them
    beforehand. With pairs of answers to the same prompt, DPO learns more from less.

    Judged by the held-out margin: mean log-probability of the liked answers less that of the
    others, in nats a token, before and after.

    Raises DataError where one label is missing or no answer begins within `max_length`,
    DeviceFullError where two samples at a time are too much, and what `load_base` raises.
    """

    least_batch = 2

    def first_batching(self) -> Batching:
        asked = super().first_batching()
        if asked.batch >= self.least_batch:
            return asked
        given = Batching(self.least_batch, -(-asked.accumulation // self.least_batch))
        self.job.note(
            f"KTO compares the samples of a batch, so {given.batch} are computed at once, "
            f"{given.accumulation} times before each update."
        )
        return given

    def prepare_rows(self, rows: list[Row], *, is_test: bool) -> list[Row]:
        why = f"their answers begin after {self.max_length} tokens"
        kept = keep_rows(self.job, rows, lambda row: any(self._tokens(row).is_trained), why)
        liked = sum(bool(row["label"]) for row in kept)
        if not is_test and liked in {0, len(kept)}:
            kind = "disliked" if liked else "liked"
            raise DataError(
                f"KTO learns from liked and disliked answers, and none of the {len(kept)} samples "
                f"is {kind}; rate some, or teach the liked ones with lora."
            )
        return kept if is_test else interleave_labels(kept, self.job.settings.seed)

    def row_tokens(self, row: Row) -> int:
        return len(self._tokens(row).input_ids)

    def setup(self) -> None:
        super().setup()
        weights = self._weights()
        if weights != (1, 1):
            liked = sum(bool(row["label"]) for row in self.train_rows)
            self.job.note(
                f"{liked} samples are liked and {len(self.train_rows) - liked} are not, so liked "
                f"ones weigh {weights.desirable:.3g} and the others {weights.undesirable:.3g}."
            )

    def make_trainer(
        self, train: Dataset, test: Dataset | None, batching: Batching, **arguments: Any
    ) -> KTOTrainer:
        settings, weights = self.job.settings, self._weights()
        own = {
            "max_length": self.max_length,
            "beta": settings.beta or BETA,
            "desirable_weight": weights.desirable,
            "undesirable_weight": weights.undesirable,
        }
        is_evaluated = test is not None
        return KTOTrainer(
            self.base.model,
            args=self.arguments(KTOConfig, batching, is_evaluated, **own, **arguments),
            train_dataset=pad_last_batch(train, batching.batch),
            eval_dataset=test and pad_last_batch(test, batching.batch),
            processing_class=self.base.tokenizer,
            peft_config=lora_config(settings),
        )

    def score(self, model: Any) -> list[float]:
        losses = sample_losses(model, [self._tokens(row) for row in self.test_rows])
        labels = [bool(row["label"]) for row in self.test_rows]
        return label_margins([log_probability(loss) for loss in losses], labels)

    def examples(self, count: int) -> list[Example]:
        """What was liked; an answer that was not is no example."""
        return find_examples([row for row in self.test_rows if row["label"]], count)

    def _weights(self) -> LossWeights:
        return balance([bool(row["label"]) for row in self.train_rows])

    def _tokens(self, row: Row) -> TokenizedRow:
        return tokenize_row(row, self.base.tokenizer, self.max_length, "answers")


def balance(labels: Sequence[bool]) -> LossWeights:
    """The rarer label is weighed so that both count the same, unless they are balanced enough."""
    liked = sum(labels)
    others = len(labels) - liked
    if others <= liked <= BALANCE * others:
        return LossWeights(1.0, 1.0)
    return LossWeights(max(1.0, others / liked), max(1.0, liked / others))


def interleave_labels(rows: Sequence[Row], seed: int) -> list[Row]:
    """In a random order in which both labels come evenly, so that batches have both: TRL leaves the
    order as it is."""
    generator = torch.Generator().manual_seed(seed)
    placed: list[tuple[float, Row]] = []
    for label in (True, False):
        same = [row for row in rows if bool(row["label"]) == label]
        order = torch.randperm(len(same), generator=generator).tolist()
        placed += [((at + 0.5) / len(same), same[one]) for at, one in enumerate(order)]
    return [row for _, row in sorted(placed, key=lambda place: place[0])]


def pad_last_batch(samples: Dataset, batch: int) -> Dataset:
    """With the first sample once more at the end where the last batch would be of one."""
    if len(samples) % batch != 1:
        return samples
    return samples.select([*range(len(samples)), 0])


def label_margins(values: Sequence[float], labels: Sequence[bool]) -> list[float]:
    """A figure a sample whose mean is the mean value of the liked less that of the others.

    Each label has half the weight whatever its share, and what all values have in common is taken
    out: an answer that became more likely because every one did is no gain. With one label alone
    there is no margin, and the figure is the value, with its sign turned for the others.
    """
    signs = [1.0 if label else -1.0 for label in labels]
    liked = sum(labels)
    if liked in {0, len(labels)}:
        return [sign * value for sign, value in zip(signs, values, strict=True)]
    counts = {True: liked, False: len(labels) - liked}
    means = {
        label: sum(v for v, one in zip(values, labels, strict=True) if one == label) / counts[label]
        for label in (True, False)
    }
    centre = (means[True] + means[False]) / 2
    return [
        sign * len(labels) / counts[label] * (value - centre)
        for value, label, sign in zip(values, labels, signs, strict=True)
    ]
