"""Random histories of the memory manager, checked after every step."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from conftest import wait_until
from fakes import FakeBackend, FakeSource, card
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from multimodal.errors import BackendError, DeviceLostError, MultimodalError
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager
from multimodal.memory.simulated import Simulated

BUDGET, CAPACITY, HOST = 100, 130, 60
CARDS = [card(f"m{size}", size=size, concurrency=2) for size in (20, 35, 50, 80)]


class Turn:
    """A lease that is asked for, stepped and given back by hand."""

    def __init__(self, memory: MemoryManager[FakeBackend], index: int, workspace: int) -> None:
        self.stack = ExitStack()
        lease = memory.lease(CARDS[index], threading.Event(), workspace)
        self.lease: Lease[FakeBackend] = self.stack.enter_context(lease)


class Memory(RuleBasedStateMachine):
    turns = Bundle("turns")

    def __init__(self) -> None:
        super().__init__()
        self.device = Simulated(CAPACITY, host_bytes=HOST, slab_bytes=10)
        self.source = FakeSource()
        self.memory: MemoryManager[FakeBackend] = MemoryManager(self.device, BUDGET, self.source)
        self.granted: list[Turn] = []
        self.waiting: list[Turn] = []
        self.is_lost_at_last = False

    @rule(target=turns, index=st.integers(0, 3), workspace=st.integers(0, 30))
    def ask(self, index: int, workspace: int) -> Turn:
        turn = Turn(self.memory, index, workspace)
        self.waiting.append(turn)
        return turn

    @rule()
    def everyone_waits_a_moment(self) -> None:
        for turn in list(self.waiting):
            try:
                granted = self.memory.advance(turn.lease) is None
            except MultimodalError:
                self.leave(turn)
                continue
            if granted:
                self.waiting.remove(turn)
                self.granted.append(turn)
            self.settle()

    @rule(turn=consumes(turns))
    def leave(self, turn: Turn) -> None:
        for turns in (self.waiting, self.granted):
            if turn in turns:
                turns.remove(turn)
        turn.stack.close()

    @rule(
        trouble=st.sampled_from(["full device", "broken model", "hanging loads"]),
        times=st.integers(1, 5),
    )
    def something_goes_wrong(self, trouble: str, times: int) -> None:
        if trouble == "full device":
            self.device.fail_next = times
        elif trouble == "broken model":
            self.source.fail = [BackendError("injected")]
        else:
            self.source.gate.clear()

    @rule()
    def the_card_is_lost_at_last(self) -> None:
        self.is_lost_at_last = True

    @rule()
    def loads_go_on(self) -> None:
        self.source.gate.set()
        self.settle()

    @rule(index=st.integers(0, 3))
    def unload(self, index: int) -> None:
        name = CARDS[index].name
        in_use = any(turn.lease.card.name == name for turn in self.granted)
        assert not (self.memory.unload(name) and in_use)

    def settle(self) -> None:
        """Let what was begun in other threads end, unless it is held up on purpose."""
        if self.source.gate.is_set():
            wait_until(lambda: not self.loading(), 5, every_s=0.001)

    def loading(self) -> bool:
        return any(entry.state == "loading" for entry in self.memory.snapshot().held)

    @invariant()
    def the_budget_is_never_exceeded(self) -> None:
        assert self.memory.snapshot().used_bytes <= BUDGET

    @invariant()
    def what_is_leased_is_there_and_counted(self) -> None:
        snapshot = self.memory.snapshot()
        assert sum(entry.leases for entry in snapshot.held) == len(self.granted)
        assert snapshot.waiting == len(self.waiting)
        for turn in self.granted:
            assert not turn.lease.backend.closed

    @invariant()
    def at_rest_the_ledger_is_the_sum_of_what_is_there(self) -> None:
        if self.loading():
            return
        snapshot = self.memory.snapshot()
        models = sum(entry.size_bytes for entry in snapshot.held)
        workspaces = sum(turn.lease.workspace_bytes for turn in self.granted)
        assert snapshot.used_bytes == models + workspaces
        assert self.device.free_bytes() == CAPACITY - models
        alive = len(self.source.loaded) - len(self.source.closed)
        assert alive == len(snapshot.held) + len(snapshot.mirrored)
        assert not {held.card for held in snapshot.held} & {m.card for m in snapshot.mirrored}
        assert sum(mirror.size_bytes for mirror in snapshot.mirrored) <= HOST

    def one_more_is_refused(self) -> None:
        with (
            pytest.raises(DeviceLostError),
            self.memory.lease(CARDS[0], threading.Event()) as lease,
        ):
            list(lease.wait())

    def teardown(self) -> None:
        self.device.is_lost = self.is_lost_at_last
        self.source.gate.set()
        for turn in [*self.waiting, *self.granted]:
            self.leave(turn)
        self.settle()
        if self.is_lost_at_last:
            self.one_more_is_refused()
            loaded = len(self.source.loaded)
            self.one_more_is_refused()
            assert len(self.source.loaded) == loaded
        self.memory.close()
        self.device.is_lost = False
        assert self.memory.snapshot().used_bytes == 0
        assert self.device.free_bytes() == CAPACITY
        assert sorted(self.source.loaded) == sorted(self.source.closed)


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=500, stateful_step_count=50, deadline=None)
