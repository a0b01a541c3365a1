"""One job as it stands, for whoever looks: another program may be running it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from multimodal.errors import JobError
from multimodal.private_files import make_private_folder
from multimodal.studio.checkpoints import why_not_resumable, why_not_whole
from multimodal.studio.folder import JobFolder
from multimodal.studio.job_process import is_alive
from multimodal.studio.records import ENDS, Status
from multimodal.studio.settings import JobSettings

LOCK_WAIT_S = 2.0
"""Others hold a lock for a moment when they look whether a job is run."""


@dataclass(frozen=True)
class Job:
    """Reads its files at each question. Whoever queues or runs it holds its lock, which the
    operating system frees at the end of a program, however it ended."""

    folder: JobFolder
    lock_file: Path

    @property
    def id(self) -> str:
        return self.folder.id

    @cached_property
    def settings(self) -> JobSettings:
        """Raises SettingsError."""
        return self.folder.settings()

    @property
    def status(self) -> Status:
        """That of a job whose process, or whose program, is gone is `interrupted`."""
        status = self.folder.status()
        begun = status.state == "running" or (status.state == "waiting" and status.runs > 0)
        if not begun or self.is_busy:
            return status
        newer = self.folder.status()  # it may have ended between the two looks
        return newer if newer.state in ENDS else replace(newer, state="interrupted", doing="")

    @property
    def is_busy(self) -> bool:
        """Whether a program, this one or another, queues or runs it, or its process is left."""
        return self.is_alive or self._is_locked()

    @property
    def is_alive(self) -> bool:
        """Whether its process is there, be it that of a program which is gone."""
        return is_alive(self.folder.status())

    def why_not_resumable(self) -> str | None:
        """In a sentence for people; None where `Jobs.resume` would begin."""
        state = self.status.state
        if state == "done":
            return "It is done. To teach its result further, make a new job that begins with it."
        if self.is_busy:
            return "It runs already, or waits for its turn."
        if state == "waiting":
            return "It never ran: start it."
        if (fault := why_not_whole(self.folder.data)) is not None:
            return f"Its data cannot be used: {fault}. Make the job again."
        if (fault := why_not_resumable(self.folder.checkpoints)) is not None:
            return f"No checkpoint is whole ({fault}). Make the job again."
        return None

    def lock(self) -> FileLock:
        """Keep other programs off it. Raises JobError where one has it."""
        make_private_folder(self.lock_file.parent)
        lock = FileLock(self.lock_file, thread_local=False)
        try:
            lock.acquire(timeout=LOCK_WAIT_S)
        except Timeout as error:
            raise JobError(f"The job {self.id} runs, or waits for its turn, already.") from error
        return lock

    def _is_locked(self) -> bool:
        lock = FileLock(self.lock_file)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        except OSError:
            return False
        lock.release()
        return False
