"""Export a model of the catalog: the one way of the page and of the command line.

A process of its own loads, writes and compares (`recipe.py`), and the memory manager keeps its
bytes for it meanwhile. What is written lies in a hidden folder beside the target until every check
has passed; the target appears in one step, or not at all.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multimodal.catalog.cards import ModelCard
from multimodal.catalog.sources import UntrainedSource
from multimodal.errors import BackendError, CapacityError, JobError
from multimodal.fetching import progress_text
from multimodal.memory.estimate.classifier_training import (
    trained_parameters as classifier_parameters,
)
from multimodal.memory.estimate.speech_training import SpeechStep
from multimodal.memory.estimate.speech_training import trained_parameters as speech_parameters
from multimodal.memory.estimate.training import TrainingStep, text_part, trained_parameters
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Task
from multimodal.private_files import make_private_folder
from multimodal.sizes import download_size, gigabytes
from multimodal.studio.context import Start, write_start
from multimodal.studio.estimate import classifier_part, speech_part
from multimodal.studio.export.formats import BITS, find_format, find_quantizations, formats_for
from multimodal.studio.export.plan import (
    Certificate,
    Exported,
    ExportPlan,
    ExportSettings,
    read_certificate,
    write_plan,
)
from multimodal.studio.folder import JobFolder, remove_abandoned
from multimodal.studio.job_process import run_to_end
from multimodal.studio.recipes import check_packages
from multimodal.studio.records import JobNotice, Status
from multimodal.studio.requirements import (
    CLASSIFIER,
    PIPELINE,
    RECOGNIZER,
    TEXT_MODEL,
    WHISPER,
    JobDependencies,
    has_room,
    kind_of,
)
from multimodal.studio.settings import JobSettings, Method

RECIPE = "multimodal.studio.export.recipe:ExportRecipe"
PREFIX = ".multimodal-export-"
"""What the name of a folder that is being written begins with."""
FAILED = "-failed"
"""What is added to the name of an export that failed a check and is kept."""
PRECISIONS = {Task.TEXT: ("fp32", "bf16"), Task.IMAGE: ("fp32",), Task.SPEECH: ("fp32",)}
"""In which numbers the weights are held, the second where the first do not fit."""
METHODS: Mapping[Task, Method] = {
    Task.TEXT: "lora",
    Task.IMAGE: "classify",
    Task.SPEECH: "transcribe",
}
"""Of a job that holds as much as an export does, and more."""
Tell = Callable[[str], None]


def export_model(
    settings: ExportSettings,
    needs: JobDependencies,
    folder: Path,
    stop: threading.Event | None = None,
    tell: Tell = lambda doing: None,
) -> Exported:
    """Write `settings.model` into `settings.out` and compare what was written with its source.
    `folder`: of jobs, for what the process says meanwhile. `tell` is told what is done.

    An export that fails a check is removed, or kept beside the target with `keep_failed`. Raises
    SettingsError, JobError, UnknownModelError, CapacityError, BackendError, ConfigurationError
    without the extra `studio`, and TurnStoppedError once `stop` is set; nothing is left then.
    """
    needs.check_extra()
    stop = stop or threading.Event()
    quantizations = find_quantizations(settings.to, settings.quantization)
    check_packages(find_format(settings.to).packages)
    card, base, adapter = _models(settings, needs)
    target = check_target(settings.out)
    precision, size = _fitting(base, settings, needs)
    _check_disk(needs, target.parent, disk_bytes(base, quantizations))
    tell(f"Looking for {base.title}")
    files = needs.fetch(base, lambda progress: tell(progress_text(base, progress)), stop)
    start = Start(base, files, "cpu", size, adapter, recipe=RECIPE)
    with _new_folder(target) as fresh, _job(folder, settings, precision, start) as job:
        write_plan(job.path, ExportPlan(card, settings.to, quantizations, fresh))
        with _memory(needs).reserve(f"Exporting {card.title}", size, stop) as reservation:
            for progress in reservation.wait():
                tell(progress.text)
            run_to_end(job, "cpu", needs.python, "export", stop, tell)
        if (certificate := read_certificate(fresh)) is None:
            raise BackendError(f"{card.title} was exported without a certificate. Export it again.")
        return Exported(_publish(fresh, target, certificate, settings.keep_failed), certificate)


def is_exportable(card: ModelCard) -> bool:
    """Whether there is a format for what `card` is."""
    kind = kind_of(card)
    return kind in {TEXT_MODEL, CLASSIFIER} or (kind is RECOGNIZER and card.family in WHISPER)


def check_target(out: Path) -> Path:
    """The absolute path of the folder to write. Raises JobError where something is there, or
    nothing can be written."""
    target = out.expanduser().absolute()
    try:
        if target.is_dir() and any(target.iterdir()):
            raise JobError(f"{target} is there already and not empty. Choose another folder.")
        if target.exists() and not target.is_dir():
            raise JobError(f"{target} is a file. Choose a folder that is not there yet.")
        above = next(path for path in target.parents if path.exists())
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=above):
            pass
    except OSError as error:
        raise JobError(
            f"{target} cannot be written ({error.strerror or error}). Choose another folder."
        ) from error
    return target


def disk_bytes(card: ModelCard, quantizations: tuple[str, ...]) -> int:
    """Bytes of all files; 0 for a model whose shape is not known."""
    if card.task is Task.IMAGE:
        part = classifier_part(card)
        parameters = 0 if part is None else classifier_parameters(part)
    elif card.task is Task.SPEECH:
        part = speech_part(card)
        parameters = 0 if part is None else speech_parameters(part, SpeechStep())
    else:
        part = text_part(card)
        parameters = 0 if part is None else trained_parameters(part, TrainingStep("full"))
    return sum(int(parameters * BITS.get(kind, BITS["f32"]) / 8) for kind in quantizations)


def _models(
    settings: ExportSettings, needs: JobDependencies
) -> tuple[ModelCard, ModelCard, Path | None]:
    """The card as it is called, that of its weights, and its adapter."""
    job = settings.job_settings("fp32")
    card = needs.find_card(settings.model)
    base, adapter = needs.base(job)
    if kind_of(base) is PIPELINE:
        where = " in " + str(adapter) if adapter is not None else ""
        raise JobError(
            f"{card.title} draws, and is not exported: other programs read what was taught from "
            f"the pytorch_lora_weights.safetensors of the job{where}, beside {base.title}."
        )
    if not is_exportable(base):
        raise JobError(
            f"{base.title} answers {base.task} by {base.family} and cannot be exported. Choose a "
            f"{TEXT_MODEL.title}, a {CLASSIFIER.title}, or Whisper; `multimodal models` lists them."
        )
    if base.task not in find_format(settings.to).exporters:
        known = ", ".join(formats_for(base.task))
        kind = CLASSIFIER if base.task is Task.IMAGE else RECOGNIZER
        raise JobError(
            f"{base.title} is a {kind.title}, which {settings.to} does not hold. Export it "
            f"to one of {known}."
        )
    if isinstance(base.source, UntrainedSource):
        raise JobError(f"{base.title} knows nothing yet; fine-tune it, and export the result.")
    return card, base, adapter


def _memory(needs: JobDependencies) -> MemoryManager[Any]:
    """That of the host, where an export computes, also beside a card."""
    return needs.memory.host or needs.memory


def _fitting(base: ModelCard, settings: ExportSettings, needs: JobDependencies) -> tuple[str, int]:
    """In which numbers the weights are held, and the bytes that the process takes."""
    budget = _memory(needs).budget_bytes
    size = 0
    for precision in PRECISIONS[base.task]:
        size = needs.estimate(base, _job_settings(base, settings, precision), "cpu")
        if size <= budget:
            return precision, size
    raise CapacityError(
        f"Exporting {base.title} takes {gigabytes(size)}, and the budget is {gigabytes(budget)}. "
        "Choose a larger --budget, or a machine with more memory."
    )


def _job_settings(base: ModelCard, settings: ExportSettings, precision: str) -> JobSettings:
    return settings.job_settings(precision, METHODS[base.task])


def _check_disk(needs: JobDependencies, folder: Path, needed_bytes: int) -> None:
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not has_room(free := needs.free_bytes(above), needed_bytes):
        raise CapacityError(
            f"The export takes about {download_size(needed_bytes)}, and only "
            f"{download_size(free)} are free in {above}. Free some space, choose another folder, "
            "or fewer bits."
        )


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target, removed at the end unless it became something else. Raises
    JobError where it cannot be made."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent, PREFIX)
        fresh = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.parent))
    except OSError as error:
        raise JobError(f"{target} cannot be written ({error.strerror or error}).") from error
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _job(
    folder: Path, settings: ExportSettings, precision: str, start: Start
) -> Iterator[JobFolder]:
    """The folder of the process, gone at the end."""
    make_private_folder(folder)
    remove_abandoned(folder, PREFIX)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as made:
        job = JobFolder(Path(made))
        job.create(_job_settings(start.card, settings, precision), Status())
        write_start(job, start)
        if precision != "fp32":
            job.add(JobNotice(0, "Weights were held in 16 bits: 32 do not fit the budget.", 0))
        yield job


def _publish(
    fresh: Path, target: Path, certificate: Certificate, is_failed_kept: bool
) -> Path | None:
    """Give the folder its name, in one step."""
    if not certificate.is_passed:
        if not is_failed_kept:
            return None
        target = check_target(target.with_name(f"{target.name}{FAILED}"))
    try:
        if target.is_dir():  # it is empty
            target.rmdir()
        fresh.chmod(0o755)
        fresh.rename(target)
    except OSError as error:
        raise JobError(f"{target} cannot be written ({error.strerror or error}).") from error
    return target
