"""One browser tab as the server knows it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

MAX_RECEIPTS = 16


@dataclass
class TabSession:
    """One browser tab: whose it is, what it looks at, and what was last sent to it. Events of one
    tab are served at once; `lock` is held where several fields have to agree."""

    owner: str = ""
    conversation: str = ""
    pressed: float = 0.0
    """When the conversation that it looks at was chosen, by the browser's clock."""
    left: str = ""
    """The conversation that it looked at until that was deleted."""
    pages: int = 1
    """How much of the list of chats it shows."""
    model: str = ""
    """What its model menu shows."""
    menu: tuple[str, ...] = ()
    """What is written in its model menu."""
    upgrades: tuple[str, ...] = ()
    """What it shows of models that are fetched or could be."""
    epoch: int = 0
    """Counts the whole transcripts sent; a frame of changes belongs to one of them."""
    version: int = 0
    is_busy: bool = False
    """Whether the last whole transcript showed an answer under way."""
    follower: int = 0
    """Counts those who followed an answer; the last one does."""
    dictation: threading.Event | None = None
    """Ends the recording of this tab that is being written down."""
    receipts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_RECEIPTS))
    """Those that the page has not acknowledged."""
    issued: int = 0
    """Counts the receipts, so that the page can say which it has."""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()  # no field, for Gradio copies those of a State's first value

    def __deepcopy__(self, memo: object) -> TabSession:
        return TabSession()

    def switch(self, before: str, after: str) -> bool:
        """Look at another conversation, unless the tab looks elsewhere by now; whether it did."""
        with self.lock:
            if self.conversation != before:
                return False
            self.conversation = after
            return True

    def add_receipt(self, nonce: str, receipt: dict[str, Any]) -> None:
        with self.lock:
            self.issued += 1
            self.receipts.append(receipt | {"nonce": nonce, "serial": self.issued})

    def add_error(self, sentence: str) -> None:
        """A receipt that no action asked for."""
        with self.lock:
            self.add_receipt(f"told-{self.issued + 1}", {"error": sentence})

    def acknowledge(self, serial: int) -> None:
        """The page has the receipts up to that one."""
        with self.lock:
            while self.receipts and self.receipts[0]["serial"] <= serial:
                self.receipts.popleft()
