"""The memory manager: leases, eviction, waiting and failing, on a simulated device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import wait_until
from fakes import FakeBackend, FakeSource, card

from multimodal.cards import ModelCard
from multimodal.errors import BackendError, CapacityError, TurnStoppedError
from multimodal.memory.devices import Cpu, Simulated
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager

A, B, C = card("a", size=60), card("b", size=30), card("c", size=50)
Manager = MemoryManager[FakeBackend]


def manager(budget: int = 100, source: FakeSource | None = None) -> Manager:
    return MemoryManager(Simulated(1000), budget, source or FakeSource())


@contextmanager
def leased(memory: Manager, model: ModelCard, workspace: int = 0) -> Iterator[Lease[FakeBackend]]:
    with memory.lease(model, threading.Event(), workspace) as lease:
        for _ in lease.wait():
            pass
        yield lease


def use(memory: Manager, *models: ModelCard) -> None:
    for model in models:
        with leased(memory, model):
            pass


def held(memory: Manager) -> set[str]:
    return {entry.card for entry in memory.snapshot().held}


def test_models_stay_until_another_needs_their_place() -> None:
    source = FakeSource()
    memory = manager(source=source)
    use(memory, A, B, A, B)
    assert source.loaded == ["a", "b"]
    use(memory, C)
    assert source.closed == ["a"]
    assert held(memory) == {"b", "c"}
    assert memory.snapshot().used_bytes == 80
    assert memory.snapshot().decisions[-1].victims == ("a",)


def test_a_leased_model_is_never_evicted() -> None:
    source = FakeSource()
    memory = manager(source=source)
    with leased(memory, A) as first:
        stop = threading.Event()
        with memory.lease(C, stop) as waiting:
            steps = waiting.wait()
            assert "Waiting for memory" in next(steps).text
            assert not first.backend.closed
            stop.set()
            with pytest.raises(TurnStoppedError):
                list(steps)
    assert source.closed == []
    use(memory, C)
    assert source.closed == ["a"]


def test_what_can_never_fit_is_refused_at_once() -> None:
    with (
        pytest.raises(CapacityError, match="Raise --budget"),
        leased(manager(), card("huge", size=101)),
    ):
        pass


def test_a_workspace_counts_against_the_budget() -> None:
    memory = manager()
    with leased(memory, B, workspace=40):
        assert memory.snapshot().used_bytes == 70
    assert memory.snapshot().used_bytes == 30
    with pytest.raises(CapacityError), leased(memory, A, workspace=50):
        pass


def test_a_failed_load_is_told_to_everyone_who_waits_and_the_next_try_works() -> None:
    source = FakeSource(fail=[BackendError("broken weights")])
    source.gate.clear()
    memory = manager(source=source)
    told: list[str] = []

    def turn() -> None:
        try:
            use(memory, A)
        except BackendError as error:
            told.append(str(error))

    threads = [threading.Thread(target=turn) for _ in range(3)]
    threads[0].start()
    wait_until(lambda: bool(memory.snapshot().held), 5)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: memory.snapshot().waiting == 3, 5)
    source.gate.set()
    for thread in threads:
        thread.join(10)
    assert "broken weights" in told
    assert memory.snapshot().waiting == 0
    use(memory, A)
    assert source.loaded[-1] == "a"


def test_only_as_many_leases_as_the_card_allows_in_the_order_of_asking() -> None:
    model = card("two", concurrency=2)
    memory = manager(200)
    order: list[int] = []
    done = threading.Event()

    def turn(number: int) -> None:
        with leased(memory, model):
            order.append(number)
            done.wait(10)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=turn, args=(number,)))
        threads[-1].start()
        expected = min(number + 1, 2)
        wait_until(lambda n=number, e=expected: len(order) == e and _asked(memory) == n + 1, 5)
    assert sum(entry.leases for entry in memory.snapshot().held) == 2
    done.set()
    for thread in threads:
        thread.join(10)
    assert sorted(order[:2]) == [0, 1]
    assert len(order) == 5


def _asked(memory: Manager) -> int:
    snapshot = memory.snapshot()
    return snapshot.waiting + sum(entry.leases for entry in snapshot.held)


def test_an_abandoned_lease_gives_its_place_back() -> None:
    memory = manager()
    with leased(memory, A):
        pass
    generator = _use_forever(memory)
    next(generator)
    assert memory.snapshot().held[0].leases == 1
    generator.close()
    assert memory.snapshot().held[0].leases == 0


def _use_forever(memory: Manager) -> Iterator[int]:
    with leased(memory, A):
        while True:
            yield 1


def test_a_turn_stopped_while_its_model_loads_leaves_at_once_and_the_model_stays() -> None:
    source = FakeSource()
    source.gate.clear()
    memory = manager(source=source)
    stop = threading.Event()
    with memory.lease(A, stop) as lease:
        steps = lease.wait()
        next(steps)
        stop.set()
        with pytest.raises(TurnStoppedError):
            list(steps)
    source.gate.set()
    wait_until(lambda: [entry.state for entry in memory.snapshot().held] == ["ready"], 5)
    use(memory, A)
    assert source.loaded == ["a"]


def test_unloading_spares_what_is_in_use() -> None:
    memory = manager()
    with leased(memory, A):
        assert not memory.unload("a")
    assert memory.unload("a")
    assert not memory.unload("a")
    assert memory.snapshot().used_bytes == 0


def test_a_full_device_is_told_as_a_capacity_error() -> None:
    device = Simulated(1000)
    memory: Manager = MemoryManager(device, 500, FakeSource())
    device.fail_next = 1
    with pytest.raises(CapacityError, match="injected"):
        use(memory, A)
    use(memory, A)
    assert device.free_bytes() == 940


def test_the_device_itself_may_have_less_than_the_budget() -> None:
    device = Simulated(100)
    device.hold("another program", 70)
    with pytest.raises(CapacityError, match="Close other programs"):
        use(MemoryManager(device, 100, FakeSource()), A)


def test_the_cpu_reports_this_machines_memory() -> None:
    device = Cpu()
    assert 0 < device.free_bytes() <= device.capacity_bytes()


def test_simulated_time_passes_with_the_bytes_copied() -> None:
    device = Simulated(10**10, bus_bytes_per_s=1e9)
    device.hold("x", 5 * 10**8)
    assert device.now_s() == 0.5


def test_many_threads_never_exceed_the_budget_and_all_are_served() -> None:
    memory = manager()
    models = [A, B, C, card("d", size=20), card("e", size=90)]
    stop, seen, served = threading.Event(), [], []

    def watch() -> None:
        while not stop.is_set():
            seen.append(memory.snapshot().used_bytes)

    def turns(offset: int) -> None:
        for i in range(12):
            use(memory, models[(i * 3 + offset) % len(models)])
            served.append(offset)

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=turns, args=(i,)) for i in range(6)]
    watcher.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    stop.set()
    watcher.join()
    assert len(served) == 72
    assert max(seen) <= 100
    assert memory.snapshot().waiting == 0
