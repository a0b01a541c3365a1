"""The evaluation of a speech recognizer, or of two after one another, in a process of its own."""

from __future__ import annotations

from dataclasses import replace

from multimodal.studio.context import JobContext, Start
from multimodal.studio.data.prepare import TEST_FILE, read_rows
from multimodal.studio.evaluation.each_model import measure_each
from multimodal.studio.evaluation.figures import few_samples_notice
from multimodal.studio.evaluation.plan import Evaluation, EvaluationFiles, EvaluationResults
from multimodal.studio.evaluation.word_errors import (
    WordErrors,
    count_word_errors,
    word_error_change,
    word_error_interval,
    word_error_rate,
)
from multimodal.studio.recipes.speech_dataset import longest_s
from multimodal.studio.recipes.speech_families import load_speech_model
from multimodal.studio.recipes.transcribe import transcribe_rows
from multimodal.studio.records import Report


class SpeechRecipe:
    """As `studio.context.Recipe` says; nothing is trained."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self._files = EvaluationFiles(job.folder.path)
        self._errors: list[list[WordErrors]] = []

    def setup(self) -> None:
        self._plan = self._files.plan()
        self._rows = read_rows(self._job.folder.data / TEST_FILE)

    def train(self) -> None:
        """Measures."""
        self._errors = measure_each(self._job, self._plan.starts, self._measure)

    def save(self) -> Report:
        found = tuple(map(_evaluation, self._plan.names, self._errors))
        notices = few_samples_notice(min(one.samples for one in found))
        change = word_error_change(*self._errors) if len(found) > 1 else None
        self._files.write_results(EvaluationResults(found, change, notices))
        return Report(True, "It was evaluated.", "word_error", samples=len(self._rows))

    def cleanup(self) -> None:
        """Nothing is kept between two models."""

    def _measure(self, start: Start) -> list[WordErrors]:
        job = replace(self._job, start=start)
        speech = load_speech_model(job, longest_s(self._rows))
        speech.model.to(start.device)
        heard = transcribe_rows(speech, self._rows, job)
        expected = [row["text"] for row in self._rows]
        return count_word_errors(expected, heard, job.settings.language)


def _evaluation(name: str, errors: list[WordErrors]) -> Evaluation:
    """Tokens are words here."""
    interval = word_error_interval(errors)
    counted = [one for one in errors if one.words]
    return Evaluation(
        name,
        "word_error",
        word_error_rate(errors),
        interval.low if interval else None,
        interval.high if interval else None,
        len(counted),
        sum(one.words for one in counted),
    )
