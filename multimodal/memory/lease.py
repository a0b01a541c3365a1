"""A place in the queue for bytes of a device, then those bytes until they are given back.

A turn's lease is a reservation with a model. By itself it is what other work holds: a training job,
an evaluation, a program that the user runs beside this one. Models that nobody uses leave for it.
What is reserved is never taken back by force: where a turn lacks room, whoever holds a reservation
is asked, sees `wanted_bytes` between two of its steps, and shrinks or ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CapacityError, MultimodalError, TurnStoppedError
from multimodal.events import Progress
from multimodal.memory.eviction import Resident

MAX_WAIT_S = 900.0


class ReservationManager(Protocol):
    """What a reservation asks of its manager."""

    def advance(self, reservation: Reservation) -> Progress | None: ...

    def pause(self) -> None: ...


@dataclass(eq=False, kw_only=True)
class Reservation:
    """`size_bytes` of the device; of a lease, what the turn takes beside its model. Made by
    `MemoryManager.reserve` and `MemoryManager.lease`."""

    title: str
    """For people: what needs the bytes."""
    size_bytes: int
    stop: threading.Event
    manager: ReservationManager
    least_bytes: int | None = None
    """What its holder can go on with when it is asked to shrink, 0 if it would rather end; None
    for one that is never asked."""
    wanted_bytes: int = 0
    """How much its holder is asked to give back, at least."""
    asked_s: float = field(default_factory=time.monotonic)
    idle_since_s: float = field(default_factory=time.monotonic)
    """Since when nothing was done for it; loading its model is something."""
    wait_s: float = 0.0
    load_s: float = 0.0
    evicted: tuple[str, ...] = ()
    granted: bool = False
    waits_on: tuple[str, ...] = ()
    """Titles of the jobs that must give back bytes before it can be granted."""
    again: ClassVar[str] = "start it again"
    """For people: what to do once it was refused."""
    oom_recovery_steps: Iterator[Callable[[], str | None]] | None = None
    """What may still be done if the device is full although the bytes were granted."""

    def wait(self) -> Iterator[Progress]:
        """Yield what is being waited for until it is granted.

        Raises CapacityError (never fits, or waited too long), the error of a failed load, and
        TurnStoppedError when `stop` was set.
        """
        shown = None
        while True:
            if self.stop.is_set():
                raise TurnStoppedError("stopped while waiting")
            if (state := self.manager.advance(self)) is None:
                break
            if state != shown:
                shown = state
                yield state
            self.manager.pause()
        self.wait_s = time.monotonic() - self.asked_s - self.load_s

    def check_patience(self, loading: bool = False) -> None:
        """Raise CapacityError after too long a wait; while the model loads, nothing is counted."""
        now = time.monotonic()
        if loading:
            self.idle_since_s, self.waits_on = now, ()
        if now - self.idle_since_s > MAX_WAIT_S:
            minutes = f"{MAX_WAIT_S / 60:.0f} minutes"
            raise CapacityError(f"{self.describe_wait(minutes)}. {self.again.capitalize()} later.")

    def describe_wait(self, minutes: str) -> str:
        """That it waited so long, for a person."""
        return f"{self.title} waited {minutes} for memory{self.holders}"

    @property
    def holders(self) -> str:
        """“, held by Fine-tuning”; nothing where it waits on no job."""
        return f", held by {' and '.join(self.waits_on)}" if self.waits_on else ""

    @property
    def spare_bytes(self) -> int:
        """What its holder may be asked to give back."""
        return 0 if self.least_bytes is None else max(0, self.size_bytes - self.least_bytes)


class Closable(Protocol):
    def close(self) -> None: ...


B = TypeVar("B", bound=Closable)


@dataclass(eq=False)
class Entry(Generic[B]):
    """A model on the device, or on its way there or away (`backend` is None).

    `charged_bytes` count against the budget, `promised_bytes` are not yet taken from the device.
    """

    card: ModelCard
    size_bytes: int
    charged_bytes: int
    progress: Progress
    promised_bytes: int = 0
    backend: B | None = None
    leaves: bool = False
    is_partial: bool = False
    """Whether some of its layers only visit the device, so that the next turn tries all of it."""
    error: MultimodalError | None = None
    leases: int = 0
    uses: int = 0
    load_s: float = 0.0
    last_used_s: float = 0.0

    def resident(self) -> Resident:
        leases = self.leases if self.backend else 1
        return Resident(
            self.card.name, self.size_bytes, leases, self.load_s, self.uses, self.last_used_s
        )


@dataclass(eq=False, kw_only=True)
class Lease(Reservation, Generic[B]):
    """A place in the queue, then the right to use one model. Made by `MemoryManager.lease`."""

    card: ModelCard
    again: ClassVar[str] = "send the message again"
    notices: tuple[str, ...] = ()
    """What had to be given up to make room on the device, in words."""
    entry: Entry[B] | None = None
    cpu_fallback: B | None = None
    """The same model on the CPU, for this turn only."""
    exclusive: bool = False
    """Whether no other turn used the device while this one did."""

    def describe_wait(self, minutes: str) -> str:
        if self.waits_on:
            return super().describe_wait(minutes)
        return f"{self.title} was busy for {minutes}"

    @property
    def is_measured(self) -> bool:
        """Whether what the device saw taken while it was used is what this turn took."""
        there = self.entry is not None and not self.entry.is_partial
        return self.exclusive and self.cpu_fallback is None and there

    @property
    def backend(self) -> B:
        if self.cpu_fallback is not None:
            return self.cpu_fallback
        if self.entry is None or self.entry.backend is None or not self.granted:
            raise BackendError(f"{self.card.title} was used before it was leased")
        return self.entry.backend
