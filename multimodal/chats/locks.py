"""Locks of conversations: at most one change of each is under way.

A lock is taken before work on a change begins (decoding takes seconds) and is held until the reply
that follows is stored, so that no two changes of a conversation ever overlap.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from multimodal.errors import RequestError


class ConversationBusyError(RequestError):
    """The conversation is being changed or answered."""

    def __init__(self) -> None:
        super().__init__("This conversation is still being answered. Wait, or press stop.")


@dataclass(frozen=True, eq=False)
class ConversationLock:
    """Held until `release`, which may be called again and then does nothing."""

    conversation: str
    locks: ConversationLocks

    @property
    def is_held(self) -> bool:
        return self.locks.is_held(self)

    def release(self) -> None:
        self.locks.release(self)


class ConversationLocks:
    """At most one lock a conversation. Thread-safe; nothing here waits."""

    def __init__(self) -> None:
        self._held: dict[str, ConversationLock] = {}
        self._lock = threading.Lock()

    def acquire(self, conversation: str) -> ConversationLock:
        """Raises ConversationBusyError where somebody else holds it."""
        lock = ConversationLock(conversation, self)
        with self._lock:
            if conversation in self._held:
                raise ConversationBusyError
            self._held[conversation] = lock
        return lock

    def release(self, lock: ConversationLock) -> None:
        with self._lock:
            if self._held.get(lock.conversation) is lock:
                del self._held[lock.conversation]

    def is_held(self, lock: ConversationLock) -> bool:
        with self._lock:
            return self._held.get(lock.conversation) is lock

    def is_busy(self, conversation: str) -> bool:
        with self._lock:
            return conversation in self._held
