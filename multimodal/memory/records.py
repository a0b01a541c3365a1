"""What the memory manager did and how things stand: values for the page, `/metrics` and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["loading", "ready"]
Place = Literal["device", "host"]
How = Literal["loaded", "restored"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One admission. Sizes in bytes; `seconds` on the device's clock, without the download.

    `moved_bytes` came onto the device; `true_bytes` is what a loaded model was measured to hold, 0
    where that cannot be known; `recoveries` are what was done, in words, when the device itself
    was full; `error` is the sentence of a load that failed.
    """

    card: str
    needed_bytes: int
    free_bytes: int
    victims: tuple[str, ...]
    seconds: float
    how: How = "loaded"
    moved_bytes: int = 0
    true_bytes: int = 0
    recoveries: tuple[str, ...] = ()
    error: str | None = None

    @property
    def bytes_per_s(self) -> float:
        return self.moved_bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """A model as the ledger has it."""

    card: str
    size_bytes: int
    leases: int
    state: State
    place: Place = "device"
    """“host”: on the CPU beside a card, and nothing of it on the card."""


@dataclass(frozen=True, slots=True)
class MirroredEntry:
    """An evicted model whose weights stay in host memory."""

    card: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole ledger at one moment. `workspace_bytes` belong to the turns under way; `host_bytes`
    are held, and used, by models on the CPU beside a card, and are no part of `used_bytes`."""

    device: str
    simulated: bool
    budget_bytes: int
    used_bytes: int
    workspace_bytes: int
    held: tuple[HeldEntry, ...]
    mirrored: tuple[MirroredEntry, ...]
    waiting: int
    decisions: tuple[Decision, ...]
    decided: int
    """How many decisions there were since the start; `decisions` holds the newest."""
    host_bytes: int = 0
    failure: str = ""
    """Why the device cannot be used any more; empty while it can."""
    reserved: tuple[tuple[str, int], ...] = ()
    """Title and bytes of what other work than turns holds."""
