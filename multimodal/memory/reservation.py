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
from typing import ClassVar, Protocol

from multimodal.errors import CapacityError, TurnStoppedError
from multimodal.events import Progress

MAX_WAIT_S = 900.0


class ReservationManager(Protocol):
    """What a reservation asks of its manager."""

    def try_grant(self, reservation: Reservation) -> Progress | None: ...

    def wait_for_change(self) -> None: ...


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
            if (state := self.manager.try_grant(self)) is None:
                break
            if state != shown:
                shown = state
                yield state
            self.manager.wait_for_change()
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
