"""The evaluation of a picture classifier, or of two after one another, in a process of its own."""

from __future__ import annotations

from dataclasses import replace

from multimodal.errors import DataError
from multimodal.studio.context import JobContext, Start
from multimodal.studio.data.prepare import TEST_FILE, Row, read_rows
from multimodal.studio.evaluation.each_model import measure_each
from multimodal.studio.evaluation.figures import evaluate_accuracy, few_samples_notice
from multimodal.studio.evaluation.intervals import MIN_SAMPLES, share_change
from multimodal.studio.evaluation.plan import EvaluationFiles, EvaluationResults
from multimodal.studio.recipes.classifier_model import load_checkpoint
from multimodal.studio.recipes.classify import class_shares
from multimodal.studio.recipes.picture_dataset import PictureDataset
from multimodal.studio.records import Report

BATCH = 8
"""Pictures that are looked at at once; one that is trained takes more than so many."""


class PicturesRecipe:
    """As `studio.context.Recipe` says; nothing is trained."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self._files = EvaluationFiles(job.folder.path)
        self._right: list[list[bool]] = []

    def setup(self) -> None:
        self._plan = self._files.plan()
        self._rows = read_rows(self._job.folder.data / TEST_FILE)

    def train(self) -> None:
        """Measures."""
        self._right = measure_each(self._job, self._plan.starts, self._measure)

    def save(self) -> Report:
        found = list(map(evaluate_accuracy, self._plan.names, self._right))
        notices = few_samples_notice(len(self._rows))
        is_compared = len(found) > 1 and len(self._rows) >= MIN_SAMPLES
        change = share_change(*self._right) if is_compared else None
        self._files.write_results(EvaluationResults(tuple(found), change, notices))
        return Report(True, "It was evaluated.", "accuracy", samples=len(self._rows))

    def cleanup(self) -> None:
        """Nothing is kept between two models."""

    def _measure(self, start: Start) -> list[bool]:
        """Raises DataError for a class that the model does not know."""
        seen = load_checkpoint(replace(self._job, start=start))
        self._check_classes(start, seen.labels)
        seen.model.to(start.device)
        data = self._job.folder.data
        pictures = PictureDataset(self._rows, data, seen.processor, seen.labels)
        shares = class_shares(seen.model, pictures, BATCH)
        predicted = [seen.labels[max(range(len(one)), key=one.__getitem__)] for one in shares]
        return [row["label"] == label for row, label in zip(self._rows, predicted, strict=True)]

    def _check_classes(self, start: Start, known: tuple[str, ...]) -> None:
        rows: list[Row] = self._rows
        if missing := sorted({row["label"] for row in rows} - set(known)):
            some = ", ".join(known[:10]) + (" ..." if len(known) > 10 else "")
            raise DataError(
                f"{start.card.title} knows no class {missing[0]}, which the data has; it knows "
                f"{some}. Rename the folder, or leave it out."
            )
