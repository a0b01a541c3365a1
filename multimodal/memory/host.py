"""Host memory beside a card: a second ledger, for models whose engines run on the CPU only.

They take turns among themselves under a budget of their own, and are admitted where the operating
system has that much free. Nothing of them is charged to the card, and no turn on the card waits
for one of them. Mirrors of models that left the card give way to them: a mirror saves seconds, and
without host memory a model here does not run at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multimodal.catalog.cards import ModelCard
from multimodal.memory.devices.base import HOST_SHARE, Cpu
from multimodal.memory.lease import B
from multimodal.memory.ledger import Ledger
from multimodal.memory.manager import MemoryManager
from multimodal.memory.peaks import Peaks
from multimodal.memory.transfers import ModelSource, Transfers

LEAST_HOST_BYTES = 1_000_000_000
"""So that there is room for a voice on the smallest machine."""
TOO_LARGE = "{budget} of host memory are for models on the CPU. Choose a smaller model."


def host_bytes(memory_bytes: int) -> int:
    """The budget on a machine with that much memory: with 16 GB, a 7B of four bits with a context
    of 4,096 tokens."""
    return max(LEAST_HOST_BYTES, int(memory_bytes * HOST_SHARE))


def is_cpu_only(card: ModelCard) -> bool:
    """Whether the card itself says so."""
    return card.device == "cpu"


class HostDevice(Cpu):
    """Host memory in which mirrors lie as well; they count as free, and go when they must."""

    name = "host"

    def __init__(self) -> None:
        self.mirrors: Transfers[Any] | None = None

    def available_bytes(self) -> int:
        """What the operating system has free."""
        return super().free_bytes()

    def free_bytes(self) -> int:
        return self.available_bytes() + (self.mirrors.parked_bytes if self.mirrors else 0)

    def begin_load(self, card: str, size_bytes: int, parked: bool = False) -> None:
        short = size_bytes - self.available_bytes()
        if short > 0 and self.mirrors is not None:
            self.mirrors.give_up(short)


class HostMemory(MemoryManager[B]):
    """The manager of the models on the CPU beside a card: those of which `runs_on_cpu` says so."""

    def __init__(
        self,
        budget_bytes: int,
        source: ModelSource[B],
        peaks: Peaks | None = None,
        runs_on_cpu: Callable[[ModelCard], bool] = is_cpu_only,
        device: HostDevice | None = None,
    ) -> None:
        self._memory = device or HostDevice()
        super().__init__(self._memory, budget_bytes, source, peaks)
        self._ledger = Ledger[B](self.budget_bytes, TOO_LARGE)
        self._runs_on_cpu = runs_on_cpu

    def is_placed_here(self, card: ModelCard) -> bool:
        return self._runs_on_cpu(card)

    def share_with(self, mirrors: Transfers[B]) -> None:
        """`mirrors` of the card lie in the same memory."""
        self._memory.mirrors = mirrors
