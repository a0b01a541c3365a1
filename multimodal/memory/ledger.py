"""The books: which models are charged to the budget, who uses them, who waits.

No locks and no devices; the manager calls every method under its one lock.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import Generic

from multimodal.errors import BackendError, CapacityError, MultimodalError
from multimodal.events import Progress
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.eviction import Resident
from multimodal.memory.lease import B, Entry, Lease
from multimodal.memory.records import Decision, HeldEntry
from multimodal.memory.reservation import Reservation
from multimodal.sizes import gigabytes

PATIENCE_S = 10.0
"""A waiter for memory lets others pass it for so long; then nobody new comes in before it."""
DECISIONS_KEPT = 100
RAISE = "the budget is {budget}. Raise --budget, or choose a smaller model."


class Ledger(Generic[B]):
    """`budget_bytes` is what `used` never exceeds; `too_large` ends the sentence about a model that
    needs more, with {budget} in it."""

    def __init__(self, budget_bytes: int, too_large: str = RAISE) -> None:
        self.budget_bytes = budget_bytes
        self._too_large = too_large
        self.entries: dict[str, Entry[B]] = {}
        self.queue: list[Reservation] = []
        self.leases: set[Lease[B]] = set()
        self.reservations: set[Reservation] = set()
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)
        self.decided = 0

    @property
    def used_bytes(self) -> int:
        models = sum(entry.charged_bytes for entry in self.entries.values())
        return models + self.workspace_bytes + sum(other.size_bytes for other in self.reservations)

    @property
    def workspace_bytes(self) -> int:
        return sum(lease.size_bytes for lease in self.leases)

    @property
    def leaving_bytes(self) -> int:
        """Bytes that are still charged to models on their way off the device."""
        return sum(entry.charged_bytes for entry in self.entries.values() if entry.leaves)

    @property
    def loading_bytes(self) -> int:
        """Bytes of loads under way that the device may not show yet."""
        return sum(entry.promised_bytes for entry in self.entries.values())

    @property
    def held_entries(self) -> tuple[HeldEntry, ...]:
        return tuple(
            HeldEntry(e.card.name, e.size_bytes, e.leases, "ready" if e.backend else "loading")
            for e in self.entries.values()
            if e.charged_bytes
        )

    def residents(self, but: Entry[B] | None = None) -> list[Resident]:
        return [entry.resident() for entry in self.entries.values() if entry is not but]

    def idle(self) -> list[str]:
        """Models that nobody uses, the longest unused first."""
        found = [e for e in self.entries.values() if e.backend is not None and not e.leases]
        return [entry.card.name for entry in sorted(found, key=lambda e: e.last_used_s)]

    def count_ahead(self, reservation: Reservation) -> int:
        """How many earlier waiters must come first: those for the same model, and one that has
        waited for memory longer than is fair."""
        earlier = self.queue[: self.queue.index(reservation)]
        name = _model(reservation)
        same = sum(name is not None and _model(other) == name for other in earlier)
        now = time.monotonic()
        starving = any(
            _model(other) not in self.entries and now - other.asked_s > PATIENCE_S
            for other in earlier
        )
        return same or int(starving)

    def needed_bytes(self, reservation: Reservation) -> int:
        """The bytes it needs in all. Raises CapacityError where they never fit."""
        needed = reservation.size_bytes
        if isinstance(reservation, Lease):
            needed += footprint(reservation.card).resident
        if needed > self.budget_bytes:
            told = self._too_large.format(budget=gigabytes(self.budget_bytes))
            raise CapacityError(f"{reservation.title} needs {gigabytes(needed)} and {told}")
        return needed

    def waiting(self, reservation: Reservation, needed: int) -> Progress:
        """What it waits for; the jobs that hold the memory are named where `needed` bytes are not
        free before one of them gives back some, whatever else ends."""
        jobs = sum(other.size_bytes for other in self.reservations)
        titles = sorted(other.title for other in self.reservations)
        reservation.waits_on = tuple(titles) if needed + jobs > self.budget_bytes else ()
        return Progress(f"Waiting for memory for {reservation.title}{reservation.holders}")

    def reserve(self, reservation: Reservation) -> None:
        self.leave_queue(reservation)
        self.reservations.add(reservation)
        reservation.granted = True
        self.mark_shared()

    def request_shrink(self, short_bytes: int) -> None:
        """Ask who holds reservations to give back so much together, the largest first; nobody where
        that would not be enough."""
        spare = sorted(self.reservations, key=lambda other: other.spare_bytes, reverse=True)
        if sum(other.spare_bytes for other in spare) < short_bytes:
            return
        for other in spare:
            other.wanted_bytes = max(other.wanted_bytes, min(short_bytes, other.spare_bytes))
            short_bytes -= other.wanted_bytes
            if short_bytes <= 0:
                break

    def shrink(self, reservation: Reservation, size_bytes: int) -> None:
        given = max(0, reservation.size_bytes - size_bytes)
        reservation.size_bytes -= given
        reservation.wanted_bytes = max(0, reservation.wanted_bytes - given)

    def grant(self, entry: Entry[B], lease: Lease[B]) -> None:
        entry.leases += 1
        entry.uses += 1
        entry.last_used_s = time.monotonic()
        self.leave_queue(lease)
        self.leases.add(lease)
        lease.granted = True
        lease.exclusive = len(self.leases) == 1 and not self.loading_bytes and not self.reservations
        if not lease.exclusive:
            self.mark_shared()

    def mark_shared(self) -> None:
        """What turns under way are measured to take is no longer theirs only."""
        for lease in self.leases:
            lease.exclusive = False

    def leave_queue(self, reservation: Reservation) -> None:
        if reservation in self.queue:
            self.queue.remove(reservation)
        if not self.queue:  # nobody lacks anything any more
            for other in self.reservations:
                other.wanted_bytes = 0

    def give_back(self, reservation: Reservation) -> None:
        self.leave_queue(reservation)
        self.reservations.discard(reservation)

    def release(self, lease: Lease[B]) -> None:
        self.leave_queue(lease)
        if lease in self.leases and lease.entry is not None:
            self.leases.remove(lease)
            lease.entry.leases -= 1
            lease.entry.last_used_s = time.monotonic()

    def begin_eviction(self, name: str) -> tuple[Entry[B], B]:
        """Take the model from an idle entry. The entry stays until the model is off the device, so
        that nobody loads a second copy beside it."""
        entry = self.entries[name]
        backend, entry.backend = entry.backend, None
        if backend is None:
            raise BackendError(f"{entry.card.title} is not there to be unloaded")
        entry.leaves = True
        entry.progress = Progress(f"Unloading {entry.card.title}")
        return entry, backend

    def fail_load(self, entry: Entry[B], error: MultimodalError) -> None:
        """Take a failed load off the books, and tell everyone who waits for that model."""
        entry.error = error
        for waiting in self.queue:
            if isinstance(waiting, Lease) and waiting.card.name == entry.card.name:
                waiting.entry = entry
        del self.entries[entry.card.name]

    def begin_partial_eviction(self, name: str) -> tuple[Entry[B], B] | None:
        """Take a model that is there in part only and that nobody uses, so that the next turn
        tries all of it."""
        entry = self.entries.get(name)
        if entry is None or not entry.is_partial or name not in self.idle():
            return None
        return self.begin_eviction(name)

    def has_waiters(self, name: str) -> bool:
        return any(_model(waiting) == name for waiting in self.queue)

    def set_load_seconds(self, decision: Decision, seconds: float) -> None:
        """A decision took so long, as was measured after it was recorded."""
        if decision in self.decisions:
            self.decisions[self.decisions.index(decision)] = replace(decision, seconds=seconds)

    def record_decision(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self.decided += 1


def _model(reservation: Reservation) -> str | None:
    """The name of the model that it waits for; None where it needs none."""
    return reservation.card.name if isinstance(reservation, Lease) else None
