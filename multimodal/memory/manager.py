"""One budget for all models: who is on the device, who may come, who must go, who waits.

A turn takes one lease at a time, so it never waits while it holds. The ledger is kept under one
lock; loading, closing and downloading happen outside it. Bytes are charged before anything is
allocated: while a victim leaves for a newcomer, the larger of the two is charged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from multimodal.cards import ModelCard
from multimodal.errors import BackendError, CapacityError, MultimodalError
from multimodal.memory.budget import victims
from multimodal.memory.devices import Device
from multimodal.memory.footprint import footprint
from multimodal.memory.lease import B, Closable, Entry, Lease
from multimodal.memory.records import Decision, Held, Snapshot
from multimodal.messages import Progress

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""A waiter for memory lets others pass it for so long; then nobody new comes in before it."""
POLL_S = 0.1
DECISIONS_KEPT = 100

B_co = TypeVar("B_co", bound=Closable, covariant=True)
Report = Callable[[Progress], None]
_Leaving = tuple[Entry[B], B]


class Source(Protocol[B_co]):
    """Gets weights and turns them into a loaded model; both may take long and may fail."""

    def fetch(self, card: ModelCard, report: Report) -> Path: ...

    def load(self, card: ModelCard, files: Path, engine: str) -> B_co: ...


class MemoryManager(Generic[B]):
    """Keeps the models of one device inside `budget_bytes`. Every method is thread-safe."""

    def __init__(self, device: Device, budget_bytes: int, source: Source[B]) -> None:
        self.device = device
        self.budget_bytes = min(budget_bytes, device.capacity_bytes())
        self._source = source
        self._changed = threading.Condition()
        self._entries: dict[str, Entry[B]] = {}
        self._queue: list[Lease[B]] = []
        self._leases: set[Lease[B]] = set()
        self._decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)

    # ------------------------------------------------------------ what callers use

    @contextmanager
    def lease(
        self, card: ModelCard, stop: threading.Event, workspace_bytes: int = 0
    ) -> Iterator[Lease[B]]:
        """Queue for `card`; `lease.wait()` must be exhausted before `lease.backend` is used."""
        lease = Lease(card, workspace_bytes, stop, self)
        with self._changed:
            self._queue.append(lease)
        try:
            yield lease
        finally:
            self._release(lease)

    def unload(self, name: str) -> bool:
        """Evict an idle model; False when it is not there, or in use."""
        with self._changed:
            entry = self._entries.get(name)
            if entry is None or entry.backend is None or entry.leases:
                return False
            leaving = self._retire(name)
        self._close(*leaving)
        return True

    def snapshot(self) -> Snapshot:
        with self._changed:
            held = tuple(
                Held(e.card.name, e.size_bytes, e.leases, "ready" if e.backend else "loading")
                for e in self._entries.values()
                if e.charged_bytes
            )
            return Snapshot(
                self.device.name,
                self.device.simulated,
                self.budget_bytes,
                self._used(),
                held,
                len(self._queue),
                tuple(self._decisions),
            )

    def close(self) -> None:
        """Unload everything that is idle; for the end of the program."""
        for held in self.snapshot().held:
            self.unload(held.card)

    # ------------------------------------------------------------ what a lease uses

    def advance(self, lease: Lease[B]) -> Progress | None:
        """Take one step towards granting `lease`; None once it is granted."""
        with self._changed:
            if lease.entry is not None and (error := lease.entry.error) is not None:
                raise type(error)(str(error)) from error
            entry = self._entries.get(lease.card.name)
            lease.check_patience(loading=entry is not None and entry.backend is None)
            if (ahead := self._ahead(lease)) > 0:
                return Progress(f"Waiting for {lease.card.title}: {ahead} before you")
            if entry is None:
                return self._admit(lease)
            lease.entry = entry
            if entry.backend is None:
                return entry.progress
            if not self._may_use(entry, lease):
                return Progress(f"Waiting for {lease.card.title}: you are next")
            self._grant(entry, lease)
            return None

    def pause(self) -> None:
        """Sleep until something changed, or a moment has passed."""
        with self._changed:
            self._changed.wait(POLL_S)

    # ------------------------------------------------------------ under the lock

    def _used(self) -> int:
        charged = sum(entry.charged_bytes for entry in self._entries.values())
        return charged + sum(lease.workspace_bytes for lease in self._leases)

    def _ahead(self, lease: Lease[B]) -> int:
        """How many earlier waiters must come first: those for the same model, and one for another
        model that has waited for memory longer than is fair."""
        earlier = self._queue[: self._queue.index(lease)]
        same = sum(other.card.name == lease.card.name for other in earlier)
        now = time.monotonic()
        starving = any(
            other.card.name not in self._entries and now - other.asked_s > PATIENCE_S
            for other in earlier
        )
        return same or int(starving)

    def _may_use(self, entry: Entry[B], lease: Lease[B]) -> bool:
        """Whether there is a place, and room for the workspace. Idle models make that room."""
        self._check_fits(lease)
        if entry.leases >= entry.card.concurrency:
            return False
        room = self.budget_bytes - self._used()
        others = (e.resident() for e in self._entries.values() if e is not entry)
        for name in victims(lease.workspace_bytes, room, others) or ():
            args, title = self._retire(name), f"evict {name}"
            threading.Thread(target=self._close, args=args, daemon=True, name=title).start()
            lease.evicted = (*lease.evicted, name)
        return lease.workspace_bytes <= room

    def _grant(self, entry: Entry[B], lease: Lease[B]) -> None:
        entry.leases += 1
        entry.uses += 1
        entry.last_used_s = time.monotonic()
        self._queue.remove(lease)
        self._leases.add(lease)
        lease.granted = True

    def _check_fits(self, lease: Lease[B]) -> int:
        """The bytes `lease` needs in all. Raises CapacityError where they never fit."""
        needed = footprint(lease.card).resident + lease.workspace_bytes
        if needed > self.budget_bytes:
            raise CapacityError(
                f"{lease.card.title} needs {needed / 1e9:.2f} GB and the budget is "
                f"{self.budget_bytes / 1e9:.2f} GB. Raise --budget, or choose a smaller model."
            )
        return needed

    def _admit(self, lease: Lease[B]) -> Progress:
        needed = self._check_fits(lease)
        # What is still being loaded is promised, though the device may not show it yet.
        promised = sum(entry.promised_bytes for entry in self._entries.values())
        free = min(self.budget_bytes - self._used(), self.device.free_bytes() - promised)
        gone = victims(needed, free, (entry.resident() for entry in self._entries.values()))
        size = needed - lease.workspace_bytes
        if gone is None:
            return self._cannot_admit(lease, needed, free)
        charged = max(size, sum(self._entries[name].charged_bytes for name in gone))
        leaving = [self._retire(name) for name in gone]
        for victim, _model in leaving:
            victim.charged_bytes = 0
        entry = Entry[B](
            lease.card, size, charged, Progress(f"Loading {lease.card.title}"), promised_bytes=size
        )
        self._entries[lease.card.name] = lease.entry = entry
        lease.evicted = gone
        decision = Decision(lease.card.name, needed, free, gone, 0.0)
        args, name = (entry, leaving, lease, decision), f"load {lease.card.name}"
        threading.Thread(target=self._load, args=args, daemon=True, name=name).start()
        return entry.progress

    def _cannot_admit(self, lease: Lease[B], needed: int, free: int) -> Progress:
        if any(entry.leases or entry.backend is None for entry in self._entries.values()):
            return Progress(f"Waiting for memory for {lease.card.title}")
        raise CapacityError(
            f"{lease.card.title} needs {needed / 1e9:.2f} GB and only {max(free, 0) / 1e9:.2f} GB "
            f"of {self.device.name} memory is free. Close other programs and send it again."
        )

    def _retire(self, name: str) -> _Leaving[B]:
        """Take the model from an idle entry. The entry stays until the model is closed, so that
        nobody loads a second copy beside it."""
        entry = self._entries[name]
        backend, entry.backend = entry.backend, None
        if backend is None:
            raise BackendError(f"{entry.card.title} is not there to be unloaded")
        entry.progress = Progress(f"Unloading {entry.card.title}")
        return entry, backend

    # ------------------------------------------------------------ outside the lock

    def _load(
        self, entry: Entry[B], leaving: list[_Leaving[B]], lease: Lease[B], decision: Decision
    ) -> None:
        error: MultimodalError | None = None
        try:
            for victim, model in leaving:
                self._close(victim, model)
            with self._changed:
                entry.charged_bytes = entry.size_bytes
                self._changed.notify_all()
            backend = self._bring(entry, lease)
        except MultimodalError as fault:
            error = fault
        except Exception as fault:
            error = BackendError(f"{entry.card.title} could not be loaded: {fault}")
        with self._changed:
            entry.promised_bytes = 0
            if error is None:
                entry.backend = backend
            else:
                self._forget(entry, error)
            told = str(error) if error else None
            self._decisions.append(replace(decision, seconds=entry.load_s, error=told))
            self._changed.notify_all()

    def _bring(self, entry: Entry[B], lease: Lease[B]) -> B:
        files = self._source.fetch(entry.card, lambda progress: self._report(entry, progress))
        self._report(entry, Progress(f"Loading {entry.card.title}"))
        started_s, begun = self.device.now_s(), time.monotonic()
        try:
            self.device.hold(entry.card.name, entry.size_bytes)
            if self.device.simulated:
                entry.promised_bytes = 0
            return self._source.load(entry.card, files, self.device.engine)
        finally:
            entry.load_s = self.device.now_s() - started_s
            lease.load_s = time.monotonic() - begun

    def _forget(self, entry: Entry[B], error: MultimodalError) -> None:
        """Take a failed load off the ledger, and tell everyone who waits for that model."""
        entry.error = error
        for waiting in self._queue:
            if waiting.card.name == entry.card.name:
                waiting.entry = entry
        del self._entries[entry.card.name]
        self.device.drop(entry.card.name)

    def _report(self, entry: Entry[B], progress: Progress) -> None:
        with self._changed:
            entry.progress = progress
            self._changed.notify_all()

    def _close(self, entry: Entry[B], backend: B) -> None:
        """Close a retired model and take it off the ledger, even where closing fails."""
        try:
            backend.close()
        except Exception:
            log.exception("%s could not be closed", entry.card.title)
        with self._changed:
            self.device.drop(entry.card.name)
            del self._entries[entry.card.name]
            self._changed.notify_all()

    def _release(self, lease: Lease[B]) -> None:
        with self._changed:
            if lease in self._queue:
                self._queue.remove(lease)
            if lease in self._leases and lease.entry is not None:
                self._leases.remove(lease)
                lease.entry.leases -= 1
                lease.entry.last_used_s = time.monotonic()
            self._changed.notify_all()
