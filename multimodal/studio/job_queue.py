"""The jobs that wait in this program, and the thread that runs them one after another.

It fetches the weights, holds the bytes in the memory manager for as long as the process lives, and
watches that process, which dies with the program.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from filelock import FileLock

from multimodal.catalog.cards import ModelCard
from multimodal.errors import JobError, MultimodalError, TurnStoppedError
from multimodal.fetching import progress_text
from multimodal.studio.context import Start, write_start
from multimodal.studio.folder import JobFolder
from multimodal.studio.job import Job
from multimodal.studio.job_process import JobProcess
from multimodal.studio.records import ENDS, JobNotice, State, Status
from multimodal.studio.requirements import JobDependencies
from multimodal.studio.stopping import StopRequest
from multimodal.weights import FetchProgress

POLL_S = 0.2
CLOSE_WAIT_S = 20.0
"""For the last checkpoint when the program ends."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """A job that is queued or runs here; `lock` is freed at its end."""

    job: Job
    lock: FileLock
    stop: StopRequest
    is_resumed: bool
    is_killed: bool = False

    @property
    def folder(self) -> JobFolder:
        return self.job.folder

    def tell(self, **changes: Any) -> None:
        self.folder.write_status(replace(self.folder.status(), **changes))

    def settle(self, state: State, error: str | None = None) -> None:
        """How it ended."""
        with suppress(OSError):
            self.tell(state=state, error=error, doing="", ended_s=time.time())
            self.folder.stop_file.unlink(missing_ok=True)
        self.lock.release()


class JobQueue:
    """Thread-safe."""

    def __init__(self, needs: JobDependencies) -> None:
        self._needs = needs
        self._changed = threading.Condition()
        self._waiting: list[Run] = []
        self._current: Run | None = None
        self._worker: threading.Thread | None = None
        self._is_closing = False

    def add(self, job: Job, lock: FileLock, is_resumed: bool) -> None:
        """Raises JobError once the queue is closed."""
        run = Run(job, lock, StopRequest(job.folder.stop_file), is_resumed)
        with self._changed:
            if self._is_closing:
                raise JobError("The program ends; start the job when it is up again.")
            job.folder.stop_file.unlink(missing_ok=True)
            run.tell(state="waiting", doing="Waiting for its turn", error=None, ended_s=None)
            self._waiting.append(run)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
                self._worker.start()

    def hear_stop(self, id: str, now: bool) -> None:
        """That the file which asks a job to stop was written; `now`: end its process."""
        with self._changed:
            if self._current is not None and self._current.job.id == id:
                self._current.is_killed = now
            self._settle_stopped()
            self._changed.notify_all()

    def wait_for_change(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait(min(timeout_s, POLL_S))

    def close(self) -> None:
        """What runs saves a checkpoint and is `interrupted`, within CLOSE_WAIT_S; what waits does
        not begin."""
        with self._changed:
            self._is_closing = True
            for run in self._waiting:
                run.settle("interrupted" if run.folder.status().runs else "waiting")
            self._waiting.clear()
            if self._current is not None:
                self._current.stop.set()
            self._changed.notify_all()
            worker = self._worker
        if worker is not None:
            worker.join()

    # ------------------------------------------------------------ in the thread

    def _work(self) -> None:
        while True:
            with self._changed:
                self._settle_stopped()
                if not self._waiting:
                    self._worker = None
                    return
                run = self._current = self._waiting.pop(0)
            try:
                run.settle(*self._end_of(run))
            finally:
                with self._changed:
                    self._current = None
                    self._changed.notify_all()

    def _settle_stopped(self) -> None:
        """End those that wait and are asked to stop, by this program or another one."""
        for run in [run for run in self._waiting if run.stop.is_set()]:
            self._waiting.remove(run)
            run.settle("stopped")

    def _end_of(self, run: Run) -> tuple[State, str | None]:
        """Run it; never raises."""
        try:
            status = self._teach(run)
            return status.state, status.error
        except TurnStoppedError:
            return ("interrupted" if self._is_closing else "stopped"), None
        except MultimodalError as error:
            return "failed", str(error)
        except Exception as error:
            log.exception("the job %s could not be run", run.job.id)
            return "failed", f"It could not be started: {error}."

    def _teach(self, run: Run) -> Status:
        """The status that its process left. Raises the errors of what comes before that."""
        settings = run.job.settings
        card, adapter = self._needs.base(settings)
        run.tell(doing=f"Looking for {card.title}")
        files = self._needs.fetch(card, _Reporter(run, card), run.stop)
        batch, size = self._needs.fitting(card, settings)
        title = f"Fine-tuning {settings.name}"
        with self._needs.memory.reserve(title, size, run.stop) as reservation:
            for progress in reservation.wait():
                run.tell(doing=progress.text)
            start = Start(card, files, self._needs.device, size, adapter, run.is_resumed)
            write_start(run.folder, replace(start, batch=batch, recipe=self._needs.recipe))
            _tell_batch(run, settings.batch, batch)
            return self._run_process(run)

    def _run_process(self, run: Run) -> Status:
        run.tell(
            state="running",
            doing="Starting",
            pid=None,
            process_created_s=None,
            started_s=time.time(),
            runs=run.folder.status().runs + 1,
        )
        run.folder.discard_faults()
        devices = run.job.settings.devices
        process = JobProcess(run.folder, self._needs.device, self._needs.python, devices)
        try:
            self._watch(run, process)
        finally:
            if process.poll() is None:
                process.kill()
            process.clear()
            run.folder.discard_unfinished()
        return self._status_left(run, process.poll() or 0)

    def _watch(self, run: Run, process: JobProcess) -> None:
        """Until it ended, or is to be killed."""
        while process.poll() is None and not run.is_killed:
            with self._changed:
                self._settle_stopped()
                if not self._is_closing:
                    self._changed.wait(POLL_S)
            if self._is_closing:
                process.hang_up()
                process.wait(CLOSE_WAIT_S)
                return

    def _status_left(self, run: Run, code: int) -> Status:
        status = run.folder.status()
        if status.state in ENDS:
            return status
        if (fault := run.folder.fault()) is not None:
            return replace(status, state="failed", error=fault)
        if run.is_killed or self._is_closing:
            return replace(status, state="stopped" if run.is_killed else "interrupted")
        how = f"killed by signal {-code}" if code < 0 else f"with exit status {code}"
        lacks = ", perhaps because memory ran out" if code == -9 else ""
        error = (
            f"Its process ended without a word ({how}{lacks}); {run.folder.log.name} in its folder "
            "has what the libraries printed. Resume it."
        )
        return replace(status, state="interrupted", error=error)


def _tell_batch(run: Run, asked: int, batch: int) -> None:
    """What does not fit at once is computed in parts."""
    if batch == asked or run.is_resumed:
        return
    sentence = (
        f"A batch of {asked} does not fit the budget at once, so {batch} of its samples are "
        "computed at a time; updates stay the same."
    )
    run.folder.add(JobNotice(0, sentence, 1))


class _Reporter:
    """Writes how far a download is into the status, a few times a second at most."""

    def __init__(self, run: Run, card: ModelCard) -> None:
        self._run, self._card, self._told_s = run, card, 0.0

    def __call__(self, progress: FetchProgress) -> None:
        now = time.monotonic()
        if now - self._told_s > POLL_S:
            self._told_s = now
            self._run.tell(doing=progress_text(self._card, progress))
