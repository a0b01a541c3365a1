"""The stop signals of requests under way, so that the end of the server reaches all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette


class StopSignals:
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


def stop_signals(app: Starlette) -> StopSignals:
    """Those of the requests to `app`."""
    if not hasattr(app.state, "stop_signals"):
        app.state.stop_signals = StopSignals()
    signals: StopSignals = app.state.stop_signals
    return signals
