"""`multimodal evaluate`: how well a text model knows the samples of a file, and how often a
classifier is right about pictures, or a speech recognizer hears a word wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multimodal.cli.job_options import column_role
from multimodal.cli.options import with_settings
from multimodal.cli.terminal_progress import TerminalProgress
from multimodal.settings import CommonSettings, Settings

if TYPE_CHECKING:
    from multimodal.studio.evaluation.plan import Evaluation, EvaluationResults

Option = typer.Option
_SETTINGS = [name for name in CommonSettings.model_fields if name != "data"]


@with_settings(*_SETTINGS, data_folder="data")
def evaluate(
    settings: Settings,
    model: Annotated[str, Option(help="The card, or the result of a job.")],
    data: Annotated[str, Option(help="Samples: a file, a folder, or hub:OWNER/NAME.")],
    compare: Annotated[str | None, Option(help="Another model; what changed from it.")] = None,
    measure: Annotated[
        str | None,
        Option(
            help="perplexity; accuracy: how often an answer is exact, or a class is right; or "
            "word_error: how many words are heard wrong."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None, Option(help="What a column of the data is, as COLUMN=ROLE.")
    ] = None,
    max_length: Annotated[int, Option(min=8, help="Tokens of a sample; the rest is cut.")] = 512,
    loss_on: Annotated[str, Option(help="answers or everything: which tokens count.")] = "answers",
    language: Annotated[str | None, Option(help="What is spoken in recordings, as en.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a text model on samples, a classifier on a folder of pictures by class, or a speech
    recognizer on recordings with their texts, with its 95 % confidence interval."""
    from multimodal.build import build
    from multimodal.studio.evaluation.evaluate import evaluate as measure_models
    from multimodal.studio.evaluation.plan import evaluation_settings
    from multimodal.studio.requirements import JobDependencies

    chosen = evaluation_settings(
        {
            "model": model,
            "data": data,
            "compare": compare,
            "measure": measure,
            "columns": dict(map(column_role, columns or ())),
            "max_length": max_length,
            "loss_on": loss_on,
            "language": language,
        }
    )
    program = build(settings)
    try:
        needs = JobDependencies(program.memory, program.catalog.card, program.weights.ensure)
        found = measure_models(chosen, needs, settings.jobs_folder, tell=TerminalProgress())
    finally:
        program.close()
    if as_json:
        print(json.dumps(as_dict(found), indent=2))
    else:
        _print(found)


def as_dict(found: EvaluationResults) -> dict[str, Any]:
    """One model as its figures alone; two in `models`, with the change between them."""
    more = {"notices": found.notices} if found.notices else {}
    if len(found.models) == 1:
        return asdict(found.models[0]) | more
    change = asdict(found.change) if found.change else None
    return {"models": [asdict(model) for model in found.models], "change": change} | more


def _print(found: EvaluationResults) -> None:
    from multimodal.cli.tables import print_table

    rows = [_row(model) for model in found.models]
    measure = found.models[0].measure
    print_table(
        [
            "model",
            measure,
            "95 % interval",
            "samples",
            "words" if measure == "word_error" else "tokens",
        ],
        rows,
    )
    if (change := found.change) is not None:
        kind = "ratio" if measure == "perplexity" else "difference"
        other, model = (one.model for one in found.models)
        interval = f"95 % interval {change.low:.4g} to {change.high:.4g}"
        print(f"\n{model} against {other}: {kind} {change.value:.4g}, {interval}")
    for notice in found.notices:
        print(f"\n{notice}")


def _row(model: Evaluation) -> list[str]:
    is_told = model.low is not None and model.high is not None
    interval = f"{model.low:.4g} to {model.high:.4g}" if is_told else "too few samples"
    return [
        model.model,
        f"{model.value:.4g}",
        interval,
        str(model.samples),
        str(model.tokens) if model.tokens else "",
    ]
