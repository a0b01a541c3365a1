"""Random histories of the memory manager, checked after every step."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from fakes import FakeBackend, FakeSource, card
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from multimodal.errors import BackendError, MultimodalError, TurnStoppedError
from multimodal.memory.devices import Simulated
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager

BUDGET = 100
CARDS = [card(f"m{size}", size=size, concurrency=2) for size in (20, 35, 50, 80)]


class Memory(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.device = Simulated(BUDGET)
        self.source = FakeSource()
        self.memory: MemoryManager[FakeBackend] = MemoryManager(self.device, BUDGET, self.source)
        self.open: list[Lease[FakeBackend]] = []

    @rule(target=leases, index=st.integers(0, 3), workspace=st.integers(0, 15))
    def take(self, index: int, workspace: int) -> tuple[ExitStack, Lease[FakeBackend]] | None:
        stop = threading.Event()
        with ExitStack() as stack:
            lease = stack.enter_context(self.memory.lease(CARDS[index], stop, workspace))
            try:
                for progress in lease.wait():
                    if progress.text.startswith("Waiting"):
                        stop.set()
            except (TurnStoppedError, MultimodalError):
                return None
            self.open.append(lease)
            return stack.pop_all(), lease
        return None

    @rule(held=consumes(leases))
    def give_back(self, held: tuple[ExitStack, Lease[FakeBackend]] | None) -> None:
        if held is not None:
            self.open.remove(held[1])
            held[0].close()

    @rule()
    def next_load_runs_out_of_memory(self) -> None:
        self.device.fail_next = 1

    @rule()
    def next_load_fails(self) -> None:
        self.source.fail.append(BackendError("injected"))

    @rule(index=st.integers(0, 3))
    def unload(self, index: int) -> None:
        self.memory.unload(CARDS[index].name)

    @invariant()
    def the_budget_is_never_exceeded(self) -> None:
        assert self.memory.snapshot().used_bytes <= BUDGET

    @invariant()
    def the_ledger_is_the_sum_of_what_is_there(self) -> None:
        snapshot = self.memory.snapshot()
        models = sum(entry.size_bytes for entry in snapshot.held)
        assert snapshot.used_bytes == models + sum(lease.workspace_bytes for lease in self.open)
        assert self.device.free_bytes() == BUDGET - models
        assert snapshot.waiting == 0

    @invariant()
    def what_is_leased_is_there(self) -> None:
        leases = {entry.card: entry.leases for entry in self.memory.snapshot().held}
        for lease in self.open:
            assert not lease.backend.closed
        assert sum(leases.values()) == len(self.open)


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
