"""One decoder at a time, in the order in which it was asked for.

A few kilobytes may unpack to hundreds of megabytes. Decoding on one thread bounds what all of them
take together, and lets the allocator use the same memory again. A request that brings several files
queues for each of them, so that others get their turn in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from multimodal.errors import CapacityError, TurnStoppedError

POLL_S = 0.1

T = TypeVar("T")


class DecodeQueue:
    """Thread-safe; at most `waiting` calls wait while one is decoded."""

    def __init__(self, name: str, waiting: int = 24) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._places = threading.BoundedSemaphore(waiting + 1)
        self._stops: list[threading.Event] = []
        self._is_closed = False
        self._lock = threading.Lock()

    def run(self, work: Callable[[], T], stop: threading.Event) -> T:
        """What `work()` returns or raises, once it was this call's turn.

        Raises TurnStoppedError as soon as `stop` is set, which `close` does, too; `work` itself has
        to look at `stop` where it takes long. Raises CapacityError at once where too many wait
        already.
        """
        if not self._places.acquire(blocking=False):
            raise CapacityError(
                "Too many pictures and recordings are being read at the moment. Send it again in a "
                "moment."
            )
        future = self._begin(work, stop)
        try:
            while not stop.is_set():
                try:
                    return future.result(POLL_S)
                except TimeoutError:
                    if future.done():
                        return future.result()
        finally:
            with self._lock:
                self._stops.remove(stop)
        self._give_up(future)
        raise stopped_error()

    def close(self) -> None:
        """Stop everything that is decoded or waits for it; for the end of the program, which would
        wait for its threads."""
        with self._lock:
            self._is_closed = True
            for stop in self._stops:
                stop.set()
            self._pool.shutdown(wait=False)

    def _begin(self, work: Callable[[], T], stop: threading.Event) -> Future[T]:
        with self._lock:
            if self._is_closed:
                raise stopped_error()
            self._stops.append(stop)
            return self._pool.submit(self._counted, work)

    def _counted(self, work: Callable[[], T]) -> T:
        try:
            return work()
        finally:
            self._places.release()

    def _give_up(self, future: Future[T]) -> None:
        if future.cancel():
            self._places.release()


def stopped_error() -> TurnStoppedError:
    return TurnStoppedError("The message was stopped before it was sent.")
