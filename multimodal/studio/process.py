"""The process of one job: `python -m multimodal.studio.process FOLDER`, or one of several that
`accelerate launch` starts where devices share its batches (`ranks.py`).

It runs the recipe of the method (setup, train, save, cleanup), and leaves a status that says how
that ended. SIGTERM, SIGINT, and a file called `stop` in the folder ask it to save a checkpoint and
end. With --attached its standard input is a pipe of the program that started it: once that is
closed, in whatever way the program ended, the job saves a checkpoint and ends as well, and after
ORPHAN_GRACE_S it is ended wherever it is.
"""

from __future__ import annotations

import errno
import faulthandler
import importlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import psutil

from multimodal.errors import CapacityError, MultimodalError, TurnStoppedError
from multimodal.memory.devices.device_errors import device_error
from multimodal.sizes import gigabytes
from multimodal.studio import ranks
from multimodal.studio.checkpoints import discard_broken
from multimodal.studio.context import JobContext, Recipe, read_start
from multimodal.studio.folder import JobFolder
from multimodal.studio.records import State
from multimodal.studio.stopping import StopRequest

ATTACHED = "--attached"
ORPHAN_GRACE_S = 60.0
"""What a job whose program is gone has for its last checkpoint."""
NICENESS = 10
"""Whoever waits for an answer of a chat comes before a job that takes hours."""

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the job in the folder that is named; 0 where it came to an end, 1 where it failed."""
    _lower_priority()
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    folder = JobFolder(Path(arguments[0]))
    run = _Run(folder, StopRequest(folder.stop_file))
    run.hear_signals()
    if ATTACHED in arguments[1:]:
        run.watch_parent()
    try:
        return run.run()
    finally:
        _end_children()


class _Run:
    """One run, and why it was asked to stop."""

    def __init__(self, folder: JobFolder, stop: StopRequest) -> None:
        self._folder = folder
        self._stop = stop
        self._is_orphan = self._is_shared = False

    def hear_signals(self) -> None:
        for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
            if (number := getattr(signal, name, None)) is not None:
                signal.signal(number, self._on_signal)

    def watch_parent(self) -> None:
        threading.Thread(target=self._wait_for_parent, name="parent", daemon=True).start()

    def run(self) -> int:
        """Leave a status in any case."""
        error: str | None = None
        is_done = False
        try:
            is_done = self._taught(self._prepared())
        except TurnStoppedError:
            pass
        except MultimodalError as fault:
            error = str(fault)
        except (Exception, SystemExit) as fault:
            log.exception("the job failed")
            if not (self._is_shared and self._stop.is_set()):  # what ends first fails the others
                error = self._sentence(fault)
        if ranks.is_first():
            self._end(is_done, error)
        elif error:
            self._folder.write_fault(ranks.rank(), error)
        # Once one ends so, the launcher ends the others, which may wait for it.
        is_left = self._is_shared and ranks.is_first() and not is_done
        return 1 if error or is_left else 0

    def _prepared(self) -> JobContext:
        folder, me = self._folder, psutil.Process()
        start = read_start(folder)
        if start.threads:  # read by PyTorch once, when it is imported
            os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(start.threads)
        job = JobContext(folder, folder.settings(), start, self._stop)
        self._is_shared = job.settings.devices > 1
        job.tell(state="running", pid=me.pid, process_created_s=me.create_time())
        if not ranks.is_first():
            return job
        shutil.rmtree(folder.result, ignore_errors=True)
        folder.report_file.unlink(missing_ok=True)
        if start.is_resumed:
            for sentence in discard_broken(folder.checkpoints):
                job.note(sentence, folder.status().step)
        return job

    def _taught(self, job: JobContext) -> bool:
        """Whether it went to its end, and was not stopped on the way."""
        recipe = _recipe_class(job)(job)
        _take_device(job)
        try:
            for act in (recipe.setup, recipe.train):
                if self._is_stopped():
                    return False
                act()
            if self._is_stopped():
                return False
            if ranks.is_first():
                self._folder.write_report(recipe.save())
            return True
        finally:
            _clean_up(recipe)

    def _is_stopped(self) -> bool:
        is_asked = self._stop.is_set()
        return ranks.any_says(is_asked) if self._is_shared else is_asked

    def _end(self, is_done: bool, error: str | None) -> None:
        error = self._folder.fault() or error  # which that of this one may only follow from
        state: State = "interrupted" if self._is_orphan else "stopped"
        if is_done or error:
            state = "done" if is_done else "failed"
        status = self._folder.status()
        ended = replace(status, state=state, error=error, doing="", ended_s=time.time())
        self._folder.write_status(ended)

    def _sentence(self, fault: BaseException) -> str:
        title = self._folder.id
        if (told := device_error(fault, title)) is not None:
            return str(told)
        if isinstance(fault, MemoryError):
            return (
                f"{title} ran out of memory. Choose a smaller batch or max_length, then resume it."
            )
        if isinstance(fault, OSError) and fault.errno in {errno.ENOSPC, errno.EDQUOT}:
            return f"The disk is full. Free some space, then resume {title}."
        return (
            f"{title} ended with an error that the program does not know "
            f"({type(fault).__name__}); {self._folder.log.name} in its folder has all of it."
        )

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _wait_for_parent(self) -> None:
        """The pipe carries nothing: it is read to notice its end."""
        with suppress(OSError):
            while os.read(0, 1):
                pass
        self._is_orphan = not self._stop.is_set()
        self._stop.set()
        time.sleep(ORPHAN_GRACE_S)
        log.error("the program is gone and no checkpoint came in %.0f s", ORPHAN_GRACE_S)
        _end_children()
        os._exit(1)


def _take_device(job: JobContext) -> None:
    """Make the process's own card the one that “cuda” names, and let PyTorch's allocator end where
    the job's budget does, so that chats keep the rest; meet the other processes of the job. Raises
    CapacityError where a card that the program does not watch is taken."""
    is_cuda = job.start.device == "cuda"
    if is_cuda and job.start.budget_bytes:
        import torch

        torch.cuda.set_device(ranks.local_rank())
        free, total = torch.cuda.mem_get_info()
        if not ranks.is_first() and free < job.start.budget_bytes:
            raise CapacityError(
                f"The job takes {gigabytes(job.start.budget_bytes)} of each card, and only "
                f"{gigabytes(free)} of card {ranks.local_rank()} are free. End what uses it, or "
                "choose fewer devices."
            )
        torch.cuda.set_per_process_memory_fraction(min(1.0, job.start.budget_bytes / total))
    if job.settings.devices > 1:
        from accelerate import PartialState

        PartialState(cpu=not is_cuda)


def _recipe_class(job: JobContext) -> type[Recipe]:
    """That of the method, or the one that was named at the start."""
    if not job.start.recipe:
        from multimodal.studio.recipes import find_recipe

        return find_recipe(job.settings.method)
    module, _, name = job.start.recipe.partition(":")
    found: type[Recipe] = getattr(importlib.import_module(module), name)
    return found


def _clean_up(recipe: Recipe) -> None:
    """What went wrong before, or what was made, matters more than a fault in here."""
    try:
        recipe.cleanup()
    except Exception:
        log.exception("the job could not be cleaned up")


def _lower_priority() -> None:
    with suppress(psutil.Error, OSError):
        if sys.platform == "win32":
            psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            os.nice(NICENESS)


def _end_children() -> None:
    """Those of libraries, such as what loads the data."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # libraries take seconds to be taken apart, and some never end
