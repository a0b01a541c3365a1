"""One browser tab as the server knows it, and which people have a tab open."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_RECEIPTS = 16


@dataclass
class TabSession:
    """One browser tab: whose it is, what it looks at, and what was last sent to it."""

    owner: str = ""
    conversation: str = ""
    left: str = ""
    """The conversation that it looked at until that was deleted."""
    model: str = ""
    """What its model menu shows."""
    menu: tuple[str, ...] = ()
    """What is written in its model menu."""
    epoch: int = 0
    """Counts the whole transcripts sent; a frame of changes belongs to one of them."""
    version: int = 0
    is_busy: bool = False
    """Whether the last frame showed an answer under way."""
    follower: int = 0
    receipts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_RECEIPTS))

    def __deepcopy__(self, memo: object) -> TabSession:
        return TabSession()


class Presence:
    """Counts the open tabs of each owner; calls `abandon` with an owner who has had none for
    `grace_s`. Thread-safe."""

    def __init__(self, grace_s: float, abandon: Callable[[str], None]) -> None:
        self._grace_s = grace_s
        self._abandon = abandon
        self._tabs: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, owner: str) -> None:
        with self._lock:
            self._tabs[owner] += 1

    def leave(self, owner: str) -> None:
        with self._lock:
            self._tabs[owner] -= 1
            if self._tabs[owner] > 0:
                return
        timer = threading.Timer(self._grace_s, self._check, [owner])
        timer.daemon = True
        timer.start()

    def _check(self, owner: str) -> None:
        with self._lock:
            if self._tabs[owner] > 0:
                return
            del self._tabs[owner]
        self._abandon(owner)
