"""Evaluate a model of the catalog on data: the one way of the page and of the command line.

A process of its own measures (`recipe.py`), and the memory manager keeps its bytes for it
meanwhile, so that a chat goes on beside it.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from multimodal.catalog.cards import ModelCard
from multimodal.errors import CapacityError, DataError, JobError
from multimodal.fetching import progress_text
from multimodal.private_files import make_private_folder
from multimodal.sizes import gigabytes
from multimodal.studio.context import Start, write_start
from multimodal.studio.data.captions import write_test_captions
from multimodal.studio.data.pictures import write_test_pictures
from multimodal.studio.data.prepare import PreparedData, write_data
from multimodal.studio.data.recordings import write_test_recordings
from multimodal.studio.data.samples import Row, Samples
from multimodal.studio.data.sources import read_source
from multimodal.studio.data.splits import unique
from multimodal.studio.evaluation.plan import (
    READ_TOKENS,
    EvaluationFiles,
    EvaluationMethod,
    EvaluationPlan,
    EvaluationResults,
    EvaluationSettings,
    Measure,
)
from multimodal.studio.folder import JobFolder, remove_abandoned
from multimodal.studio.job_process import run_to_end
from multimodal.studio.records import Status
from multimodal.studio.requirements import (
    CLASSIFIER,
    DRAWING_MODEL,
    PIPELINE,
    RECOGNIZER,
    SEEING_MODEL,
    TEXT_MODEL,
    JobDependencies,
    Teachable,
    check_card,
    kind_of,
)
from multimodal.studio.settings import CHATS, JobSettings

RECIPE = "multimodal.studio.evaluation.recipe:EvaluationRecipe"
PICTURES_RECIPE = "multimodal.studio.evaluation.pictures_recipe:PicturesRecipe"
CAPTIONS_RECIPE = "multimodal.studio.evaluation.captions_recipe:CaptionsRecipe"
SPEECH_RECIPE = "multimodal.studio.evaluation.speech_recipe:SpeechRecipe"
PREFIX = ".evaluation-"
Tell = Callable[[str], None]


class _Kind(NamedTuple):
    """How models of a kind are evaluated. `methods`: jobs that read one, the first that fits;
    `write`: of what is no text, the samples into a folder, and what is told of them."""

    recipe: str
    measures: tuple[Measure, ...]
    methods: tuple[EvaluationMethod, ...]
    write: Callable[[str, Path], tuple[str, ...]] | None = None


_KINDS = {
    TEXT_MODEL: _Kind(RECIPE, ("perplexity", "accuracy"), ("lora", "qlora")),
    CLASSIFIER: _Kind(PICTURES_RECIPE, ("accuracy",), ("classify",), write_test_pictures),
    SEEING_MODEL: _Kind(CAPTIONS_RECIPE, ("perplexity",), ("describe",), write_test_captions),
    RECOGNIZER: _Kind(SPEECH_RECIPE, ("word_error",), ("transcribe",), write_test_recordings),
}
"""The first of the measures is the usual one."""


def evaluate(
    settings: EvaluationSettings,
    needs: JobDependencies,
    folder: Path,
    stop: threading.Event | None = None,
    tell: Tell = lambda doing: None,
) -> EvaluationResults:
    """Measure `settings.model`, and `settings.compare` before it on the same samples. `folder` has
    room for a model's weights (unpacked, where four bits are made of a GGUF file); what is written
    there is gone at the end. `tell` is told what is done.

    A text model that does not fit the budget in 16 bits is evaluated in four, and a notice says so.
    Raises DataError, JobError, UnknownModelError, CapacityError, BackendError, ConfigurationError
    without the extra `studio`, and TurnStoppedError once `stop` is set.
    """
    needs.check_extra()
    stop = stop or threading.Event()
    tasks = [
        _Task.of(name, settings, needs) for name in filter(None, (settings.compare, settings.model))
    ]
    kind = _common_kind(tasks)
    way = _KINDS[kind]
    measure = _measure(settings, kind)
    rows = read_samples(settings.job_settings("lora")) if way.write is None else []
    method, size = _fitting(tasks, settings, needs, way.methods)
    make_private_folder(folder)
    remove_abandoned(folder, PREFIX)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as made:
        job = JobFolder(Path(made))
        job.create(settings.job_settings(method), Status())
        notices: tuple[str, ...] = ()
        if way.write is None:
            write_data(PreparedData("completion", [], rows, (), ""), job.data)
        else:
            notices = way.write(settings.data, job.data)
        starts = [task.start(needs, size, way.recipe, stop, tell) for task in tasks]
        EvaluationFiles(job.path).write_plan(
            EvaluationPlan(measure, tuple(task.name for task in tasks), tuple(starts))
        )
        write_start(job, starts[0])
        title = f"Evaluating {tasks[-1].card.title}"
        with needs.memory.reserve(title, size, stop) as reservation:
            for progress in reservation.wait():
                tell(progress.text)
            run_to_end(job, starts[0].device, needs.python, "evaluation", stop, tell)
        found = EvaluationFiles(job.path).results()
    found = replace(found, notices=(*notices, *found.notices))
    return _in_four_bits(found, needs) if method == "qlora" else found


def _common_kind(tasks: Sequence[_Task]) -> Teachable:
    """Raises JobError for models of two kinds, which nothing measures alike."""
    kinds = {kind_of(task.card): task.card for task in tasks}
    if len(kinds) > 1:
        one, other = kinds.values()
        raise JobError(f"{one.title} and {other.title} do different things; compare models alike.")
    return next(filter(None, kinds))


def _measure(settings: EvaluationSettings, kind: Teachable) -> Measure:
    """Raises JobError for what models of that kind are not measured by."""
    measures = _KINDS[kind].measures
    asked = settings.measure or measures[0]
    if asked not in measures:
        raise JobError(
            f"A {kind.title} has no {asked}; measure its {' or '.join(measures)}, or leave out "
            "--measure."
        )
    return asked


class _Task:
    """One model: the card of its weights, and the adapter of the job that taught it."""

    def __init__(self, name: str, card: ModelCard, adapter: Path | None) -> None:
        self.name, self.card, self._adapter = name, card, adapter

    @classmethod
    def of(cls, name: str, settings: EvaluationSettings, needs: JobDependencies) -> _Task:
        """Raises UnknownModelError, and JobError for what can be neither read nor measured."""
        job = settings.job_settings("lora").model_copy(update={"model": name})
        card, adapter = needs.base(job)
        if (kind := kind_of(card)) is None:
            check_card(card, TEXT_MODEL)
        elif kind in {DRAWING_MODEL, PIPELINE}:
            raise JobError(
                f"{card.title} draws, and there is nothing to compare its pictures with. Choose a "
                "text model or a picture classifier."
            )
        return cls(name, card, adapter)

    def start(
        self, needs: JobDependencies, size: int, recipe: str, stop: threading.Event, tell: Tell
    ) -> Start:
        """Fetches the weights that are not there yet."""
        card = self.card
        tell(f"Looking for {card.title}")
        files = needs.fetch(card, lambda progress: tell(progress_text(card, progress)), stop)
        return Start(card, files, needs.device, size, self._adapter, recipe=recipe)


def read_samples(settings: JobSettings) -> list[Row]:
    """Every different sample of the data in its order; where its files say which are for testing,
    those. Raises DataError."""
    if settings.data == CHATS:
        raise DataError("Your chats are to be learned from; give a file with other samples.")
    samples = Samples(settings)
    found = [(samples.row(record), record.split) for record in read_source(settings.data)]
    is_split = any(split == "test" for _, split in found)
    rows = [row for row, split in found if row is not None and (split == "test" or not is_split)]
    if not rows:
        raise DataError(f"{Path(settings.data).name} is empty; it needs at least 1 sample.")
    return unique(rows)


def evaluation_bytes(
    card: ModelCard, settings: EvaluationSettings, method: EvaluationMethod, needs: JobDependencies
) -> int:
    """What the smallest job takes that reads as much at once, which is a little more."""
    job = settings.job_settings(method).model_copy(
        update={
            "batch": 1,
            "max_length": max(READ_TOKENS, settings.max_length),
            "lora_rank": 1,
            "gradient_checkpointing": True,
        }
    )
    return needs.estimate(card, job, needs.device)


def _fitting(
    tasks: Sequence[_Task],
    settings: EvaluationSettings,
    needs: JobDependencies,
    methods: Sequence[EvaluationMethod],
) -> tuple[EvaluationMethod, int]:
    """The first of the ways to read the models that fits, and the bytes that the larger one
    takes."""
    size = 0
    for method in methods:
        size = max(evaluation_bytes(task.card, settings, method, needs) for task in tasks)
        if size <= needs.memory.budget_bytes:
            return method, size
    raise CapacityError(
        f"Evaluating {' and '.join(task.card.title for task in tasks)} takes {gigabytes(size)}, "
        f"and the budget is {gigabytes(needs.memory.budget_bytes)}. Choose a "
        f"{'smaller --max-length or a ' if methods[0] == 'lora' else ''}smaller model."
    )


def _in_four_bits(found: EvaluationResults, needs: JobDependencies) -> EvaluationResults:
    budget = gigabytes(needs.memory.budget_bytes)
    told = f"Weights were read in four bits, since 16 do not fit the budget of {budget}."
    return replace(found, notices=(*found.notices, told))
