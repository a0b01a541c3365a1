"""Host memory beside a card: a second ledger, for models whose engines run on the CPU only.

They take turns among themselves under a budget of their own, and are admitted where the operating
system has that much free. Nothing of them is charged to the card, and no turn on the card waits
for one of them.
"""

from __future__ import annotations

from multimodal.memory.devices import Cpu
from multimodal.memory.lease import B
from multimodal.memory.ledger import Ledger
from multimodal.memory.manager import MemoryManager
from multimodal.memory.peaks import Peaks
from multimodal.memory.transfers import Source

HOST_SHARE = 0.125
"""Of a machine's memory. Mirrors of models that left the card may take half of it, and the rest is
for the program and others."""
LEAST_HOST_BYTES = 1_000_000_000
"""So that there is room for a voice on the smallest machine."""
TOO_LARGE = "{budget} of host memory are for models on the CPU. Choose a smaller model."


def host_bytes(memory_bytes: int) -> int:
    """The budget on a machine with that much memory."""
    return max(LEAST_HOST_BYTES, int(memory_bytes * HOST_SHARE))


class HostMemory(MemoryManager[B]):
    """The manager of the models on the CPU beside a card."""

    def __init__(self, budget_bytes: int, source: Source[B], peaks: Peaks | None = None) -> None:
        super().__init__(Cpu(), budget_bytes, source, peaks)
        self._ledger = Ledger[B](self.budget_bytes, TOO_LARGE)
