"""Whose each session of the page is, and how much of its answers was read."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from multimodal.access import network_of

MAX_SESSIONS = 1_000
"""Tabs that are told apart at once; Gradio keeps the state of as many (`launch.py`)."""
MAX_SESSION_NAME = 128
MAX_UNREAD = 20
"""Events of a session whose answers nobody fetches; the server keeps those answers in memory."""


@dataclass(slots=True)
class _Session:
    person: str
    network: str
    unread: int = 0


class Sessions:
    """Which person each session of the page belongs to: whoever used it first.

    A session's name is drawn by the browser with `Math.random`, so it must not be enough to use
    it. At most `capacity` sessions are kept, at most half of them from one network; a further one
    takes the place of the longest unused of its own network, or, where others fill the table, of
    the network that has the most. So no stranger is able to keep everybody else out.
    """

    def __init__(self, capacity: int = MAX_SESSIONS) -> None:
        self._capacity = capacity
        self._share = max(1, capacity // 2)
        self._known: OrderedDict[str, _Session] = OrderedDict()
        self._sizes: Counter[str] = Counter()

    def admit(self, session: str, person: str, address: str = "") -> bool:
        """Whether `person`, at `address`, may use `session`; the first to ask is whose it is."""
        known = self._known.get(session)
        if known is None:
            if not session or len(session) > MAX_SESSION_NAME:
                return False
            network = network_of(address)
            self._make_room(network)
            self._known[session] = _Session(person, network)
            self._sizes[network] += 1
        elif known.person != person:
            return False
        self._known.move_to_end(session)
        return True

    def begin_event(self, session: str) -> bool:
        """Whether a session that was admitted may have another event answered; False once
        `MAX_UNREAD` came since something of the answers was last read."""
        known = self._known.get(session)
        if known is None or known.unread >= MAX_UNREAD:
            return False
        known.unread += 1
        return True

    def reset_unread(self, session: str) -> None:
        """Something of the answers was received by whoever `session` belongs to."""
        if (known := self._known.get(session)) is not None:
            known.unread = 0

    def _make_room(self, network: str) -> None:
        if self._sizes[network] >= self._share:
            self._evict(network)
        elif len(self._known) >= self._capacity:
            self._evict(max(self._sizes, key=self._sizes.__getitem__))

    def _evict(self, network: str) -> None:
        oldest = next(name for name, known in self._known.items() if known.network == network)
        del self._known[oldest]
        self._sizes[network] -= 1
        if not self._sizes[network]:
            del self._sizes[network]
