"""What is to be evaluated, and what was found: plain values that the page, the command line and the
process that measures share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from multimodal.catalog.architectures import StrictModel
from multimodal.catalog.cards import Choice, first_fault
from multimodal.errors import SettingsError
from multimodal.studio.context import Start
from multimodal.studio.records import Interval
from multimodal.studio.settings import JobSettings, Role

Measure = Literal["perplexity", "accuracy", "word_error"]

EvaluationMethod = Literal["lora", "qlora", "classify", "transcribe", "describe"]
"""Jobs that read a model as it is evaluated."""
READ_TOKENS = 2048
"""Tokens that are read at once, or one sample."""
PLAN_FILE, FOUND_FILE = "evaluation.json", "evaluated.json"


class EvaluationSettings(StrictModel):
    """Every option of `multimodal evaluate`."""

    model: Choice = Field(description="The card, or the result of a job, that is evaluated.")
    data: str = Field(min_length=1, description="A file, a folder, or hub:OWNER/NAME.")
    compare: Choice | None = Field(None, description="Another one that it is compared with.")
    measure: Measure | None = Field(
        None,
        description="How well a model predicts texts, how often it is right, or how many words are "
        "heard wrong; perplexity of a text model and of one that sees, accuracy of a classifier "
        "and word_error of a speech recognizer unless given.",
    )
    columns: Mapping[str, Role] = Field(
        default_factory=dict, description="What a column of the data is, as COLUMN=ROLE."
    )
    max_length: int = Field(512, ge=8, description="Tokens of a sample; what is longer is cut.")
    loss_on: Literal["answers", "everything"] = Field(
        "answers", description="Which tokens count, where a sample has answers."
    )
    language: str | None = Field(
        None, description="What is spoken in recordings, such as en; found out unless given."
    )

    @property
    def batch(self) -> int:
        return max(1, READ_TOKENS // self.max_length)

    def job_settings(self, method: EvaluationMethod) -> JobSettings:
        """Those of a job on the same model and data: its samples and tokens are the ones that
        count."""
        return JobSettings(
            name="evaluation",
            model=self.model,
            method=method,
            data=self.data,
            columns=self.columns,
            max_length=self.max_length,
            loss_on=self.loss_on,
            batch=self.batch,
            language=self.language,
        )


def evaluation_settings(given: Mapping[str, Any]) -> EvaluationSettings:
    """Checked settings. Raises SettingsError, one sentence that names the field."""
    try:
        return EvaluationSettings.model_validate(dict(given))
    except ValidationError as error:
        raise SettingsError(first_fault(error, EvaluationSettings)) from error


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """For the process: one model, or two, of which the second is compared with the first.
    `names`: as they were asked for."""

    measure: Measure
    names: tuple[str, ...]
    starts: tuple[Start, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`value` of one model with its 95 % interval, None where too few samples tell it. `tokens`
    counts those whose loss was taken, or the words that are said; 0 for an accuracy."""

    model: str
    measure: Measure
    value: float
    low: float | None
    high: float | None
    samples: int
    tokens: int


@dataclass(frozen=True, slots=True)
class EvaluationResults:
    """`change`: of the second over the first (perplexity) or minus it (the others), paired by
    sample. `notices`: what was cut or left out, or cannot be told, in sentences."""

    models: tuple[Evaluation, ...]
    change: Interval | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """Both, in the folder of an evaluation."""

    folder: Path

    def write_plan(self, plan: EvaluationPlan) -> None:
        (self.folder / PLAN_FILE).write_bytes(_PLAN.dump_json(plan))

    def plan(self) -> EvaluationPlan:
        return _PLAN.validate_json((self.folder / PLAN_FILE).read_bytes())

    def write_results(self, found: EvaluationResults) -> None:
        (self.folder / FOUND_FILE).write_bytes(_FOUND.dump_json(found))

    def results(self) -> EvaluationResults:
        return _FOUND.validate_json((self.folder / FOUND_FILE).read_bytes())


_PLAN, _FOUND = TypeAdapter(EvaluationPlan), TypeAdapter(EvaluationResults)
