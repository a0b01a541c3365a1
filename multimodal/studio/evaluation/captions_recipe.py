"""The evaluation of a model that sees, or of two after one another, in a process of its own: how
well it predicts captions, or answers, behind the chat's own prompt."""

from __future__ import annotations

from dataclasses import replace

from multimodal.errors import RequestError
from multimodal.studio.context import JobContext, Start
from multimodal.studio.data.prepare import TEST_FILE, read_rows
from multimodal.studio.evaluation.caption_losses import caption_losses
from multimodal.studio.evaluation.each_model import measure_each
from multimodal.studio.evaluation.figures import evaluate_perplexity, few_samples_notice
from multimodal.studio.evaluation.intervals import perplexity_change
from multimodal.studio.evaluation.perplexity import SampleLoss
from multimodal.studio.evaluation.plan import EvaluationFiles, EvaluationResults
from multimodal.studio.recipes.caption_dataset import (
    CaptionCollator,
    CaptionDataset,
    CaptionEncoder,
)
from multimodal.studio.recipes.seeing_model import load_seeing_model
from multimodal.studio.records import Interval, Report

BATCH = 1
"""Pictures that are looked at at once, as `evaluation_bytes` counts."""


class CaptionsRecipe:
    """As `studio.context.Recipe` says; nothing is trained."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self._files = EvaluationFiles(job.folder.path)
        self._losses: list[list[SampleLoss]] = []

    def setup(self) -> None:
        self._plan = self._files.plan()
        self._rows = read_rows(self._job.folder.data / TEST_FILE)

    def train(self) -> None:
        """Measures."""
        self._losses = measure_each(self._job, self._plan.starts, self._measure)

    def save(self) -> Report:
        """Raises RequestError for two models that cut the captions into different tokens."""
        found = tuple(map(evaluate_perplexity, self._plan.names, self._losses))
        notices = few_samples_notice(min(one.samples for one in found))
        change = self._change() if len(found) > 1 else None
        self._files.write_results(EvaluationResults(found, change, notices))
        return Report(True, "It was evaluated.", "perplexity", samples=len(self._rows))

    def cleanup(self) -> None:
        """Nothing is kept between two models."""

    def _measure(self, start: Start) -> list[SampleLoss]:
        job = replace(self._job, start=start)
        seen = load_seeing_model(job)
        length = job.settings.max_length
        encoder = CaptionEncoder(start.card, seen.model, seen.prompts, length)
        captions = CaptionDataset(self._rows, job.folder.data, encoder)
        collator = CaptionCollator(encoder.padding, seen.dtype)
        return caption_losses(seen.model, captions, collator, BATCH)

    def _change(self) -> Interval | None:
        try:
            before, after = self._losses
            return perplexity_change(before, after)
        except ValueError as error:
            one, other = self._plan.names
            raise RequestError(
                f"{one} and {other} cut the captions into different tokens, so their perplexities "
                "cannot be compared; evaluate each alone."
            ) from error
