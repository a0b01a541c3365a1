"""A model's place on the device, and a turn's right to use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, MultimodalError
from multimodal.events import Progress
from multimodal.memory.eviction import Resident
from multimodal.memory.reservation import Reservation


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
