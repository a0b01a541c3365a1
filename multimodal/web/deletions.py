"""Chats that a person deleted a moment ago and may still have back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from multimodal.errors import MultimodalError

UNDO_S = 10.0
LATE_S = 2.0
"""An undo that was pressed in the last moment is still on its way."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deletion:
    owner: str
    timer: threading.Timer
    ends_s: float
    """By the monotonic clock."""


class Deletions:
    """Calls `delete` with an owner and a conversation once the time to undo is over, or when this
    is closed. Until then the conversation is whole in the store, so a crash loses nothing.
    Thread-safe."""

    def __init__(self, delete: Callable[[str, str], None], undo_s: float = UNDO_S) -> None:
        self._delete = delete
        self._undo_s = undo_s
        self._pending: dict[str, Deletion] = {}
        self._lock = threading.Lock()

    def begin(self, owner: str, conversation: str) -> None:
        timer = threading.Timer(self._undo_s + LATE_S, self._finish, [conversation])
        timer.daemon = True
        with self._lock:
            if conversation in self._pending:
                return
            ends_s = time.monotonic() + self._undo_s
            self._pending[conversation] = Deletion(owner, timer, ends_s)
        timer.start()

    def undo(self, owner: str, conversation: str) -> bool:
        """Whether it was not too late."""
        with self._lock:
            if not self._is_pending(owner, conversation):
                return False
            self._pending.pop(conversation).timer.cancel()
        return True

    def left_s(self, owner: str, conversation: str) -> float | None:
        """For how long an undo is offered; None for a conversation that nobody deleted."""
        with self._lock:
            if not self._is_pending(owner, conversation):
                return None
            return max(0.0, self._pending[conversation].ends_s - time.monotonic())

    def close(self) -> None:
        """Delete at once what waits."""
        with self._lock:
            waiting = list(self._pending)
        for conversation in waiting:
            self._finish(conversation)

    def _is_pending(self, owner: str, conversation: str) -> bool:
        found = self._pending.get(conversation)
        return found is not None and found.owner == owner

    def _finish(self, conversation: str) -> None:
        with self._lock:
            deletion = self._pending.pop(conversation, None)
        if deletion is None:
            return
        deletion.timer.cancel()
        try:
            self._delete(deletion.owner, conversation)
        except MultimodalError as error:
            log.warning("a conversation could not be deleted: %s", error)
