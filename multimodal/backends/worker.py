"""The threads in which a loaded model computes, and the stream of events that comes out of them.

On a card they last as long as the model. PyTorch keeps the plans of cuDNN's convolutions per thread
and does not free those of a thread that ended: on an H200 with torch 2.11, 24 convolutions took
79 ms and 0.8 MB of host memory for good in each new thread, and 1.8 ms and nothing in one that had
run them.

Without a card they last one turn. OpenMP keeps a team of threads for each thread that computed, and
once the teams have more threads than there are cores, all of them sleep between two operators where
they would otherwise wait awake.
"""

from __future__ import annotations

import queue
import threading
import traceback
import weakref
from collections.abc import Callable, Generator

from multimodal.errors import BackendError, MultimodalError
from multimodal.events import EngineEvent
from multimodal.memory.devices.device_errors import device_error, is_gpu_in_use

Emit = Callable[[EngineEvent], None]
Stopped = Callable[[], bool]
Work = Callable[[Emit, Stopped], None]


class Worker:
    """Runs the work of one model, in one thread; where several turns run at once, in as many.

    While `lasts()`, a thread that is idle is reused, and ends when the model is closed or
    forgotten. It is a daemon, so that work which never returns does not hold up the end of the
    program.
    """

    def __init__(self, lasts: Callable[[], bool] = is_gpu_in_use) -> None:
        self._lasts = lasts
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._end = weakref.finalize(self, self._jobs.put, None)
        self._end.atexit = False

    def close(self) -> None:
        """End the idle threads. Work that is asked for later starts a new one."""
        with self._lock:
            self._end()
            self._begin()

    def stream(self, work: Work, stop: threading.Event) -> Generator[EngineEvent, None, None]:
        """Run a blocking `work(emit, stopped)` in a thread and yield what it emits.

        `stopped()` turns true once `stop` is set or this stream is closed; the stream ends when the
        work has returned, so the engine is free by then. An error of the work is raised here:
        DeviceFullError where the device was full, when what the work held there is let go;
        DeviceLostError where it must be reset; BackendError where it is not one of `errors.py`.
        """
        job = _Job(work, stop)
        with self._lock:  # or `close` could take away the thread that was meant for it
            if not self._idle.acquire(blocking=False):
                arguments = (self._jobs, self._idle, self._lasts)
                threading.Thread(target=_serve, args=arguments, daemon=True, name="engine").start()
            self._jobs.put(job)
        try:
            while (event := job.events.get()) is not None:
                if isinstance(event, MultimodalError):
                    raise event
                if isinstance(event, BaseException):
                    job.finished.wait()
                    if (told := device_error(event)) is None:
                        raise BackendError(f"the engine failed: {event}") from event
                    release_frames(event)
                    raise told from event
                yield event
        finally:
            job.closed.set()
            job.finished.wait()


class _Job:
    """`finished` is set when the work has returned and its thread holds nothing of it any more."""

    def __init__(self, work: Work, stop: threading.Event) -> None:
        self._work = work
        self._stop = stop
        self.events: queue.SimpleQueue[EngineEvent | BaseException | None] = queue.SimpleQueue()
        self.closed = threading.Event()
        self.finished = threading.Event()

    def run(self) -> None:
        try:
            self._work(self.events.put, lambda: self.closed.is_set() or self._stop.is_set())
        except BaseException as error:  # handed over to the consumer, whatever it is
            self.events.put(error)
        else:
            self.events.put(None)


def _serve(
    jobs: queue.SimpleQueue[_Job | None], idle: threading.Semaphore, lasts: Callable[[], bool]
) -> None:
    """What a thread does: one job after another, until the None that ends them all."""
    while (job := jobs.get()) is not None:
        job.run()
        finished = job.finished
        del job  # an idle thread must not keep a request, or the model itself
        is_reused = False
        try:
            is_reused = lasts()
        finally:  # whatever happens, the turn does not wait for ever
            if is_reused:
                idle.release()
            finished.set()
        if not is_reused:
            return
        del finished
    jobs.put(None)


def release_frames(error: BaseException | None) -> None:
    """Drop what the frames that failed still hold, such as half of a model."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
