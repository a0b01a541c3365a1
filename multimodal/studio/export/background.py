"""Exports of jobs that run behind a page: one a job at a time, each in a thread of its own.

What is done lies in the job's own folder, each with its certificate, so that it is known after a
restart and goes with the job; what is under way is known here alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from multimodal.errors import JobError, MultimodalError, TurnStoppedError
from multimodal.private_files import make_private_folder
from multimodal.studio.export.formats import find_quantizations
from multimodal.studio.export.plan import (
    CERTIFICATE_FILE,
    Certificate,
    Exported,
    ExportSettings,
    read_certificate,
)

EXPORTS = "exports"
"""The folder, in a job's, of its exports."""
Run = Callable[[ExportSettings, threading.Event, Callable[[str], None]], Exported]
"""`export_model` with what it needs of the program."""


@dataclass(frozen=True, slots=True)
class ExportFolder:
    """One export that is done."""

    path: Path
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class JobExports:
    """`doing`: of the one under way; `error`: in which sentence the last one ended, where it did
    not go well; `done`: those in the folder, by name."""

    is_running: bool = False
    doing: str = ""
    error: str = ""
    done: tuple[ExportFolder, ...] = ()


class BackgroundExports:
    """Thread-safe. `folder` is that of the jobs."""

    def __init__(self, folder: Path, run: Run) -> None:
        self._folder, self._run = folder, run
        self._lock = threading.Lock()
        self._states: dict[str, JobExports] = {}
        self._stops: dict[str, threading.Event] = {}

    def start(self, job: str, to: str, quantizations: tuple[str, ...]) -> None:
        """Begin to export the result of that job. Raises SettingsError for what cannot be asked
        for, and JobError while another export of the job runs."""
        find_quantizations(to, quantizations)
        settings = ExportSettings(
            model=job, to=to, quantization=quantizations, out=self._new_name(job, to)
        )
        with self._lock:
            if self._states.get(job, JobExports()).is_running:
                raise JobError(f"An export of {job} is under way already; stop it, or wait for it.")
            stop = self._stops[job] = threading.Event()
            self._states[job] = JobExports(True, "Beginning")
        threading.Thread(
            target=self._export, args=(job, settings, stop), name=f"export {job}", daemon=True
        ).start()

    def stop(self, job: str) -> None:
        """Have it end; nothing of it is left. Raises JobError where none runs."""
        with self._lock:
            if not self._states.get(job, JobExports()).is_running:
                raise JobError(f"No export of {job} is under way.")
            self._stops[job].set()

    def of(self, job: str) -> JobExports:
        with self._lock:
            state = self._states.get(job, JobExports())
        return replace(state, done=tuple(self._done(job)))

    def _export(self, job: str, settings: ExportSettings, stop: threading.Event) -> None:
        error = ""
        try:
            make_private_folder(settings.out.parent)
            found = self._run(settings, stop, lambda doing: self._tell(job, doing))
            error = "" if found.certificate.is_passed else found.certificate.verdict
        except TurnStoppedError:
            error = "The export was stopped; nothing of it was kept."
        except (MultimodalError, OSError) as fault:
            error = str(fault)
        finally:
            with self._lock:
                self._states[job] = JobExports(error=error)

    def _tell(self, job: str, doing: str) -> None:
        with self._lock:
            self._states[job] = JobExports(True, doing)

    def _new_name(self, job: str, to: str) -> Path:
        folder, number = self._folder / job / EXPORTS, 1
        while (path := folder / (to if number == 1 else f"{to}-{number}")).exists():
            number += 1
        return path

    def _done(self, job: str) -> list[ExportFolder]:
        found = sorted((self._folder / job / EXPORTS).glob(f"[!.]*/{CERTIFICATE_FILE}"))
        read = ((path.parent, read_certificate(path.parent)) for path in found)
        return [ExportFolder(folder, told) for folder, told in read if told is not None]
