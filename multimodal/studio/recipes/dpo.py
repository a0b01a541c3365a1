"""Direct preference optimization (Rafailov et al. 2023) of an adapter, by TRL's DPOTrainer."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from multimodal.studio.data.prepare import Row
from multimodal.studio.recipes.adapters import lora_config
from multimodal.studio.recipes.alignment import AlignmentRecipe, keep_rows
from multimodal.studio.recipes.batching import Batching
from multimodal.studio.recipes.pairs import TokenizedPair, margins, tokenize_pair

BETA = 0.1
"""As the authors and TRL have it."""


class DpoRecipe(AlignmentRecipe):
    """Makes the chosen answer of each pair more likely than the rejected one, against what the
    model held of both before.

    Features: rows {"prompt", "chosen", "rejected"} of text or messages; the reference is the base
    with the adapter off; `beta` says how close to it the result stays; pairs are cut at
    `max_length`; the batch is halved where the device is full; resumed from checkpoints; the best
    evaluation loss is kept. Told while it trains: loss, rewards/margins, rewards/accuracies.

    Trade-offs: a step reads both answers twice, with the adapter and without, so that it takes
    about three times as long as supervised training on one of them. Both answers may become less
    likely while the margin grows, which the forgetting check shows; a lower learning rate or a
    higher `beta` helps.

    Judged by the held-out margin: log-probability of the chosen less that of the rejected answer,
    in nats a token, before and after.

    Raises DataError where no answer begins within `max_length`, DeviceFullError where one pair at
    a time is too much, and what `load_base` raises.
    """

    def prepare_rows(self, rows: list[Row], *, is_test: bool) -> list[Row]:
        why = f"their answers begin after {self.max_length} tokens"
        return keep_rows(self.job, rows, lambda row: self._pair(row).has_answers, why)

    def row_tokens(self, row: Row) -> int:
        return self._pair(row).tokens

    def make_trainer(
        self, train: Dataset, test: Dataset | None, batching: Batching, **arguments: Any
    ) -> DPOTrainer:
        settings = self.job.settings
        own = {"max_length": self.max_length, "beta": settings.beta or BETA}
        is_evaluated = test is not None
        return DPOTrainer(
            self.base.model,
            args=self.arguments(DPOConfig, batching, is_evaluated, **own, **arguments),
            train_dataset=train,
            eval_dataset=test,
            processing_class=self.base.tokenizer,
            peft_config=lora_config(settings),
        )

    def score(self, model: Any) -> list[float]:
        return margins(model, [self._pair(row) for row in self.test_rows])

    def _pair(self, row: Row) -> TokenizedPair:
        return tokenize_pair(row, self.base.tokenizer, self.max_length)
