"""What the memory manager did and how things stand: values for the page, `/metrics` and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["loading", "ready"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One admission. Sizes in bytes; `seconds` on the device's clock, without the download."""

    card: str
    needed_bytes: int
    free_bytes: int
    victims: tuple[str, ...]
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A model as the ledger has it."""

    card: str
    size_bytes: int
    leases: int
    state: State


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole ledger at one moment."""

    device: str
    simulated: bool
    budget_bytes: int
    used_bytes: int
    held: tuple[Held, ...]
    waiting: int
    decisions: tuple[Decision, ...]
