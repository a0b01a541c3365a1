"""A model's place on the device, and a turn's right to use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CapacityError, MultimodalError, TurnStoppedError
from multimodal.events import Progress
from multimodal.memory.eviction import Resident

MAX_WAIT_S = 900.0


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


class Grants(Protocol[B]):
    """What a lease asks of its manager."""

    def advance(self, lease: Lease[B]) -> Progress | None: ...

    def pause(self) -> None: ...


@dataclass(eq=False)
class Lease(Generic[B]):
    """A place in the queue, then the right to use one model. Made by `MemoryManager.lease`."""

    card: ModelCard
    workspace_bytes: int
    stop: threading.Event
    manager: Grants[B]
    asked_s: float = field(default_factory=time.monotonic)
    idle_since_s: float = field(default_factory=time.monotonic)
    """Since when nothing was done for it; loading its model is something."""
    wait_s: float = 0.0
    load_s: float = 0.0
    evicted: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    """What had to be given up to make room on the device, in words."""
    entry: Entry[B] | None = None
    granted: bool = False
    oom_recovery_steps: Iterator[Callable[[], str | None]] | None = None
    """What may still be done if the device is full in mid-turn."""
    cpu_fallback: B | None = None
    """The same model on the CPU, for this turn only."""
    alone: bool = False
    """Whether no other turn used the device while this one did."""

    def wait(self) -> Iterator[Progress]:
        """Yield what is being waited for until the model may be used.

        Raises CapacityError (never fits, or waited too long), the error of a failed load, and
        TurnStoppedError when the turn's stop was set.
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

    def check_patience(self, loading: bool) -> None:
        """Raise CapacityError after too long a wait; while the model loads, nothing is counted."""
        now = time.monotonic()
        if loading:
            self.idle_since_s = now
        if now - self.idle_since_s > MAX_WAIT_S:
            raise CapacityError(
                f"{self.card.title} was busy for {MAX_WAIT_S / 60:.0f} minutes. "
                "Send the message again later."
            )

    @property
    def is_measured(self) -> bool:
        """Whether what the device saw taken while it was used is what this turn took."""
        there = self.entry is not None and not self.entry.is_partial
        return self.alone and self.cpu_fallback is None and there

    @property
    def backend(self) -> B:
        if self.cpu_fallback is not None:
            return self.cpu_fallback
        if self.entry is None or self.entry.backend is None or not self.granted:
            raise BackendError(f"{self.card.title} was used before it was leased")
        return self.entry.backend
