"""A card that is not there: what fits on it, what swaps, and how long that would take.

Models run on the CPU. The card has a capacity, a bus and a disk; its time passes only when bytes
move. With slabs, a model lies in pieces of at most that size, each in one stretch, so the card can
be full although enough bytes are free in all; `collect` pushes the pieces together.

Three count its bytes, as on a real one: the driver everything, PyTorch's allocator what models and
turns take through it, and stops at its limit, and the ledger what it was told.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from multimodal.errors import DeviceFullError
from multimodal.memory.calibration.record import Calibration
from multimodal.memory.devices.base import (
    CUDA_CONTEXT_BYTES,
    PAGEABLE_BYTES_PER_S,
    PARTLY_SHARE,
    Device,
)

DISK_BYTES_PER_S = 2e9
"""A common NVMe drive read through the file system."""


class Simulated(Device):
    """Thread-safe. What a card may do is set at any time:

    - `others_bytes`: what other programs hold of it; they are refused what is not free.
    - `spills`: no allocation is refused by the driver, which goes on in host memory, slowly, as
      under Windows.
    - `outside`: names of models whose engine takes its memory past PyTorch's allocator.
    - `host_bytes`: the room for mirrors; `locks_pages`: whether they are read at the speed of the
      bus; `fail_next_parks`: how often the host has no memory for one in spite of that.
    - `runs_partly`: whether a model that does not fit may run with layers that only visit.
    - `fail_next`: how often holding memory is refused, as by a full card; `fail_next_restores`: how
      often a restore is, after half of its copies.
    - `is_lost`: every use fails as that of a card does on which a kernel crashed.
    """

    simulated = True
    host_bytes: int = 0

    def __init__(
        self,
        capacity_bytes: int,
        bus_bytes_per_s: float = 25e9,
        host_bytes: int = 0,
        slab_bytes: int = 0,
        disk_bytes_per_s: float = DISK_BYTES_PER_S,
        context_bytes: int = 0,
        others_bytes: int = 0,
        spills: bool = False,
    ) -> None:
        self.name = f"simulated {capacity_bytes / 1e9:.0f} GB card"
        self.host_bytes = host_bytes
        self.context_bytes = context_bytes
        self.spills = spills
        self.locks_pages = True
        self.runs_partly = False
        self.outside: set[str] = set()
        self.fail_next = self.fail_next_restores = self.fail_next_parks = 0
        self.is_lost = False
        self._capacity = capacity_bytes
        self._most = capacity_bytes
        self._bus, self._disk = bus_bytes_per_s, disk_bytes_per_s
        self._slab = slab_bytes
        self._pieces: dict[str, list[tuple[int, int]]] = {}
        """Per card, (start, size) of each piece."""
        self._mirrors: dict[str, int] = {}
        """Per card, what its mirror takes of host memory."""
        self._turns: dict[str, int] = {}
        """What each turn takes beside the weights."""
        self._others = others_bytes
        self._turns_at_start = self._turns_peak = 0
        self._now_s = 0.0
        self._lock = threading.Lock()
        self._room = capacity_bytes - context_bytes - others_bytes

    @classmethod
    def calibrated(cls, found: Calibration, host_bytes: int, others_bytes: int = 0) -> Simulated:
        """A card that does what was measured of a real one; what failed there, it does not do."""
        device = cls(
            found.subject.card_bytes,
            bus_bytes_per_s=found.bus_bytes_per_s or PAGEABLE_BYTES_PER_S,
            host_bytes=host_bytes if found.has_mirrors else 0,
            context_bytes=found.context_bytes or CUDA_CONTEXT_BYTES,
            others_bytes=others_bytes,
            spills=bool(found.is_spilling),
        )
        device.factors = found.factors
        device.locks_pages = found.bus_bytes_per_s is not None
        return device

    @property
    def others_bytes(self) -> int:
        with self._lock:
            return self._others

    @others_bytes.setter
    def others_bytes(self, size_bytes: int) -> None:
        with self._lock:
            left = self._capacity - self._taken_bytes()
            self._others = size_bytes if self.spills else min(size_bytes, left)

    @property
    def taken_bytes(self) -> int:
        """What this program takes, by the driver's count."""
        with self._lock:
            return self._taken_bytes()

    def model_bytes(self, card: str) -> int:
        """What a model takes."""
        with self._lock:
            return self._size(card) if card in self._pieces else 0

    @property
    def spilled_bytes(self) -> int:
        """What lies in host memory because the card is full."""
        with self._lock:
            return self._spilled()

    def capacity_bytes(self) -> int:
        return self._capacity

    def usable_bytes(self) -> int:
        return self._room

    def free_bytes(self) -> int:
        with self._lock:
            self._check()
            return max(0, self._free())

    def now_s(self) -> float:
        with self._lock:
            return self._now_s

    def set_limit(self, budget_bytes: int) -> None:
        with self._lock:
            self._most = min(self._capacity, budget_bytes)

    def begin_load(self, card: str, size_bytes: int, parked: bool = False) -> None:
        """Take the model's place; what is not parked comes from the disk."""
        with self._lock:
            self._place(card, size_bytes)
            if not parked:
                self._now_s += size_bytes / self._disk

    def remove(self, card: str) -> None:
        with self._lock:
            self._pieces.pop(card, None)

    def take(self, turn: str, size_bytes: int) -> None:
        """A turn takes so much more beside the weights, until `give_back`. Raises
        DeviceFullError."""
        with self._lock:
            self._check()
            self._refuse("in a turn", size_bytes, is_outside=False)
            self._turns[turn] = self._turns.get(turn, 0) + size_bytes
            self._turns_peak = max(self._turns_peak, sum(self._turns.values()))
            self._slow_down()

    def give_back(self, turn: str) -> None:
        with self._lock:
            self._turns.pop(turn, None)

    def drop_mirror(self, card: str) -> None:
        with self._lock:
            self._mirrors.pop(card, None)

    def cpu_free_bytes(self) -> int:
        return self.host_bytes

    def reset_turn_peak(self) -> None:
        with self._lock:
            self._turns_at_start = self._turns_peak = sum(self._turns.values())

    def turn_peak_bytes(self) -> int:
        """What turns took; those that took nothing are said nothing of."""
        with self._lock:
            return self._turns_peak - self._turns_at_start

    def park(self, card: str, model: object) -> int:
        """The mirror is there already: nothing is copied, and no time passes."""
        with self._lock:
            self._check()
            if self.fail_next_parks > 0:
                self.fail_next_parks -= 1
                raise OSError("Cannot allocate memory (injected)")
            size = self._mirrors.get(card, self._size(card) if card in self._pieces else 0)
            if size > self.host_bytes:
                return 0
            self._mirrors[card] = size
            return size

    def restore(self, card: str, model: object) -> None:
        with self._lock:
            self._check()
            seconds = self._size(card) / self._copied_per_s()
            if self.fail_next_restores > 0:
                self.fail_next_restores -= 1
                self._now_s += seconds / 2
                raise DeviceFullError(f"{self.name}: out of memory while restoring {card}")
            self._now_s += seconds

    def restore_partly(self, card: str, model: object) -> bool:
        """Every forward would take time, and the simulated card runs none."""
        if not self.runs_partly:
            return False
        with self._lock:
            room = int(max(0, self._free()) * PARTLY_SHARE)
            self._place(card, min(room, self._mirrors[card]))
        return True

    def free_cached(self) -> None:
        with self._lock:
            self._check()
            start = 0
            for pieces in self._pieces.values():
                for index, (_, size) in enumerate(pieces):
                    pieces[index] = (start, size)
                    start += size

    def reload_s(self, card: str, size_bytes: int, load_s: float) -> float:
        is_mirrored = self.host_bytes >= size_bytes
        return size_bytes / (self._copied_per_s() if is_mirrored else self._disk)

    # ------------------------------------------------------------ under the lock

    def _check(self) -> None:
        if self.is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered (injected)")

    def _allocated(self) -> int:
        """By PyTorch's allocator."""
        models = (card for card in self._pieces if card not in self.outside)
        return sum(map(self._size, models)) + sum(self._turns.values())

    def _taken_bytes(self) -> int:
        models = sum(map(self._size, self._pieces))
        return self.context_bytes + models + sum(self._turns.values())

    def _size(self, card: str) -> int:
        return sum(size for _, size in self._pieces[card])

    def _free(self) -> int:
        return min(self._free_by_driver(), self._most - self._allocated())

    def _free_by_driver(self) -> int:
        return self._capacity - self._others - self._taken_bytes()

    def _spilled(self) -> int:
        return max(0, -self._free_by_driver())

    def _slow_down(self) -> None:
        """What lies in host memory is read from there, once for whatever is done."""
        self._now_s += self._spilled() / PAGEABLE_BYTES_PER_S

    def _copied_per_s(self) -> float:
        return self._bus if self.locks_pages else PAGEABLE_BYTES_PER_S

    def _refuse(self, doing: str, size_bytes: int, is_outside: bool) -> None:
        """Raise DeviceFullError where the allocator's limit or the driver refuses."""
        is_beyond = not is_outside and self._allocated() + size_bytes > self._most
        if is_beyond or (not self.spills and size_bytes > self._free_by_driver()):
            raise DeviceFullError(f"{self.name}: out of memory {doing}")

    def _place(self, card: str, size_bytes: int) -> None:
        self._check()
        if self.fail_next > 0:
            self.fail_next -= 1
            raise DeviceFullError(f"{self.name}: out of memory while loading {card} (injected)")
        self._refuse(f"while loading {card}", size_bytes, card in self.outside)
        pieces = list(self._found(size_bytes))
        if sum(size for _, size in pieces) < size_bytes:
            raise DeviceFullError(f"{self.name}: out of memory while loading {card}")
        self._pieces[card] = pieces
        self._slow_down()

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
        """Where nothing lies; behind the card's end, host memory that the driver goes on in."""
        end = 0
        for start, size in sorted(piece for pieces in self._pieces.values() for piece in pieces):
            if start > end:
                yield end, start - end
            end = max(end, start + size)
        if self.spills or end < self._capacity:
            yield end, (1 << 62 if self.spills else self._capacity) - end
