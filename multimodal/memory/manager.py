"""One budget for all models: who is on the device, who may come, who must go, who waits.

A turn takes one lease at a time, so it never waits while it holds. The ledger is kept under one
lock; loading, closing and downloading happen outside it. Bytes are charged before anything is
allocated: while a victim leaves for a newcomer, the larger of the two is charged.

Beside a card there may be a second manager, of host memory: it keeps the models whose engines run
on the CPU only, under a budget of its own, and nothing of them is charged to the card.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic

from multimodal.catalog.cards import ModelCard
from multimodal.errors import (
    BackendError,
    DeviceFullError,
    DeviceLostError,
    MultimodalError,
    TurnStoppedError,
)
from multimodal.events import Progress
from multimodal.memory.devices.base import Device
from multimodal.memory.devices.device_errors import device_error
from multimodal.memory.estimate.footprint import cpu_footprint, footprint
from multimodal.memory.eviction import victims
from multimodal.memory.lease import B, Entry, Lease
from multimodal.memory.ledger import Ledger
from multimodal.memory.peaks import Peaks
from multimodal.memory.records import Decision, Snapshot
from multimodal.memory.reservation import Reservation
from multimodal.memory.transfers import ModelSource, Transfers
from multimodal.messages import Task
from multimodal.sizes import gigabytes

POLL_S = 0.1

_Leaving = tuple[Entry[B], B]


class MemoryManager(Generic[B]):
    """Keeps the models of one device inside `budget_bytes`. Every method is thread-safe."""

    def __init__(
        self,
        device: Device,
        budget_bytes: int,
        source: ModelSource[B],
        peaks: Peaks | None = None,
        host: MemoryManager[B] | None = None,
    ) -> None:
        self.device = device
        self._host = host
        self._peaks = peaks or Peaks()
        self.budget_bytes = min(budget_bytes, device.usable_bytes())
        device.set_limit(self.budget_bytes)
        self._transfers = Transfers(device, source)
        self._changed = threading.Condition()
        self._beside = threading.Lock()
        self._ledger: Ledger[B] = Ledger(self.budget_bytes)

    @contextmanager
    def lease(
        self,
        card: ModelCard,
        stop: threading.Event,
        workspace_bytes: int | None = None,
        adapter_bytes: int = 0,
    ) -> Iterator[Lease[B]]:
        """Queue for `card`; `lease.wait()` must be exhausted before `lease.backend` is used.

        `workspace_bytes` are what this turn takes beside the model; the card's own unless given.
        `adapter_bytes`: those of an adapter that is on the model during this turn.
        """
        if (host := self._host_for(card)) is not None:
            with host.lease(card, stop, workspace_bytes, adapter_bytes) as lease:
                yield lease
            return
        self._check_device()
        if workspace_bytes is None:
            size = footprint(card, factors=self.device.factors)
            most = self.budget_bytes - size.resident - adapter_bytes
            workspace_bytes = self._peaks.workspace(card.name, size.workspace, most)
        workspace_bytes += adapter_bytes
        lease = Lease[B](
            title=card.title, size_bytes=workspace_bytes, stop=stop, manager=self, card=card
        )
        with self._changed:
            self._ledger.queue.append(lease)
        try:
            with self._losses_told():
                yield lease
        finally:
            with self._changed:
                # Of a turn that found the device full, this is the least that it needed.
                peak = self.device.turn_peak_bytes() if lease.is_measured else 0
                self._ledger.release(lease)
                part = self._ledger.begin_partial_eviction(card.name)
                self._changed.notify_all()
            if part is not None:
                self._send_away(*part)
            if lease.cpu_fallback is not None:
                self._transfers.close_on_cpu(card, lease.cpu_fallback)
                lease.cpu_fallback = None
            self._peaks.learn(card.name, peak - adapter_bytes)

    @contextmanager
    def reserve(
        self, title: str, size_bytes: int, stop: threading.Event, least_bytes: int | None = None
    ) -> Iterator[Reservation]:
        """Queue for bytes of the device for work that needs no model of the catalog;
        `reservation.wait()` must be exhausted before they are used, and raises CapacityError,
        before anything is evicted, where they never fit."""
        self._check_device()
        reservation = Reservation(
            title=title, size_bytes=size_bytes, stop=stop, manager=self, least_bytes=least_bytes
        )
        with self._changed:
            self._ledger.queue.append(reservation)
        try:
            with self._losses_told():
                yield reservation
        finally:
            with self._changed:
                self._ledger.give_back(reservation)
                self._changed.notify_all()

    def shrink(self, reservation: Reservation, size_bytes: int) -> None:
        """Its holder goes on with `size_bytes`; to be called once the rest is free on the
        device."""
        with self._changed:
            self._ledger.shrink(reservation, size_bytes)
            self._changed.notify_all()

    def recover_from_oom(self, reservation: Reservation) -> str | None:
        """Take one step more for who found the device full: what was done, in words, or None when
        nothing is left to do."""
        host = self._host_for(reservation.card) if isinstance(reservation, Lease) else None
        if host is not None:
            return host.recover_from_oom(reservation)
        if reservation.oom_recovery_steps is None:
            reservation.oom_recovery_steps = self._transfers.oom_recovery_steps(
                lambda count: self._evict_idle(reservation, count), in_turn=True
            )
        step = next(reservation.oom_recovery_steps, None)
        return step() if step else None

    def cpu_fallback(self, lease: Lease[B]) -> str | None:
        """The last step: load a second copy on the CPU, for this turn only, so that the next one
        tries the device again. What was done, in words, or None where host memory has no room, and
        for a model that draws, which takes twice as much there and far longer.

        A mirror is never run there: 4-bit kernels for the CPU repack its weights in place.
        """
        needless = lease.card.task is Task.DRAW or self._host_for(lease.card) is not None
        if lease.cpu_fallback is not None or needless:
            return None
        with self._changed:
            self._ledger.leave_queue(lease)
            self._changed.notify_all()
        with self._beside:  # one after another, so that each sees what the others took
            if cpu_footprint(lease.card).total > self.device.cpu_free_bytes():
                return None
            lease.cpu_fallback = self._transfers.load_on_cpu(lease.card)
        if lease.stop.is_set():
            raise TurnStoppedError("stopped while loading on the CPU")
        return f"The device was full; {lease.card.title} runs on the CPU this time, which is slow."

    def unload(self, name: str) -> bool:
        """Close an idle model, or one that waits in host memory to come back; False when it is in
        neither place, or in use."""
        with self._changed:
            is_idle = name in self._ledger.idle()
            if is_idle:
                entry, model = self._ledger.begin_eviction(name)
        if not is_idle:
            if self._transfers.close_parked(name):
                return True
            return self._host is not None and self._host.unload(name)
        self._transfers.close(name, model)
        self._off(entry)
        return True

    def snapshot(self) -> Snapshot:
        with self._changed:
            books = self._ledger
            found = Snapshot(
                self.device.name,
                self.device.simulated,
                self.budget_bytes,
                books.used_bytes,
                books.workspace_bytes,
                books.held_entries,
                self._transfers.mirrored_entries,
                len(books.queue),
                tuple(books.decisions),
                books.decided,
                failure=self.device.failure,
                reserved=tuple((held.title, held.size_bytes) for held in books.reservations),
            )
        return found if self._host is None else _with_host(found, self._host.snapshot())

    def close(self) -> None:
        """Unload everything that is idle; for the end of the program."""
        for held in self.snapshot().held:
            self.unload(held.card)
        self._transfers.forget()

    @property
    def host(self) -> MemoryManager[B] | None:
        """The manager of host memory beside the device, where there is one."""
        return self._host

    def is_on_host(self, card: ModelCard) -> bool:
        """Whether that model is kept in host memory beside the device, and takes nothing of its
        budget."""
        return self._host_for(card) is not None

    def is_placed_here(self, card: ModelCard) -> bool:
        """Whether that model is one for this device."""
        return True

    def budget_for(self, card: ModelCard) -> int:
        """What that model, and others on the same device, may take, in bytes."""
        host = self._host_for(card)
        return self.budget_bytes if host is None else host.budget_bytes

    @property
    def mirrors(self) -> Transfers[B]:
        """What host memory holds of models that left the device."""
        return self._transfers

    def _host_for(self, card: ModelCard) -> MemoryManager[B] | None:
        """The manager of host memory, where there is one and the card's engine runs there only."""
        return self._host if self._host is not None and self._host.is_placed_here(card) else None

    def _check_device(self) -> None:
        """Raise DeviceLostError once the device cannot be used any more."""
        if self.device.failure:
            raise DeviceLostError(self.device.failure)

    @contextmanager
    def _losses_told(self) -> Iterator[None]:
        """Raise DeviceLostError for every error that says that the device is lost, and remember
        that it is."""
        try:
            yield
        except Exception as error:
            told = error if isinstance(error, MultimodalError) else device_error(error)
            if not isinstance(told, DeviceLostError):
                raise
            self.device.failure = self.device.failure or str(told)
            if told is error:
                raise
            raise told from error

    # ------------------------------------------------------------ what a lease uses

    def try_grant(self, reservation: Reservation) -> Progress | None:
        """Take one step towards granting it; None once it is granted."""
        self._check_device()
        if isinstance(reservation, Lease):
            return self._advance_lease(reservation)
        with self._changed:
            reservation.check_patience()
            needed = self._ledger.needed_bytes(reservation)
            if self._ledger.count_ahead(reservation) or not self._make_room(reservation, needed):
                return self._ledger.waiting(reservation, needed)
            self._ledger.reserve(reservation)
            return None

    def _advance_lease(self, lease: Lease[B]) -> Progress | None:
        with self._changed:
            if lease.entry is not None and (error := lease.entry.error) is not None:
                raise type(error)(str(error)) from error
            entry = self._ledger.entries.get(lease.card.name)
            lease.check_patience(loading=entry is not None and entry.backend is None)
            if (ahead := self._ledger.count_ahead(lease)) > 0:
                return Progress(f"Waiting for {lease.card.title}: {ahead} before you")
            if entry is None:
                return self._admit(lease)
            lease.entry = entry
            if entry.backend is None:
                return entry.progress
            self._ledger.needed_bytes(lease)
            has_place = entry.leases < entry.card.concurrency
            if not (has_place and self._make_room(lease, lease.size_bytes, entry)):
                return Progress(f"Waiting for {lease.card.title}: you are next")
            self._ledger.grant(entry, lease)
            if lease.exclusive:
                self.device.reset_turn_peak()
            return None

    def wait_for_change(self) -> None:
        """Sleep until something changed, or a moment has passed."""
        with self._changed:
            self._changed.wait(POLL_S)

    # ------------------------------------------------------------ under the lock

    def _make_room(
        self, reservation: Reservation, needed: int, entry: Entry[B] | None = None
    ) -> bool:
        """Whether so many bytes are free now. Idle models begin to leave for them, but for the one
        of `entry`."""
        books, room = self._ledger, max(0, self._free_bytes())
        gone = victims(needed, room + books.leaving_bytes, books.residents(entry))
        if gone is None:
            self._cannot_admit(reservation, needed, room, entry)
        for name in gone or ():
            args, title = books.begin_eviction(name), f"evict {name}"
            threading.Thread(target=self._send_away, args=args, daemon=True, name=title).start()
            reservation.evicted = (*reservation.evicted, name)
        return needed <= room

    def _admit(self, lease: Lease[B]) -> Progress:
        books, needed = self._ledger, self._ledger.needed_bytes(lease)
        free, size = self._free_bytes(), needed - lease.size_bytes
        if (gone := victims(needed, free, books.residents())) is None:
            return self._cannot_admit(lease, needed, free)
        charged = max(size, sum(books.entries[name].charged_bytes for name in gone))
        leaving = [books.begin_eviction(name) for name in gone]
        for victim, _model in leaving:
            victim.charged_bytes = 0
        entry = Entry[B](
            lease.card, size, charged, Progress(f"Loading {lease.card.title}"), promised_bytes=size
        )
        books.entries[lease.card.name] = lease.entry = entry
        books.mark_shared()
        lease.evicted = gone
        decision = Decision(lease.card.name, needed, free, gone, 0.0)
        args, name = (entry, leaving, lease, decision), f"load {lease.card.name}"
        threading.Thread(target=self._load, args=args, daemon=True, name=name).start()
        return entry.progress

    def _free_bytes(self) -> int:
        """By the books, or by the device's own count where other programs took some."""
        books = self._ledger
        return min(
            self.budget_bytes - books.used_bytes, self.device.free_bytes() - books.loading_bytes
        )

    def _cannot_admit(
        self, reservation: Reservation, needed: int, free: int, entry: Entry[B] | None = None
    ) -> Progress:
        books = self._ledger
        idle = sum(resident.size_bytes for resident in books.residents(entry) if resident.idle)
        books.request_shrink(needed - free - idle)
        used = any(entry.leases or entry.backend is None for entry in books.entries.values())
        if used or books.reservations:
            return books.waiting(reservation, needed)
        raise DeviceFullError(
            f"{reservation.title} needs {gigabytes(needed)} and only {gigabytes(max(free, 0))} "
            f"of {self.device.name} memory is free. Close other programs and {reservation.again}."
        )

    # ------------------------------------------------------------ outside the lock

    def _load(
        self, entry: Entry[B], leaving: list[_Leaving[B]], lease: Lease[B], decision: Decision
    ) -> None:
        error: MultimodalError | None = None
        try:
            for victim, model in leaving:
                self._send_away(victim, model)
            with self._changed:
                entry.charged_bytes = entry.size_bytes
                self._changed.notify_all()
            decision = self._load_model(entry, lease, decision)
        except MultimodalError as fault:
            error = fault
        except Exception as fault:
            told = device_error(fault, entry.card.title)
            error = told or BackendError(f"{entry.card.title} could not be loaded: {fault}")
        with self._changed:
            entry.promised_bytes = 0
            if error is not None:
                self._ledger.fail_load(entry, error)
                self.device.remove(entry.card.name)
                decision = replace(decision, victims=lease.evicted, error=str(error))
            self._ledger.record_decision(decision)
            has_waiters = self._ledger.has_waiters(entry.card.name)
            part = None if has_waiters else self._ledger.begin_partial_eviction(entry.card.name)
            self._changed.notify_all()
        if part is not None:  # whoever it was loaded for has gone
            self._send_away(*part)
            return
        if decision.how == "restored" and (seconds := self.device.wait_for_copies(entry.card.name)):
            with self._changed:
                self._ledger.set_load_seconds(decision, seconds)

    def _load_model(self, entry: Entry[B], lease: Lease[B], decision: Decision) -> Decision:
        """Load the model of `entry`, and return the decision with how that went."""

        def report(progress: Progress) -> None:
            with self._changed:
                entry.progress = progress
                self._changed.notify_all()

        begun = time.monotonic()
        loaded = self._transfers.load(
            entry.card,
            entry.size_bytes,
            report,
            lambda count: self._evict_idle(lease, count),
            lambda: self._admitted(entry),
        )
        lease.load_s = time.monotonic() - begun
        lease.notices = loaded.recoveries
        reload_s = self.device.reload_s(entry.card.name, entry.size_bytes, loaded.seconds)
        with self._changed:
            entry.size_bytes = max(entry.size_bytes, loaded.true_bytes)
            entry.charged_bytes = entry.size_bytes
            entry.load_s, entry.backend = reload_s, loaded.model
            entry.is_partial = loaded.is_partial
        return replace(
            decision,
            victims=lease.evicted,
            seconds=loaded.seconds,
            how=loaded.how,
            moved_bytes=entry.size_bytes,
            true_bytes=loaded.true_bytes,
            recoveries=loaded.recoveries,
        )

    def _admitted(self, entry: Entry[B]) -> None:
        """A simulated card shows what it holds at once; a real one only once it is loaded."""
        if self.device.simulated:
            with self._changed:
                entry.promised_bytes = 0

    def _evict_idle(self, reservation: Reservation, count: int | None) -> int:
        """Send away up to `count` idle models (None: all); returns how many there were."""
        with self._changed:
            names = self._ledger.idle()[:count]
            leaving = [self._ledger.begin_eviction(name) for name in names]
            reservation.evicted = (*reservation.evicted, *names)
        for victim, model in leaving:
            self._send_away(victim, model)
        return len(leaving)

    def _send_away(self, entry: Entry[B], model: B) -> None:
        """Park or close a retired model and take it off the ledger."""
        self._transfers.evict(entry.card, model, entry.size_bytes)
        self._off(entry)

    def _off(self, entry: Entry[B]) -> None:
        with self._changed:
            self.device.remove(entry.card.name)
            del self._ledger.entries[entry.card.name]
            self._changed.notify_all()


def _with_host(card: Snapshot, host: Snapshot) -> Snapshot:
    """What a card holds, with what is held in host memory beside it."""
    beside = (replace(held, place="host") for held in host.held)
    return replace(
        card,
        held=(*card.held, *beside),
        host_bytes=host.used_bytes,
        waiting=card.waiting + host.waiting,
        decisions=(*host.decisions, *card.decisions),
        decided=card.decided + host.decided,
    )
