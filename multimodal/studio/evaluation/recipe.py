"""The evaluation of one model, or of two after one another, in a process of its own.

A recipe that teaches nothing: `studio/process.py` runs it as it runs a job, so that it is ended,
and its errors are told, in the same way.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

import torch

from multimodal.errors import DataError, RequestError
from multimodal.memory.devices.device_errors import translate_device_errors
from multimodal.studio.context import JobContext, Start
from multimodal.studio.data.masks import add_plain_template, tokenize_rows
from multimodal.studio.data.prepare import TEST_FILE, read_rows
from multimodal.studio.evaluation import intervals
from multimodal.studio.evaluation.answers import exact_answers
from multimodal.studio.evaluation.comparisons import find_examples
from multimodal.studio.evaluation.figures import (
    evaluate_accuracy,
    evaluate_perplexity,
    few_samples_notice,
)
from multimodal.studio.evaluation.perplexity import SampleLoss, sample_losses
from multimodal.studio.evaluation.plan import EvaluationFiles, EvaluationResults
from multimodal.studio.recipes.base_model import BaseModel, load_base
from multimodal.studio.records import Interval, Report

Outcomes = Sequence[SampleLoss] | Sequence[bool]


class EvaluationRecipe:
    """As `studio.context.Recipe` says."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self._files = EvaluationFiles(job.folder.path)
        self._notices: list[str] = []
        self._losses: list[list[SampleLoss]] = []
        self._answers: list[list[bool]] = []

    def setup(self) -> None:
        self._plan = self._files.plan()
        self._rows = read_rows(self._job.folder.data / TEST_FILE)
        self._examples = [it for it in find_examples(self._rows) if it.expected]
        if self._plan.measure == "accuracy" and not self._examples:
            raise DataError(
                "No sample has an answer, so none can be right; name the column of the answers "
                "with --columns COLUMN=completion, or measure the perplexity."
            )

    def train(self) -> None:
        """Measures; nothing is trained."""
        for start in self._plan.starts:
            if self._job.stop.is_set():
                return
            self._job.tell(doing=f"Loading {start.card.title}")
            self._measure(start)
            gc.collect()
            if start.device == "cuda":
                torch.cuda.empty_cache()

    def save(self) -> Report:
        found = self._found()
        self._files.write_results(found)
        return Report(True, "It was evaluated.", self._plan.measure, samples=len(self._rows))

    def cleanup(self) -> None:
        """Nothing is kept between two models."""

    def _measure(self, start: Start) -> None:
        base = load_base(replace(self._job, start=start))
        add_plain_template(base.tokenizer)
        self._job.tell(doing=f"Evaluating {start.card.title}")
        with translate_device_errors(start.card.title):
            if self._plan.measure == "accuracy":
                self._answers.append(exact_answers(base.model, base.tokenizer, self._examples))
            else:
                self._losses.append(self._sample_losses(base))

    def _sample_losses(self, base: BaseModel) -> list[SampleLoss]:
        settings = self._job.settings
        made = tokenize_rows(self._rows, base.tokenizer, settings.max_length, settings.loss_on)
        self._notices += [it for it in made.notices if it not in self._notices]
        return sample_losses(base.model, made.rows, settings.batch)

    def _found(self) -> EvaluationResults:
        names = self._plan.names
        if self._plan.measure == "accuracy":
            models = [evaluate_accuracy(*pair) for pair in zip(names, self._answers, strict=True)]
        else:
            models = [evaluate_perplexity(*pair) for pair in zip(names, self._losses, strict=True)]
        fewest = min(model.samples for model in models)
        self._notices += few_samples_notice(fewest)
        change = self._change() if len(models) > 1 else None
        return EvaluationResults(tuple(models), change, tuple(self._notices))

    def _change(self) -> Interval | None:
        if self._plan.measure == "accuracy":
            return intervals.share_change(*self._answers) if _is_enough(self._answers[0]) else None
        try:
            before, after = self._losses
            return intervals.perplexity_change(before, after)
        except ValueError as error:
            one, other = self._plan.names
            raise RequestError(
                f"{one} and {other} cut the samples into different tokens, so their perplexities "
                "cannot be compared; use --measure accuracy."
            ) from error


def _is_enough(answers: Sequence[bool]) -> bool:
    return len(answers) >= intervals.MIN_SAMPLES
