"""What the studio's part of the page asks of the program: the seam at which tests put fakes."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from multimodal.build import Program
from multimodal.catalog.cards import ModelCard
from multimodal.chats.rows import FeedbackCounts
from multimodal.errors import RequestError
from multimodal.memory.records import Snapshot
from multimodal.settings import Settings
from multimodal.studio import results
from multimodal.studio.bundle import export_bundle, import_bundle
from multimodal.studio.data.feedback import read_feedback
from multimodal.studio.estimate import fitting_batch
from multimodal.studio.export.background import BackgroundExports, JobExports
from multimodal.studio.export.export import export_model
from multimodal.studio.export.plan import Exported, ExportSettings
from multimodal.studio.folder import JobFolder
from multimodal.studio.recipes import LIBRARIES
from multimodal.studio.records import Status
from multimodal.studio.requirements import (
    TEACHABLE,
    TEXT_MODEL,
    JobDependencies,
    kind_of,
)
from multimodal.studio.settings import JobSettings

if TYPE_CHECKING:
    from multimodal.studio.data.preview import Preview
    from multimodal.studio.requirements import FilePreview


class Job(Protocol):
    """One job as `studio.jobs` tells of it."""

    @property
    def folder(self) -> JobFolder: ...
    @property
    def settings(self) -> JobSettings: ...
    @property
    def status(self) -> Status: ...
    @property
    def is_busy(self) -> bool: ...
    def why_not_resumable(self) -> str | None: ...


class Jobs(Protocol):
    """`studio.jobs.Jobs`; every method raises MultimodalError with one sentence."""

    def create(self, settings: JobSettings) -> Job: ...
    def all(self) -> Sequence[Job]: ...
    def start(self, id: str) -> object: ...
    def stop(self, id: str) -> object: ...
    def resume(self, id: str) -> object: ...
    def remove(self, id: str) -> object: ...


class Exports(Protocol):
    """`studio.export.background.BackgroundExports`, by the ids of jobs; both actions raise
    MultimodalError with one sentence."""

    def start(self, job: str, to: str, quantizations: tuple[str, ...]) -> object: ...
    def stop(self, job: str) -> object: ...
    def of(self, job: str) -> JobExports: ...


@dataclass(frozen=True)
class Services:
    """`owner` is whose chats are meant, as the store knows people."""

    settings: Settings
    jobs: Jobs
    models: Callable[[], Sequence[ModelCard]]
    """Those that can be taught."""
    snapshot: Callable[[], Snapshot]
    needed: Callable[[JobSettings], tuple[int, int]]
    """The batch that fits, at most the one that is asked for, and the bytes of the job with it.
    Raises MultimodalError where that cannot be said."""
    preview: Callable[[JobSettings], Preview | FilePreview]
    count_feedback: Callable[[str], FeedbackCounts]
    feedback_rows: Callable[[str, str], Sequence[Mapping[str, Any]]]
    """Of an owner, for the method kto or dpo."""
    install: Callable[[JobFolder], ModelCard]
    uninstall: Callable[[str], object]
    installed: Callable[[], Mapping[str, str]]
    """Names of the cards that are offered in the chat, by the job that made each."""
    install_export: Callable[[Path], ModelCard]
    export_job: Callable[[str, Path], object]
    """Writes the job of that id into a file."""
    import_job: Callable[[Path], Job]
    exports: Exports
    missing: Callable[[], tuple[str, ...]]
    """Packages that are not installed and without which nothing can be taught."""


def services_of(program: Program) -> Services:
    """Those of the program itself. What teaches is imported where it is used: it takes seconds, and
    may not be installed."""
    needs = JobDependencies(program.memory, program.catalog.card, program.weights.ensure)

    def needed(settings: JobSettings) -> tuple[int, int]:
        card, _ = needs.base(settings)

        def size(changed: JobSettings) -> int:
            return needs.estimate(card, changed, needs.device)

        return fitting_batch(settings, program.memory.budget_bytes, size)

    return Services(
        settings=program.settings,
        jobs=program.jobs,
        models=lambda: _teachable(program),
        snapshot=program.memory.snapshot,
        needed=needed,
        preview=lambda settings: _preview(program, needs, settings),
        count_feedback=program.store.count_feedback,
        feedback_rows=lambda owner, method: _rows(program, owner, method),
        install=lambda folder: results.install(program, folder),
        uninstall=lambda name: results.uninstall(program, name),
        installed=lambda: _installed(program),
        install_export=lambda folder: results.install_export(program, folder),
        export_job=lambda id, path: export_bundle(program.jobs.get(id), path),
        import_job=lambda path: import_bundle(path, program.jobs),
        exports=_exports(program),
        missing=lambda: tuple(name for name in LIBRARIES if find_spec(name) is None),
    )


def _exports(program: Program) -> BackgroundExports:
    settings = program.settings

    def run(asked: ExportSettings, stop: threading.Event, tell: Callable[[str], None]) -> Exported:
        needs = results.export_dependencies(program)
        return export_model(asked, needs, settings.jobs_folder, stop, tell)

    return BackgroundExports(settings.jobs_folder, run)


def _teachable(program: Program) -> list[ModelCard]:
    """What is offered, then what can only be taught. Nobody fetches weights for whoever asks, so
    others only where theirs are here."""
    offered = [card for card in program.cards if kind_of(card) is not None]
    names = {card.base for card in offered}
    others = [
        card
        for card in program.catalog.cards
        if kind_of(card) not in {None, TEXT_MODEL}
        and card.base not in names
        and card.base_model is None
    ]
    return [*offered, *(card for card in others if program.weights.is_ready(card))]


def _preview(
    program: Program, needs: JobDependencies, settings: JobSettings
) -> Preview | FilePreview:
    from multimodal.studio.data.prepare import prepare_data
    from multimodal.studio.data.preview import preview
    from multimodal.studio.tokenizer import load_model_tokenizer

    if (read_files := TEACHABLE[settings.method].read_files) is not None:
        with tempfile.TemporaryDirectory() as folder:
            return read_files(settings, Path(folder))
    prepared = prepare_data(settings)
    card, _ = needs.base(settings)
    if not program.weights.is_ready(card):
        raise RequestError(
            f"The preview needs the tokenizer of {card.title}, which is not here yet. It "
            "comes with the model: chat with it once, or start the job."
        )
    tokenizer = load_model_tokenizer(card, program.weights.ensure(card))
    return preview(settings, prepared, tokenizer)


def _rows(program: Program, owner: str, method: str) -> Sequence[Mapping[str, Any]]:
    found = read_feedback(program.store, owner)
    return found.rated if method == "kto" else found.preferences


def _installed(program: Program) -> dict[str, str]:
    """By the job in whose folder the result of a card lies."""
    folders = {card.name: results.result_folder(card) for card in results.installed(program)}
    return {
        folder.parent.name: name
        for name, folder in folders.items()
        if folder is not None and folder.parent.parent == program.settings.jobs_folder
    }
