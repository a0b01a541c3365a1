"""The process of a job as the program that started it sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psutil

from multimodal.errors import BackendError, JobError, TurnStoppedError
from multimodal.studio.folder import JobFolder
from multimodal.studio.process import ATTACHED
from multimodal.studio.records import Status

CLOCK_S = 2.0
"""By how much the moment at which a process was created may be told differently: it is counted
from the start of the machine, whose clock is set now and then."""
POLL_S = 0.2
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Weights and data are here before it starts; nothing is fetched, and nothing told, behind that."""


class JobProcess:
    """Ends with this program, in whatever way that ends: it holds the other end of a pipe."""

    def __init__(
        self, folder: JobFolder, device: str, python: str = sys.executable, devices: int = 1
    ) -> None:
        """Start it; with several devices, accelerate's launcher, which starts one process for each.
        Raises OSError."""
        launched = _launcher(devices) if devices > 1 else []
        module = ["-m", "multimodal.studio.process", str(folder.path), ATTACHED]
        command = [python, *launched, *module]
        with folder.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(os.environ, device),
                **_own_group(),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status once it ended."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within that time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def hang_up(self) -> None:
        """What the end of this program does: it saves a checkpoint and ends."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def kill(self) -> None:
        """End it and everything that it started, at once."""
        with suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        self._process.kill()
        self._process.wait()
        self.clear()

    def clear(self) -> None:
        """After its end: the pipe, and what it left running."""
        self.hang_up()
        if sys.platform != "win32":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


def run_to_end(
    folder: JobFolder,
    device: str,
    python: str,
    what: str,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> None:
    """Run a job that nobody resumes; `tell` is told what it does, `what` is “evaluation” or alike.
    Raises JobError with what the process said, BackendError where it said nothing, and
    TurnStoppedError once `stop` is set, even where the process was done by then."""
    process = JobProcess(folder, device, python)
    try:
        while process.poll() is None and not stop.wait(POLL_S):
            if doing := folder.status().doing:
                tell(doing)
    finally:
        if process.poll() is None:
            process.kill()
        process.clear()
    if stop.is_set():
        raise TurnStoppedError(f"the {what} was stopped")
    status = folder.status()
    if status.error:
        raise JobError(status.error)
    if status.state != "done":
        told = folder.log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
        raise BackendError(f"The {what} ended without a word. Its last line was: {told}")


def is_alive(status: Status) -> bool:
    """Whether the process that the status names is still there, and not another one of the same
    number."""
    if status.pid is None or status.process_created_s is None:
        return False
    try:
        process = psutil.Process(status.pid)
        is_same = abs(process.create_time() - status.process_created_s) < CLOCK_S
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _launcher(devices: int) -> list[str]:
    """On this machine alone, whatever accelerate's own configuration says."""
    options = {
        "--num_processes": str(devices),
        "--num_machines": "1",
        "--machine_rank": "0",
        "--main_process_port": "0",
        "--mixed_precision": "no",
        "--dynamo_backend": "no",
    }
    words = [word for option in options.items() for word in option]
    return ["-m", "accelerate.commands.launch", "--multi_gpu", *words]


def _environment(ours: Mapping[str, str], device: str) -> dict[str, str]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    python = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONSAFEPATH": "1"}
    return {**ours, **OFFLINE, **hidden, **python}


def _own_group() -> dict[str, Any]:
    """So that a Ctrl-C in the terminal reaches the program alone, which then asks the job."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
