"""Waiting for a model: in the order of asking, told of failures, ended, and under heavy use."""

from __future__ import annotations

import threading

import pytest
from conftest import wait_until
from fakes import FakeSource, card
from small_memory import A, B, C, Manager, Slow, finish, leased, manager, start, use

from multimodal.errors import BackendError, CapacityError, TurnStoppedError
from multimodal.memory.devices.base import Cpu
from multimodal.memory.ledger import PATIENCE_S
from multimodal.memory.manager import MemoryManager
from multimodal.memory.reservation import MAX_WAIT_S


def closed() -> FakeSource:
    """Whose loads wait until its gate is opened."""
    source = FakeSource()
    source.gate.clear()
    return source


def test_a_failed_load_is_told_to_everyone_who_waits_and_the_next_try_works() -> None:
    source = closed()
    source.fail = [BackendError("broken weights")]
    memory = manager(source=source)
    told: list[BackendError] = []

    def turn() -> None:
        try:
            use(memory, A)
        except BackendError as error:
            told.append(error)

    threads = start(turn)
    wait_until(lambda: bool(memory.snapshot().held), 60)
    threads += start(turn, turn)
    wait_until(lambda: memory.snapshot().waiting == 3, 60)
    source.gate.set()
    finish(threads)
    assert [str(error) for error in told] == ["broken weights"] * 3
    assert len(set(map(id, told))) == 3, "threads must not share an exception and its traceback"
    assert memory.snapshot().waiting == 0
    assert memory.snapshot().decisions[-1].error == "broken weights"
    use(memory, A)
    assert source.loaded == ["a"]


def test_only_as_many_leases_as_the_card_allows_in_the_order_of_asking() -> None:
    model = card("two", concurrency=2)
    memory = manager(200)
    order: list[int] = []
    done = [threading.Event() for _ in range(5)]

    def turn(number: int) -> None:
        with leased(memory, model):
            order.append(number)
            done[number].wait(60)

    threads = []
    for number in range(5):
        threads += start(lambda n=number: turn(n))
        expected = min(number + 1, 2)
        wait_until(lambda n=number, e=expected: len(order) == e and _asked(memory) == n + 1, 60)
    assert sum(entry.leases for entry in memory.snapshot().held) == 2
    for number in range(3):
        done[number].set()
        wait_until(lambda n=number: len(order) == n + 3, 60)
    done[3].set()
    done[4].set()
    finish(threads)
    assert order == [0, 1, 2, 3, 4]


def _asked(memory: Manager) -> int:
    snapshot = memory.snapshot()
    return snapshot.waiting + sum(entry.leases for entry in snapshot.held)


def test_a_turn_stopped_while_its_model_loads_leaves_at_once_and_the_model_stays() -> None:
    source, stop = closed(), threading.Event()
    memory = manager(source=source)
    with memory.lease(A, stop) as lease:
        steps = lease.wait()
        next(steps)
        stop.set()
        with pytest.raises(TurnStoppedError):
            list(steps)
    source.gate.set()
    wait_until(lambda: [entry.state for entry in memory.snapshot().held] == ["ready"], 60)
    use(memory, A)
    assert source.loaded == ["a"]


def test_a_turn_stopped_before_it_began_loads_nothing() -> None:
    memory = manager()
    stop = threading.Event()
    stop.set()
    with memory.lease(A, stop) as lease, pytest.raises(TurnStoppedError):
        list(lease.wait())
    assert memory.snapshot().held == ()


def test_a_waiter_that_has_waited_too_long_for_memory_goes_before_newcomers() -> None:
    memory = manager()
    use(memory, A)
    stop = threading.Event()
    with leased(memory, A), memory.lease(C, stop) as hungry, memory.lease(B, stop) as late:
        assert "Waiting for memory" in next(hungry.wait()).text
        hungry.asked_s -= PATIENCE_S
        assert next(late.wait()).text == "Waiting for B: 1 before you"
        hungry.asked_s += PATIENCE_S
        assert next(late.wait()).text == "Loading B"


def test_a_wait_has_an_end_but_loading_is_no_waiting() -> None:
    source, stop = closed(), threading.Event()
    memory = manager(source=source)
    with memory.lease(A, stop) as first, memory.lease(A, stop) as second:
        steps = first.wait()
        next(steps)
        for lease in (first, second):
            lease.idle_since_s -= MAX_WAIT_S
            assert memory.try_grant(lease) is not None
        source.gate.set()
        list(steps)
        second.idle_since_s -= MAX_WAIT_S
        with pytest.raises(CapacityError, match="busy for 15 minutes"):
            list(second.wait())


def test_a_load_under_way_counts_though_the_device_does_not_show_it_yet() -> None:
    source, stop = closed(), threading.Event()
    memory: Manager = MemoryManager(Lazy(100), 1000, source)
    with memory.lease(A, stop) as first, memory.lease(C, stop) as second:
        steps = first.wait()
        next(steps)
        wait_until(lambda: memory.snapshot().held[0].state == "loading", 60)
        assert "Waiting for memory" in next(second.wait()).text
        source.gate.set()
        list(steps)


class Lazy(Cpu):
    """Host memory that shows a model only when it has been used, as an operating system does."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes

    def capacity_bytes(self) -> int:
        return 10 * self._capacity

    def free_bytes(self) -> int:
        return self._capacity


def test_many_threads_never_exceed_the_budget_and_all_are_served() -> None:
    memory = manager()
    models = [A, B, C, card("d", size=20), card("e", size=90)]
    stop = threading.Event()
    seen: list[int] = []
    served: list[int] = []

    def watch() -> None:
        while not stop.is_set():
            seen.append(memory.snapshot().used_bytes)

    def turns(offset: int) -> None:
        for i in range(12):
            with leased(memory, models[(i * 3 + offset) % len(models)], workspace=offset) as lease:
                assert not lease.backend.closed
            served.append(offset)

    watcher = threading.Thread(target=watch)
    watcher.start()
    finish(start(*(lambda n=i: turns(n) for i in range(6))))
    stop.set()
    watcher.join()
    assert len(served) == 72
    assert max(seen) <= 100
    assert memory.snapshot().waiting == 0


def test_room_that_is_coming_is_waited_for_and_no_further_model_sent_away() -> None:
    """While one idle model leaves slowly, the waiter does not send the next one after it."""
    gate = threading.Event()
    memory = manager(100, Slow(lambda: gate.wait(60)))
    small, other, mine = (card(name, size=20) for name in ("one", "two", "mine"))
    use(memory, small, other, mine)
    with memory.lease(mine, threading.Event(), 60) as lease:
        for _ in range(20):
            assert memory.try_grant(lease) is not None
        ready = {entry.card for entry in memory.snapshot().held if entry.state == "ready"}
        gate.set()
        list(lease.wait())
    assert ready == {"two", "mine"}
