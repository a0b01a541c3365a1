"""What turns really took beside the weights, kept on disk and used the next time."""

from __future__ import annotations

import threading
from pathlib import Path

from multimodal.json_file import JsonFile

MARGIN = 1.1
LOST = "peaks are learned anew"


class Peaks:
    """Per card, the most bytes a turn was seen to take; thread-safe. Without a path nothing is
    kept. A peak that was seen can raise an estimate and never lower it: the next turn may be
    longer than any before."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = JsonFile(path, dict[str, int], LOST) if path else None
        self._lock = threading.Lock()
        self._seen = self._file.read() if self._file else {}

    def workspace(self, card: str, estimate_bytes: int, most_bytes: int) -> int:
        """The bytes to reserve for a turn whose estimate is that: what was seen, if it is more, but
        no more than there is room for beside the model, else one large turn would keep it out."""
        with self._lock:
            seen = int(self._seen.get(card, 0) * MARGIN)
        return max(estimate_bytes, min(seen, most_bytes))

    def learn(self, card: str, peak_bytes: int) -> None:
        with self._lock:
            if peak_bytes <= self._seen.get(card, 0):
                return
            self._seen[card] = peak_bytes
            if self._file:
                self._file.write(self._seen)
