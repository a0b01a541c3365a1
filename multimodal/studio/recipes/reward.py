"""A reward model (Ouyang et al. 2022, section 3.5) as an adapter with a head, by TRL's
RewardTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, TaskType
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from multimodal.studio.data.prepare import Row
from multimodal.studio.evaluation.gate import judge_accuracy
from multimodal.studio.evaluation.perplexity import SampleLoss, evaluation_mode
from multimodal.studio.recipes.adapters import lora_config
from multimodal.studio.recipes.alignment import AlignmentRecipe, Measurement, keep_rows
from multimodal.studio.recipes.base_model import BaseModel, load_base
from multimodal.studio.recipes.batching import Batching
from multimodal.studio.recipes.pairs import TokenizedPair, tokenize_pair
from multimodal.studio.records import Comparison, Report

BATCH = 8
"""Texts that are scored at once."""


class RewardRecipe(AlignmentRecipe):
    """Teaches a model to score an answer, so that the chosen one of each pair gets more than the
    rejected one.

    Features: rows {"prompt", "chosen", "rejected"} of text or messages; a head of one number on
    the base, trained with the adapter and kept beside it; the batch is halved where the device is
    full; resumed from checkpoints; the best evaluation loss is kept. Told while it trains: loss,
    accuracy, margin, and the least, mean and largest reward.

    Trade-offs: the result scores texts and writes none, so that it is no model to chat with. A
    score says nothing by itself; only the difference between answers to the same prompt does.
    Pairs with a text beyond `max_length` are left out, since the score is read at its end.

    Judged by the share of held-out pairs of which the chosen answer gets more. Before, it is half:
    a head of random numbers and the one with the opposite signs are right where the other is wrong.

    Raises DataError where no pair fits into `max_length`, DeviceFullError where one pair at a time
    is too much, and what `load_base` raises.
    """

    def load_base(self) -> BaseModel:
        base = load_base(self.job, _OneScore, unneeded=("score.weight",))
        # Where the classifier finds the last token, before the trainer says so itself.
        base.model.config.get_text_config().pad_token_id = base.tokenizer.pad_token_id
        return base

    def prepare_rows(self, rows: list[Row], *, is_test: bool) -> list[Row]:
        why = f"they are longer than {self.max_length} tokens"
        return keep_rows(self.job, rows, lambda row: not self._pair(row).is_cut, why)

    def row_tokens(self, row: Row) -> int:
        return self._pair(row).tokens

    def make_trainer(
        self, train: Dataset, test: Dataset | None, batching: Batching, **arguments: Any
    ) -> RewardTrainer:
        settings, is_evaluated = self.job.settings, test is not None
        own = {"max_length": self.max_length}
        return RewardTrainer(
            self.base.model,
            args=self.arguments(RewardConfig, batching, is_evaluated, **own, **arguments),
            train_dataset=train,
            eval_dataset=test,
            processing_class=self.base.tokenizer,
            peft_config=lora_config(settings, TaskType.SEQ_CLS),
        )

    def score(self, model: Any) -> list[float]:
        """By how much the chosen answer of each pair is scored above the rejected one."""
        pairs = [self._pair(row) for row in self.test_rows]
        chosen = score_texts(model, [pair.chosen.input_ids for pair in pairs])
        rejected = score_texts(model, [pair.rejected.input_ids for pair in pairs])
        return [one - other for one, other in zip(chosen, rejected, strict=True)]

    def score_base(self) -> list[float]:
        earlier = self.job.start.adapter
        if earlier and PeftConfig.from_pretrained(str(earlier)).task_type == TaskType.SEQ_CLS:
            return super().score_base()
        return [1.0 if at % 2 else -1.0 for at in range(len(self.test_rows))]

    def forgetting(self, model: Any) -> list[SampleLoss]:
        return []

    def comparisons(self, model: Any) -> list[Comparison]:
        return []

    def show(self, model: Any, tokenizer: Any, step: int) -> None:
        """It has no words to show."""

    def judge(
        self, before: Measurement, after: Measurement, comparisons: list[Comparison]
    ) -> Report:
        was, now = ([score > 0 for score in one.scores] for one in (before, after))
        return judge_accuracy(was, now, comparisons, metrics=self.job.folder.metrics())

    def _pair(self, row: Row) -> TokenizedPair:
        return tokenize_pair(row, self.base.tokenizer, self.max_length)


class _OneScore(AutoModelForSequenceClassification):
    """With a single output."""

    @classmethod
    def from_pretrained(cls, *files: Any, **more: Any) -> Any:
        return super().from_pretrained(*files, num_labels=1, **more)


def score_texts(model: Any, texts: Sequence[Sequence[int]]) -> list[float]:
    """The score of each text, given as tokens, in the order of `texts`."""
    order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    pad = model.config.get_text_config().pad_token_id
    scores: dict[int, float] = {}
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            length = len(texts[chosen[0]])
            rows = [[*texts[at], *[pad] * (length - len(texts[at]))] for at in chosen]
            mask = [[1] * len(texts[at]) + [0] * (length - len(texts[at])) for at in chosen]
            logits = model(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
            ).logits
            scores.update(zip(chosen, logits[:, 0].float().tolist(), strict=True))
    return [scores[at] for at in range(len(texts))]
