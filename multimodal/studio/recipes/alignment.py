"""What the recipes of preference and reinforcement learning have in common.

One base model is resident. The trainer puts an adapter on it, and the reference that a loss is
measured against is the same base with the adapter off, so that no second copy is loaded. TRL does
so only where it puts the adapter on itself (`peft_config`): of an adapter that is already there it
keeps a copy as the reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from datasets import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from multimodal.errors import DataError
from multimodal.studio.checkpoints import find_whole
from multimodal.studio.context import JobContext
from multimodal.studio.data.masks import add_plain_template
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, read_rows
from multimodal.studio.evaluation.comparisons import (
    Example,
    compare,
    find_examples,
)
from multimodal.studio.evaluation.forgetting import forgetting_losses
from multimodal.studio.evaluation.gate import judge_margin
from multimodal.studio.evaluation.perplexity import SampleLoss
from multimodal.studio.recipes.arguments import training_arguments
from multimodal.studio.recipes.base_model import BaseModel, load_base
from multimodal.studio.recipes.batching import (
    Batching,
    first_batching,
    free_memory,
    run_fitting,
    smaller_batching,
)
from multimodal.studio.recipes.callbacks import JobCallback, show_answers
from multimodal.studio.recipes.fitting_run import keep_baseline
from multimodal.studio.recipes.memory_plan import out_of_memory_error
from multimodal.studio.recipes.precision import computing, widen_trained
from multimodal.studio.recipes.results import save_result
from multimodal.studio.records import Comparison, Report

C = TypeVar("C", bound=TrainingArguments)

"""In the job's folder: what was measured before the first step, for a run that is resumed."""
ANSWERS, SHOWN = 4, 2
"""Held-out prompts that are answered at the end, and at each evaluation."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Of a model on what is held out: a score a sample, and the losses of the fixed text."""

    scores: list[float]
    forgetting: list[SampleLoss] = field(default_factory=list)


class AlignmentRecipe(ABC):
    """A method says what its rows are, which trainer takes them, and what it is measured by."""

    least_batch = 1

    def __init__(self, job: JobContext) -> None:
        self.job = job
        self.train_rows: list[Row] = []
        self.test_rows: list[Row] = []
        self._base: BaseModel | None = None
        self._trainer: Any = None
        self._batching = Batching(job.settings.batch, job.settings.accumulation)
        self._before = Measurement([])
        self._goes_on = False

    @property
    def base(self) -> BaseModel:
        if self._base is None:
            raise RuntimeError("the recipe was not set up")
        return self._base

    @abstractmethod
    def prepare_rows(self, rows: list[Row], *, is_test: bool) -> list[Row]:
        """Those that can be trained or measured, in the order of training. Raises DataError."""

    @abstractmethod
    def row_tokens(self, row: Row) -> int:
        """How long it is, to find the longest."""

    @abstractmethod
    def make_trainer(
        self, train: Dataset, test: Dataset | None, batching: Batching, **arguments: Any
    ) -> Trainer:
        """TRL's trainer, with a fresh adapter on the base; it evaluates if `test` is given.
        `arguments` win over those of the settings."""

    @abstractmethod
    def score(self, model: Any) -> list[float]:
        """One figure a held-out row; more is better."""

    def score_base(self) -> list[float]:
        """The same before the first step."""
        return self.score(self.base.model)

    def judge(
        self, before: Measurement, after: Measurement, comparisons: list[Comparison]
    ) -> Report:
        """By the scores as margins; a method with another measure has its own."""
        return judge_margin(
            before.scores,
            after.scores,
            comparisons,
            before.forgetting,
            after.forgetting,
            self.job.folder.metrics(),
        )

    @property
    def max_length(self) -> int:
        """Of a sample: what was asked for, as far as the model reads."""
        config = self.base.model.config.get_text_config()
        asked = self.job.settings.max_length
        return min(asked, getattr(config, "max_position_embeddings", None) or asked)

    def load_base(self) -> BaseModel:
        return load_base(self.job)

    def first_batching(self) -> Batching:
        return first_batching(self.job)

    def smaller(self, batching: Batching) -> Batching | None:
        """What to try next where the device is full, which is told; None if there is nothing."""
        return smaller_batching(self.job, batching, self.least_batch)

    def trial(self, batching: Batching) -> tuple[Batching, dict[str, Any]]:
        """What `try_step` computes before its update, and what else its trainer is told. One batch
        takes as much as several in turn."""
        return Batching(batching.batch, 1), {}

    def forgetting(self, model: Any) -> list[SampleLoss]:
        """Of a model that writes; none for another."""
        return forgetting_losses(model, self.base.tokenizer)

    def examples(self, count: int) -> list[Example]:
        """Held-out prompts that a model that writes is asked, with what is expected of it."""
        return find_examples(self.test_rows, count)

    def comparisons(self, model: Any) -> list[Comparison]:
        """Without and with the adapter."""
        examples = self.examples(ANSWERS)
        prompts = [example.prompt for example in examples]
        expected = [example.expected for example in examples]
        return compare(
            model, self.base.tokenizer, prompts, self.job.settings.answer_tokens, expected
        )

    def show(self, model: Any, tokenizer: Any, step: int) -> None:
        """What the model answers at an evaluation."""
        tokens = self.job.settings.answer_tokens
        show_answers(self.job, model, tokenizer, self.examples(SHOWN), tokens, step)

    def arguments(
        self, config_class: type[C], batching: Batching, is_evaluated: bool, **more: Any
    ) -> C:
        """Those of the settings, in batches of `batching`; `more` wins."""
        given: dict[str, Any] = {
            "per_device_train_batch_size": batching.batch,
            "per_device_eval_batch_size": batching.batch,
            "gradient_accumulation_steps": batching.accumulation,
        }
        if not is_evaluated:
            given |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
        return training_arguments(self.job, config_class, **{**given, **more})

    def setup(self) -> None:
        data = self.job.folder.data
        train, test = (read_rows(data / name) for name in (TRAIN_FILE, TEST_FILE))
        self.job.tell(doing="loading the model")
        self._base = self.load_base()
        if self.max_length < self.job.settings.max_length:
            self.job.note(f"The model reads no more than {self.max_length:,} tokens of a sample.")
        if any(not isinstance(row["prompt"], str) for row in [*train, *test]):
            add_plain_template(self.base.tokenizer)
        self.train_rows = self.prepare_rows(train, is_test=False)
        self.test_rows = self.prepare_rows(test, is_test=True)
        self.job.tell(max_length=self.max_length)
        self._batching = self.first_batching()
        self._fit(lambda: self.try_step(self._batching))
        self._before = keep_baseline(
            self.job, Measurement, lambda: self._measure(self.score_base, self.base.model)
        )

    def train(self) -> None:
        self._goes_on = self.job.start.is_resumed
        self._fit(self._train)

    def save(self) -> Report:
        job, model = self.job, self._trainer.model
        save_result(model, self.base.tokenizer, job.folder.result, job.start.card.name)
        after = self._measure(lambda: self.score(model), model)
        with computing(job, self.base.dtype, "answering with and without what was learned"):
            return self.judge(self._before, after, self.comparisons(model))

    def cleanup(self) -> None:
        self._base = self._trainer = None
        free_memory()

    def _fit(self, act: Callable[[], None]) -> None:
        """`act`, again with less at once wherever the device is full."""
        run_fitting(self.job.start.card.title, act, self._shrink, self._drop_trainer)

    def _shrink(self, error: BaseException) -> None:
        less = self.smaller(self._batching)
        if less is None:
            raise out_of_memory_error(self.job.start.card.title, self.job.settings) from error
        self._batching = less

    def try_step(self, batching: Batching) -> None:
        """One update with the longest sample in every place, by an adapter that is thrown away."""
        self.job.tell(doing="trying the longest sample")
        longest = max(self.train_rows, key=self.row_tokens)
        trial, arguments = self.trial(batching)
        samples = Dataset.from_list([longest] * trial.effective)
        self._trainer = self.make_trainer(samples, None, trial, max_steps=1, **arguments)
        self._trainer.train()
        self._drop_trainer()

    def _train(self) -> None:
        """From the newest whole checkpoint of an earlier run, or of this one before the device was
        full."""
        train, test = (Dataset.from_list(rows) for rows in (self.train_rows, self.test_rows))
        self._trainer = self.make_trainer(train, test, self._batching)
        widen_trained(self._trainer.model)
        self._trainer.add_callback(JobCallback(self.job, self.show))
        if patience := self.job.settings.patience:
            self._trainer.add_callback(EarlyStoppingCallback(patience))
        whole = find_whole(self.job.folder.checkpoints) if self._goes_on else None
        self._goes_on = True
        self._trainer.train(resume_from_checkpoint=str(whole) if whole else None)

    def _drop_trainer(self) -> None:
        """With the adapter, so that the base is as it was loaded."""
        if self._trainer is not None:
            self._trainer.model.unload()
        self._trainer = None
        free_memory()

    def _measure(self, score: Callable[[], list[float]], model: Any) -> Measurement:
        with computing(self.job, self.base.dtype, "measuring"):
            return Measurement(score(), self.forgetting(model))


def keep_rows(
    job: JobContext, rows: Sequence[Row], is_usable: Callable[[Row], bool], why: str
) -> list[Row]:
    """Those that are usable. The others are told, and `why`; raises DataError if none is left or
    one cannot be read, which it names by its number from 1."""
    kept = []
    for number, row in enumerate(rows, 1):
        try:
            if is_usable(row):
                kept.append(row)
        except DataError as error:
            raise DataError(f"Sample {number}: {error}") from error
    if lost := len(rows) - len(kept):
        told = f"{lost} of {len(rows)} samples are left out, because {why}"
        if not kept:
            raise DataError(f"{told}; allow more with --max-length, or shorten them.")
        job.note(f"{told}.")
    return kept
