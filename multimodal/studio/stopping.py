"""How a job is asked to end: by its process, or by a file that any process may write."""

from __future__ import annotations

import threading
from pathlib import Path


class StopRequest(threading.Event):
    """Is set once `set` was called, or once `file` is there: there are no signals on Windows, and
    who wants a job to end may be another program than the one that started it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def is_set(self) -> bool:
        return super().is_set() or self._file.exists()
