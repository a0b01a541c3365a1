"""A card that is not there: what fits on it, what swaps, and how long that would take.

Models run on the CPU. The card has a capacity, a bus and a disk; its time passes only when bytes
move. With slabs, a model lies in pieces of at most that size, each in one stretch, so the card can
be full although enough bytes are free in all; `collect` pushes the pieces together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from multimodal.errors import DeviceFullError
from multimodal.memory.factors import ESTIMATE

DISK_BYTES_PER_S = 2e9
"""A common NVMe drive read through the file system."""


class Simulated:
    """Thread-safe. `fail_next` makes the next holds and restores fail as a full card would; once
    `is_lost`, every use fails as that of a card does on which a kernel crashed."""

    engine = "cpu"
    simulated = True
    factors = ESTIMATE
    failure = ""

    def __init__(
        self,
        capacity_bytes: int,
        bus_bytes_per_s: float = 25e9,
        host_bytes: int = 0,
        slab_bytes: int = 0,
        disk_bytes_per_s: float = DISK_BYTES_PER_S,
        context_bytes: int = 0,
    ) -> None:
        self.name = f"simulated {capacity_bytes / 1e9:.0f} GB card"
        self.host_bytes = host_bytes
        self.context_bytes = context_bytes
        self.fail_next = 0
        self.is_lost = False
        self._capacity = capacity_bytes
        self._bus, self._disk = bus_bytes_per_s, disk_bytes_per_s
        self._slab = slab_bytes
        self._pieces: dict[str, list[tuple[int, int]]] = {}
        """Per card, (start, size) of each piece."""
        self._now_s = 0.0
        self._lock = threading.Lock()

    def capacity_bytes(self) -> int:
        return self._capacity

    def room_bytes(self) -> int:
        return self._capacity

    def free_bytes(self) -> int:
        with self._lock:
            self._check()
            return self._capacity - sum(size for _, size in self._taken())

    def now_s(self) -> float:
        with self._lock:
            return self._now_s

    def limit(self, budget_bytes: int) -> None:
        """The simulated card stops at its capacity."""

    def hold(self, card: str, size_bytes: int, parked: bool = False) -> None:
        """Take the model's place; what is not parked comes from the disk."""
        with self._lock:
            self._place(card, size_bytes)
            if not parked:
                self._now_s += size_bytes / self._disk

    def drop(self, card: str) -> None:
        with self._lock:
            self._pieces.pop(card, None)

    def loaded(self, card: str, model: object) -> int:
        """The engine runs on the CPU: what it takes there says nothing of the card."""
        return 0

    def settle(self, card: str) -> float | None:
        return None

    def forget(self, card: str) -> None:
        """Nothing more is kept of it."""

    def beside_bytes(self) -> int:
        return self.host_bytes

    def turn_begins(self) -> None:
        """A simulated turn takes what its lease says."""

    def turn_peak_bytes(self) -> int:
        return 0

    def park(self, card: str, model: object) -> int:
        """The mirror is there already: nothing is copied, and no time passes."""
        with self._lock:
            self._check()
            size = sum(size for _, size in self._pieces.get(card, ()))
            return size if size <= self.host_bytes else 0

    def restore(self, card: str, model: object) -> None:
        with self._lock:
            self._check()
            self._now_s += sum(size for _, size in self._pieces[card]) / self._bus

    def restore_partly(self, card: str, model: object) -> bool:
        """Every forward would take time, and the simulated card runs none."""
        return False

    def collect(self) -> None:
        with self._lock:
            self._check()
            start = 0
            for pieces in self._pieces.values():
                for index, (_, size) in enumerate(pieces):
                    pieces[index] = (start, size)
                    start += size

    def reload_s(self, card: str, size_bytes: int, load_s: float) -> float:
        return size_bytes / (self._bus if self.host_bytes >= size_bytes else self._disk)

    # ------------------------------------------------------------ under the lock

    def _taken(self) -> list[tuple[int, int]]:
        return sorted(piece for pieces in self._pieces.values() for piece in pieces)

    def _check(self) -> None:
        if self.is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered (injected)")

    def _place(self, card: str, size_bytes: int) -> None:
        self._check()
        if self.fail_next > 0:
            self.fail_next -= 1
            raise DeviceFullError(f"{self.name}: out of memory while loading {card} (injected)")
        pieces = list(self._found(size_bytes))
        if sum(size for _, size in pieces) < size_bytes:
            raise DeviceFullError(f"{self.name}: out of memory while loading {card}")
        self._pieces[card] = pieces

    def _found(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """Places for pieces of one slab each, the first ones that are large enough."""
        left = size_bytes
        for start, room in self._gaps():
            while left and room:
                size = min(left, self._slab or room)
                if size > room:
                    break
                yield start, size
                start, room, left = start + size, room - size, left - size

    def _gaps(self) -> Iterator[tuple[int, int]]:
        end = 0
        for start, size in self._taken():
            if start > end:
                yield end, start - end
            end = max(end, start + size)
        if end < self._capacity:
            yield end, self._capacity - end
