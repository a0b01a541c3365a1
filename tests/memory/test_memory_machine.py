"""Random histories of the memory manager on a card with every kind of trouble, checked after every
step."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from conftest import wait_until
from fakes import FakeBackend, FakeSource, card
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from multimodal.errors import BackendError, DeviceFullError, DeviceLostError, MultimodalError
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager
from multimodal.memory.reservation import Reservation

BUDGET, CAPACITY, CONTEXT, HOST = 100, 130, 10, 60
CARDS = [card(f"m{size}", size=size, concurrency=2) for size in (20, 35, 50, 80)]
OUTSIDE = CARDS[1].name
"""Its engine takes its memory past PyTorch's allocator."""
NUMBERS = count()


@dataclass(eq=False)
class Turn:
    """A lease that is asked for, stepped and given back by hand. `rungs`: what was given up."""

    memory: MemoryManager[FakeBackend]
    index: int
    workspace: int
    name: str = field(default_factory=lambda: f"turn {next(NUMBERS)}")
    rungs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stack = ExitStack()
        lease = self.memory.lease(CARDS[self.index], threading.Event(), self.workspace)
        self.lease: Lease[FakeBackend] = self.stack.enter_context(lease)


@dataclass(eq=False)
class Job:
    """A reservation that is asked for, stepped and given back by hand."""

    memory: MemoryManager[FakeBackend]
    size: int
    least: int | None
    name: str = field(default_factory=lambda: f"job {next(NUMBERS)}")

    def __post_init__(self) -> None:
        self.stack = ExitStack()
        asked = self.memory.reserve(self.name, self.size, threading.Event(), self.least)
        self.reservation: Reservation = self.stack.enter_context(asked)


def is_told_well(words: str) -> bool:
    """Whether this is one line for a person, and no error of a library."""
    is_line = "\n" not in words and words.strip() == words
    return is_line and words.endswith(".") and "Error" not in words


class Memory(RuleBasedStateMachine):
    turns = Bundle("turns")

    @initialize(
        others=st.sampled_from([0, 20, 40]),
        spills=st.booleans(),
        partly=st.booleans(),
        lost=st.sampled_from(["", "", "in mid-life", "at the end"]),
    )
    def a_card(self, others: int, spills: bool, partly: bool, lost: str) -> None:
        self.device = Simulated(
            CAPACITY,
            host_bytes=HOST,
            slab_bytes=10,
            context_bytes=CONTEXT,
            others_bytes=others,
            spills=spills,
        )
        self.device.outside.add(OUTSIDE)
        self.device.runs_partly = partly
        self.others_at_start = others
        self.source = FakeSource()
        self.memory: MemoryManager[FakeBackend] = MemoryManager(self.device, BUDGET, self.source)
        self.granted: list[Turn] = []
        self.waiting: list[Turn] = []
        self.jobs: list[Job] = []
        self.lost = lost

    # ------------------------------------------------------------ what people do

    @precondition(lambda self: not self.device.is_lost)
    @rule(
        target=turns,
        index=st.integers(0, 3),
        workspace=st.integers(0, 30),
        moments=st.sampled_from([0, 1, 3]),
    )
    def ask(self, index: int, workspace: int, moments: int) -> Turn:
        turn = Turn(self.memory, index, workspace)
        self.waiting.append(turn)
        for _ in range(moments):
            self.everyone_waits_a_moment()
        return turn

    @rule()
    def everyone_waits_a_moment(self) -> None:
        for turn in list(self.waiting):
            self.step(turn)
            self.settle()
        for job in [job for job in self.jobs if not job.reservation.granted]:
            self.step_job(job)
            self.settle()

    @precondition(lambda self: not self.device.is_lost)
    @rule(index=st.integers(0, 3), refused=st.sampled_from([0, 0, 1, 5]))
    def somebody_has_a_short_turn(self, index: int, refused: int) -> None:
        """Asks, waits for a while, and leaves, served or not; so many restores are refused."""
        self.device.fail_next_restores = refused
        turn = Turn(self.memory, index, workspace=5)
        self.waiting.append(turn)
        for _ in range(4):
            if turn in self.waiting:
                self.step(turn)
                self.settle()
        if turn in self.waiting or turn in self.granted:
            self.end(turn)

    def step(self, turn: Turn) -> None:
        try:
            granted = self.memory.try_grant(turn.lease) is None
        except (MultimodalError, RuntimeError) as error:
            self.end(turn, error)
            return
        if granted:
            self.waiting.remove(turn)
            self.granted.append(turn)
            # Nothing that was promised to it can be refused: others took nothing in between.
            self.device.take(turn.name, turn.lease.size_bytes)

    # ------------------------------------------------------------ what jobs do

    @precondition(lambda self: not self.device.is_lost)
    @rule(size=st.integers(1, 60), least=st.sampled_from([None, 0, 10]))
    def somebody_starts_a_job(self, size: int, least: int | None) -> None:
        self.jobs.append(Job(self.memory, size, least))
        self.everyone_waits_a_moment()

    def step_job(self, job: Job) -> None:
        try:
            granted = self.memory.try_grant(job.reservation) is None
        except (MultimodalError, RuntimeError) as error:
            self.end_job(job, error)
            return
        if granted:
            self.device.take(job.name, job.size)

    @precondition(lambda self: not self.device.is_lost)
    @rule()
    def jobs_give_back_what_they_are_asked_for(self) -> None:
        for job in self.jobs:
            wanted = job.reservation.wanted_bytes
            assert 0 <= wanted <= job.reservation.spare_bytes
            if wanted:
                job.size -= wanted
                self.device.give_back(job.name)
                self.device.take(job.name, job.size)
                self.memory.shrink(job.reservation, job.size)
                assert job.reservation.wanted_bytes == 0

    @rule(number=st.integers(0, 5))
    def a_job_finds_the_card_full(self, number: int) -> None:
        running = [job for job in self.jobs if job.reservation.granted]
        if number < len(running):
            try:
                told = self.memory.recover_from_oom(running[number].reservation)
            except RuntimeError as error:
                self.end_job(running[number], error)
                return
            assert told is None or is_told_well(told)

    @rule(number=st.integers(0, 5))
    def a_job_ends(self, number: int) -> None:
        if number < len(self.jobs):
            self.end_job(self.jobs[number])

    def end_job(self, job: Job, error: Exception | None = None) -> None:
        self.jobs.remove(job)
        self.device.give_back(job.name)
        if error is None:
            job.stack.close()
            return
        with pytest.raises(MultimodalError) as told, job.stack:
            raise error
        assert is_told_well(str(told.value)), told.value

    @rule(turn=consumes(turns))
    def leave(self, turn: Turn) -> None:
        self.end(turn)

    def end(self, turn: Turn, error: Exception | None = None) -> None:
        """It is over, or was ended by an error, which is told once and as one of ours."""
        for turns in (self.waiting, self.granted):
            if turn in turns:
                turns.remove(turn)
        self.device.give_back(turn.name)
        if error is None:
            turn.stack.close()
        else:
            with pytest.raises(MultimodalError) as told, turn.stack:
                raise error
            assert is_told_well(str(told.value)), told.value
        assert turn.lease.cpu_fallback is None

    @rule(turn=turns, times=st.sampled_from([1, 2, 5]))
    def a_turn_finds_the_card_full(self, turn: Turn, times: int) -> None:
        """Its engine was refused what it had not asked for, and tries once more after each thing
        that the manager gave up."""
        for _ in range(times):
            if turn in self.granted:
                self.recover_from_oom(turn)

    def recover_from_oom(self, turn: Turn) -> None:
        in_use = {other.lease.card.name for other in self.granted}
        try:
            told = self.memory.recover_from_oom(turn.lease)
        except RuntimeError as error:
            self.end(turn, error)
            return
        assert in_use <= {held.card for held in self.memory.snapshot().held}
        if told is not None:
            turn.rungs.append(told)
            assert is_told_well(told)
        elif self.source.gate.is_set():
            self.run_beside(turn)
        assert len(turn.rungs) <= 4, "each rung is taken once"

    def run_beside(self, turn: Turn) -> None:
        """The last rung: a copy on the CPU, for this turn."""
        try:
            told = self.memory.cpu_fallback(turn.lease)
        except MultimodalError:
            return
        if told is not None:
            turn.rungs.append(told)
            assert is_told_well(told)

    @rule(index=st.integers(0, 3))
    def unload(self, index: int) -> None:
        name = CARDS[index].name
        in_use = any(turn.lease.card.name == name for turn in self.granted)
        assert not (self.memory.unload(name) and in_use)

    # ------------------------------------------------------------ what goes wrong

    @rule(
        others=st.sampled_from([0, 20, 40, 60, 90]),
        host=st.sampled_from([0, 30, HOST, HOST]),
        locks=st.booleans(),
    )
    def other_programs_come_and_go(self, others: int, host: int, locks: bool) -> None:
        """They take more or less of the card than at the start, and a card that does not spill
        refuses them, too; host memory runs out or comes back, and can be locked or not."""
        self.device.others_bytes = others
        self.device.host_bytes = host
        self.device.locks_pages = locks

    @rule(
        trouble=st.sampled_from(
            ["full device", "full in a load", "refused restores", "refused mirrors", "broken model"]
        ),
        times=st.integers(1, 5),
    )
    def something_goes_wrong(self, trouble: str, times: int) -> None:
        match trouble:
            case "full device":
                self.device.fail_next = times
            case "full in a load":
                self.source.fail = [DeviceFullError("full (injected)") for _ in range(times)]
            case "refused restores":
                self.device.fail_next_restores = times + 2
            case "refused mirrors":
                self.device.fail_next_parks = times
            case _:
                self.source.fail = [BackendError("It is broken (injected).")]

    @rule(hang=st.sampled_from([True, False, False]))
    def loads_hang_or_go_on(self, hang: bool) -> None:
        if hang:
            self.source.gate.clear()
        else:
            self.source.gate.set()
            self.settle()

    @precondition(lambda self: self.lost == "in mid-life")
    @rule()
    def the_card_is_lost(self) -> None:
        self.device.is_lost = True

    # ------------------------------------------------------------ what always holds

    def settle(self) -> None:
        """Let what was begun in other threads end, unless it is held up on purpose."""
        if self.source.gate.is_set():
            wait_until(lambda: not self.loading(), 60, every_s=0.001)

    def loading(self) -> bool:
        return any(entry.state == "loading" for entry in self.memory.snapshot().held)

    @invariant()
    def the_budget_is_never_exceeded(self) -> None:
        """By the ledger, and by the driver's count, which has the context as well."""
        budget = min(BUDGET, CAPACITY - CONTEXT - self.others_at_start)
        assert self.memory.snapshot().used_bytes <= budget
        assert self.device.taken_bytes <= budget + CONTEXT

    @invariant()
    def nothing_spills_while_others_leave_what_they_left_at_the_start(self) -> None:
        if self.device.others_bytes <= self.others_at_start:
            assert self.device.spilled_bytes == 0

    @invariant()
    def what_is_leased_is_there_and_counted(self) -> None:
        snapshot = self.memory.snapshot()
        assert sum(entry.leases for entry in snapshot.held) == len(self.granted)
        queued = sum(not job.reservation.granted for job in self.jobs)
        assert snapshot.waiting == len(self.waiting) + queued
        for turn in self.granted:
            assert not turn.lease.backend.closed

    @invariant()
    def at_rest_the_ledger_is_the_sum_of_what_is_there(self) -> None:
        if self.loading():
            return
        snapshot = self.memory.snapshot()
        models = sum(entry.size_bytes for entry in snapshot.held)
        workspace_total = sum(turn.lease.size_bytes for turn in self.granted)
        jobs = sum(job.size for job in self.jobs if job.reservation.granted)
        assert sum(size for _, size in snapshot.reserved) == jobs
        assert snapshot.used_bytes == models + workspace_total + jobs
        for entry in snapshot.held:
            there = self.device.model_bytes(entry.card)
            is_whole = there == entry.size_bytes
            assert is_whole or (there < entry.size_bytes and self.device.runs_partly)
            has_waiters = any(turn.lease.card.name == entry.card for turn in self.waiting)
            assert is_whole or entry.leases or has_waiters, "the next turn tries all of it"
        beside = sum(turn.lease.cpu_fallback is not None for turn in self.granted)
        alive = len(self.source.loaded) - len(self.source.closed)
        assert alive == len(snapshot.held) + len(snapshot.mirrored) + beside
        assert not {held.card for held in snapshot.held} & {m.card for m in snapshot.mirrored}
        assert sum(mirror.size_bytes for mirror in snapshot.mirrored) <= HOST

    # ------------------------------------------------------------ the end

    def one_more_is_refused(self) -> None:
        with (
            pytest.raises(DeviceLostError),
            self.memory.lease(CARDS[0], threading.Event()) as lease,
        ):
            list(lease.wait())

    def one_more_is_served(self) -> None:
        """Nothing of what went wrong stays: a card that is free again serves the smallest."""
        device = self.device
        device.fail_next = device.fail_next_restores = device.fail_next_parks = 0
        device.others_bytes = self.others_at_start
        self.source.fail = []
        with self.memory.lease(CARDS[0], threading.Event(), 0) as lease:
            list(lease.wait())
            assert not lease.backend.closed

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        self.device.is_lost = bool(self.lost)
        self.source.gate.set()
        for turn in [*self.waiting, *self.granted]:
            self.end(turn)
        for job in list(self.jobs):
            self.end_job(job)
        self.settle()
        if self.lost:
            self.one_more_is_refused()
            loaded = len(self.source.loaded)
            self.one_more_is_refused()
            assert len(self.source.loaded) == loaded
        else:
            self.one_more_is_served()
        self.memory.close()
        self.device.is_lost = False
        assert self.memory.snapshot().used_bytes == 0
        assert self.memory.snapshot().mirrored == ()
        assert self.device.taken_bytes == CONTEXT
        assert sorted(self.source.loaded) == sorted(self.source.closed)


TestMemory: Any = pytest.mark.slow(Memory.TestCase)
TestMemory.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
