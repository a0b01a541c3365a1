"""Where models live: how much a device holds, how much of that is free, how time passes on it.

A device only measures. Who may come in is decided by the ledger in `budget.py`.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

import psutil

from multimodal.errors import CapacityError


class Device(Protocol):
    """`engine` names the device that backends really load onto ("cpu", "cuda")."""

    name: str
    engine: str
    simulated: bool

    def capacity_bytes(self) -> int: ...

    def free_bytes(self) -> int: ...

    def now_s(self) -> float: ...

    def hold(self, card: str, size_bytes: int) -> None:
        """A model of that size was admitted and is about to be loaded."""

    def drop(self, card: str) -> None:
        """The model is gone from the device."""


class Cpu:
    """Host memory, as the operating system reports it."""

    name = "cpu"
    engine = "cpu"
    simulated = False

    def capacity_bytes(self) -> int:
        return int(psutil.virtual_memory().total)

    def free_bytes(self) -> int:
        return int(psutil.virtual_memory().available)

    def now_s(self) -> float:
        return time.monotonic()

    def hold(self, card: str, size_bytes: int) -> None:
        """The operating system keeps the books."""

    def drop(self, card: str) -> None:
        """The operating system keeps the books."""


class Simulated:
    """A card that is not there: capacity in bytes, bus in bytes per second, time that only passes
    when something is copied. Models run on the CPU; what fits and what swaps is the card's.

    `fail_next` makes the next loads raise as a full card would.
    """

    engine = "cpu"
    simulated = True

    def __init__(self, capacity_bytes: int, bus_bytes_per_s: float = 25e9) -> None:
        self.name = f"simulated {capacity_bytes / 1e9:.0f} GB card"
        self.fail_next = 0
        self._capacity = capacity_bytes
        self._bus = bus_bytes_per_s
        self._held: dict[str, int] = {}
        self._copied_s = 0.0
        self._lock = threading.Lock()

    def capacity_bytes(self) -> int:
        return self._capacity

    def free_bytes(self) -> int:
        with self._lock:
            return self._capacity - sum(self._held.values())

    def now_s(self) -> float:
        with self._lock:
            return self._copied_s

    def hold(self, card: str, size_bytes: int) -> None:
        with self._lock:
            if self.fail_next > 0:
                self.fail_next -= 1
                raise CapacityError(f"{self.name}: out of memory while loading {card} (injected)")
            if sum(self._held.values()) + size_bytes > self._capacity:
                raise CapacityError(f"{self.name}: out of memory while loading {card}")
            self._held[card] = size_bytes
            self._copied_s += size_bytes / self._bus

    def drop(self, card: str) -> None:
        with self._lock:
            self._held.pop(card, None)
