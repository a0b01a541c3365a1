"""The jobs of a data folder: made, started, watched, ended, resumed and removed.

One runs at a time in a program, the others wait in their order (`job_queue.py`). Several programs
may share the folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from multimodal.errors import CapacityError, JobError, UnknownModelError
from multimodal.private_files import make_private_folder
from multimodal.sizes import download_size
from multimodal.studio.checkpoints import write_manifest
from multimodal.studio.folder import JobFolder
from multimodal.studio.job import Job
from multimodal.studio.job_queue import JobQueue
from multimodal.studio.records import JobNotice, Status
from multimodal.studio.requirements import JobDependencies, check_requirements, has_room
from multimodal.studio.settings import JobSettings

__all__ = ["Job", "JobDependencies", "Jobs"]

NEW, OLD = ".new", ".old"
"""What a folder that is being made or removed ends with; it begins with a dot."""
LOCKS = ".locks"


class Jobs:
    """Thread-safe. `folder` has one folder a job, of the name of its settings."""

    def __init__(self, folder: Path, needs: JobDependencies) -> None:
        self.folder = folder
        self._needs = needs
        self._queue = JobQueue(needs)
        if folder.is_dir():
            self._recover()

    def all(self) -> list[Job]:
        """The newest first."""
        found = find_jobs(self.folder)
        return sorted(found, key=lambda job: job.folder.status().created_s, reverse=True)

    def get(self, id: str) -> Job:
        """Raises JobError."""
        if Path(id).name != id or not _is_job(self.folder / id):
            known = ", ".join(job.id for job in self.all()) or "none"
            raise JobError(f"There is no job {id!r}. Known: {known}.")
        return _job(self.folder, id)

    def create(self, settings: JobSettings, feedback_rows: Any = None) -> Job:
        """Check everything that can be known before the model is loaded, read the data, and make
        the job's folder in one step; it runs once it is started. Takes seconds.

        Raises JobError, DataError, UnknownModelError, CapacityError, and ConfigurationError where
        the libraries are not installed; nothing is written then.
        """
        make_private_folder(self.folder)
        self._check_name(settings.name)
        check_requirements(self._needs, settings, self.folder)
        with self.new_folder(settings.name) as folder:
            folder.create(settings, Status(created_s=time.time()))
            folder.data.mkdir()
            told = self._needs.prepare(settings, feedback_rows, folder.data)
            write_manifest(folder.data)
            for sentence in told:
                folder.add(JobNotice(0, sentence, 0))
        return _job(self.folder, settings.name)

    @contextmanager
    def new_folder(self, name: str) -> Iterator[JobFolder]:
        """A place to make a job in, which becomes the job of that name at the end; after an error
        it is removed. Raises JobError where something is called so."""
        make_private_folder(self.folder)
        lock = _job(self.folder, name).lock()
        fresh = self.folder / f".{name}{NEW}" / name
        try:
            self._check_name(name)
            shutil.rmtree(fresh.parent, ignore_errors=True)
            yield JobFolder(fresh)
            fresh.rename(self.folder / name)
        finally:
            shutil.rmtree(fresh.parent, ignore_errors=True)
            lock.release()

    def check_room(self, needed_bytes: int) -> None:
        """Raise CapacityError where the disk does not hold so much more."""
        make_private_folder(self.folder)
        if not has_room(self._needs.free_bytes(self.folder), needed_bytes):
            raise CapacityError(
                f"{download_size(needed_bytes)} do not fit on the disk of {self.folder}. Free some "
                "space."
            )

    def start(self, id: str) -> None:
        """Queue a job that never ran. Raises JobError."""
        job = self.get(id)
        if job.status.state != "waiting":
            raise JobError(f"The job {id} ran before: resume it, or make another one.")
        self._add(job, is_resumed=False)

    def resume(self, id: str) -> None:
        """Queue a job that ended before it was done; it goes on from its newest whole checkpoint.
        Raises JobError with the reason where it cannot."""
        job = self.get(id)
        if (why := job.why_not_resumable()) is not None:
            raise JobError(f"The job {id} cannot be resumed. {why}")
        self._add(job, is_resumed=True)

    def stop(self, id: str, now: bool = False) -> None:
        """Have it save a checkpoint after the step under way and end; `now`: at once, without one.
        Returns before that. Raises JobError where it does not run."""
        job = self.get(id)
        if job.status.state not in {"waiting", "running"} or not job.is_busy:
            raise JobError(f"The job {id} does not run.")
        job.folder.stop_file.touch()
        self._queue.hear_stop(id, now)

    def remove(self, id: str) -> None:
        """Remove its folder, with its result. Raises JobError while it runs."""
        job = self.get(id)
        with self._exclusive(job):
            gone = self.folder / f".{id}{OLD}"
            shutil.rmtree(gone, ignore_errors=True)
            job.folder.path.rename(gone)
            shutil.rmtree(gone)

    def wait(self, id: str, timeout_s: float = float("inf")) -> Status:
        """Its status once it ended, or after `timeout_s`."""
        job, end_s = self.get(id), time.monotonic() + timeout_s
        while job.is_busy and (left_s := end_s - time.monotonic()) > 0:
            self._queue.wait_for_change(left_s)
        return job.status

    def close(self) -> None:
        """For the end of the program: what runs saves a checkpoint and is `interrupted`, within
        20 seconds, and what waits does not begin."""
        self._queue.close()

    def _add(self, job: Job, is_resumed: bool) -> None:
        with self._exclusive(job, is_kept=True) as lock:
            self._queue.add(job, lock, is_resumed)

    @contextmanager
    def _exclusive(self, job: Job, is_kept: bool = False) -> Iterator[Any]:
        """Hold the lock of a job that does not run; `is_kept`: beyond the end, but for an error."""
        lock = job.lock()
        try:
            if job.is_alive:
                raise JobError(f"The job {job.id} still runs; stop it first.")
            yield lock
        except BaseException:
            lock.release()
            raise
        if not is_kept:
            lock.release()

    def _check_name(self, name: str) -> None:
        if _is_job(self.folder / name):
            raise JobError(
                f"There is a job {name} already. Choose another name, or remove that one first."
            )
        try:
            card = self._needs.find_card(name)
        except UnknownModelError:
            return
        raise JobError(f"{card.title} is called {name} already. Choose another name.")

    def _recover(self) -> None:
        """After a program that was killed: jobs without a process are interrupted, and what was
        being made or removed is removed. What another program has is left alone."""
        for job in find_jobs(self.folder):
            if not job.is_busy and (status := job.status) != job.folder.status():
                job.folder.write_status(replace(status, ended_s=time.time()))
        for path in self.folder.iterdir():
            is_left = path.name.startswith(".") and path.suffix in {NEW, OLD}
            if is_left and not _job(self.folder, path.stem.removeprefix(".")).is_busy:
                shutil.rmtree(path, ignore_errors=True)


def find_jobs(folder: Path) -> list[Job]:
    """Those in the folder of a program's jobs, in no order; reads nothing else."""
    names = [path.name for path in folder.iterdir() if _is_job(path)] if folder.is_dir() else []
    return [_job(folder, name) for name in names]


def _job(folder: Path, name: str) -> Job:
    return Job(JobFolder(folder / name), folder / LOCKS / name)


def _is_job(path: Path) -> bool:
    return not path.name.startswith(".") and (path / "job.toml").is_file()
