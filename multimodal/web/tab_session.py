"""One browser tab as the server knows it."""

from __future__ import annotations

from collections import deque
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
