"""The stop signals of requests under way, so that the end of the server reaches all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette


class ShutdownSignals:
    """Thread-safe. Once `close` was called, every signal is set from its beginning."""

    def __init__(self) -> None:
        self._open: set[threading.Event] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    @contextmanager
    def signal(self) -> Iterator[threading.Event]:
        """An event that is set at the end of this context, or of the server if that comes first."""
        stop = threading.Event()
        with self._lock:
            self._open.add(stop)
            if self._is_closed:
                stop.set()
        try:
            yield stop
        finally:
            stop.set()
            with self._lock:
                self._open.discard(stop)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for stop in self._open:
                stop.set()


def shutdown_signals(app: Starlette) -> ShutdownSignals:
    """Those of the requests to `app`."""
    if not hasattr(app.state, "shutdown_signals"):
        app.state.shutdown_signals = ShutdownSignals()
    signals: ShutdownSignals = app.state.shutdown_signals
    return signals
