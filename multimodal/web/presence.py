"""Which people have a tab open: known by their pages' heartbeats, and by what the tabs ask."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

TICK_S = 2.0
"""Between two ticks of a tab in sight."""
HIDDEN_TICK_S = 60.0
"""Browsers let the timers of a hidden tab run once a minute."""
FROZEN_S = 600.0
"""Without a tick: a tab that its browser froze, or one that never was; its heartbeat proves little,
since a connection that was cut in silence looks open."""
SWEEP_EVERY_S = 1.0


@dataclass(slots=True)
class _Tab:
    owner: str
    seen_s: float
    ticked_s: float
    gap_s: float = TICK_S
    """Between its last two ticks."""
    left_s: float | None = None
    """When its heartbeat ended; None while that is open."""

    def gone_s(self, grace_s: float) -> float:
        """The time at which it counts as closed, if nothing is heard of it until then."""
        if self.left_s is None:
            return self.seen_s + FROZEN_S
        return max(self.left_s, self.seen_s + self.gap_s) + grace_s


class Presence:
    """Calls `abandon` with an owner all of whose tabs are gone. Thread-safe.

    Gradio opens a page's heartbeat once. A proxy that cuts it, or a phone that sleeps, ends it for
    good while the tab is still there and ticks, so neither says alone that a tab was closed: it is
    gone `grace_s` seconds after its heartbeat ended and its next tick was due. `clock` tells
    seconds that never run backwards.
    """

    def __init__(
        self,
        grace_s: float,
        abandon: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grace_s = grace_s
        self._abandon = abandon
        self._clock = clock
        self._tabs: dict[str, _Tab] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self, tab: str, owner: str) -> None:
        """A page was opened, and with it its heartbeat."""
        now = self._clock()
        with self._lock:
            self._tabs[tab] = _Tab(owner, now, now)
            self._watch()

    def see(self, tab: str, owner: str, is_tick: bool = False) -> None:
        """A page asked for something, or took it; `is_tick`: as it does by itself."""
        now = self._clock()
        with self._lock:
            known = self._tabs.get(tab)
            if known is None or known.owner != owner:  # it was away, and its heartbeat ended
                self._tabs[tab] = _Tab(owner, now, now, left_s=now)
                return self._watch()
            known.seen_s = now
            if is_tick:
                known.gap_s = min(max(now - known.ticked_s, TICK_S), HIDDEN_TICK_S)
                known.ticked_s = now

    def leave(self, tab: str) -> None:
        """The heartbeat of a page ended."""
        with self._lock:
            if (known := self._tabs.get(tab)) is not None:
                known.left_s = self._clock()

    def sweep(self) -> None:
        """Forget the tabs that are gone; abandon the owners who have no other."""
        now = self._clock()
        with self._lock:
            gone = [name for name, tab in self._tabs.items() if tab.gone_s(self._grace_s) <= now]
            owners = {self._tabs.pop(name).owner for name in gone}
            owners -= {tab.owner for tab in self._tabs.values()}
        for owner in owners:
            self._abandon(owner)

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def _watch(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(SWEEP_EVERY_S):
            try:
                self.sweep()
            except Exception:
                log.exception("a reply could not be abandoned")
