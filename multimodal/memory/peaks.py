"""What turns really took beside the weights, kept on disk and used the next time."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

log = logging.getLogger(__name__)

MARGIN = 1.1


class Peaks:
    """Per card, the most bytes a turn was seen to take; thread-safe. Without a path nothing is
    kept. A peak that was seen can raise an estimate and never lower it: the next turn may be
    longer than any before."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._read()

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
            self._write()

    def _read(self) -> dict[str, int]:
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_text("utf-8-sig"))
            return {str(card): int(size) for card, size in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s); peaks are learned anew", self._path, error)
            return {}

    def _write(self) -> None:
        if self._path is None:
            return
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(self._seen, indent=2), "utf-8")
            fresh.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s)", self._path, error)
