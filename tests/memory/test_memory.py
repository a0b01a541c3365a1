"""The memory manager: leases, eviction and failing, on a simulated device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeBackend, FakeSource, card
from small_memory import A, B, C, Slow, finish, held, leased, manager, start, use

from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CapacityError, TurnStoppedError
from multimodal.memory.devices.base import Cpu
from multimodal.memory.devices.simulated import Simulated


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
    with pytest.raises(CapacityError, match="Raise --budget"):
        use(manager(), card("huge", size=101))


def test_a_workspace_counts_against_the_budget() -> None:
    memory = manager()
    with leased(memory, B, workspace=40):
        assert memory.snapshot().used_bytes == 70
    assert memory.snapshot().used_bytes == 30
    with pytest.raises(CapacityError), leased(memory, A, workspace=50):
        pass


def test_an_exception_of_a_library_is_told_as_a_backend_error() -> None:
    class Broken(FakeSource):
        def load(self, card: ModelCard, files: Path, engine: str) -> FakeBackend:
            raise OSError("no such file")

    with pytest.raises(BackendError, match="A could not be loaded: no such file"):
        use(manager(source=Broken()), A)


def test_an_abandoned_lease_gives_its_place_back() -> None:
    memory = manager()
    use(memory, A)

    def use_forever() -> Iterator[int]:
        with leased(memory, A):
            while True:
                yield 1

    turn = use_forever()
    next(turn)
    assert memory.snapshot().held[0].leases == 1
    turn.close()
    assert memory.snapshot().held[0].leases == 0


def test_unloading_spares_what_is_in_use() -> None:
    memory = manager()
    with leased(memory, A):
        assert not memory.unload("a")
    assert memory.unload("a")
    assert not memory.unload("a")
    assert memory.snapshot().used_bytes == 0


def test_a_full_device_is_told_as_a_capacity_error() -> None:
    device = Simulated(1000)
    memory = manager(500, device=device)
    use(memory, B)
    device.fail_next = 4
    with pytest.raises(CapacityError, match=r"injected.*Close other programs"):
        use(memory, A)
    use(memory, A)
    assert device.taken_bytes == 60, "the idle model had to go, in vain"


def test_the_cpu_reports_this_machines_memory() -> None:
    device = Cpu()
    assert 0 < device.free_bytes() <= device.capacity_bytes()


def test_simulated_time_passes_with_the_bytes_copied() -> None:
    device = Simulated(10**10, bus_bytes_per_s=1e9, disk_bytes_per_s=1e8)
    device.begin_load("x", 5 * 10**8)
    assert device.now_s() == 5
    device.remove("x")
    device.begin_load("x", 5 * 10**8, parked=True)
    device.restore("x", object())
    assert device.now_s() == 5.5


def test_idle_models_make_room_for_the_workspace_of_one_that_is_there() -> None:
    source = FakeSource()
    memory = manager(source=source)
    use(memory, A, B)
    with leased(memory, A, workspace=40) as lease:
        assert memory.snapshot().used_bytes == 100
        assert lease.evicted == ("b",)
    assert source.closed == ["b"]
    with pytest.raises(CapacityError, match="Raise --budget"), leased(memory, A, workspace=41):
        pass


def test_a_model_that_is_still_leaving_is_not_loaded_beside_itself() -> None:
    held_up, let_go = threading.Event(), threading.Event()
    source = Slow(lambda: (held_up.set(), let_go.wait(60)))
    device = Simulated(1000)
    memory = manager(120, source, device)
    with leased(memory, A) as lease:
        backend = lease.backend
    threads = start(lambda: use(memory, card("newcomer", size=100)))
    assert held_up.wait(60)
    stop = threading.Event()
    with memory.lease(A, stop) as again:
        assert "Unloading" in next(again.wait()).text
        assert not backend.closed
        let_go.set()
    finish(threads)
    assert device.taken_bytes == 100
    assert held(memory) == {"newcomer"}


def test_a_model_that_cannot_be_closed_stops_nobody() -> None:
    def refuse() -> None:
        raise OSError("stuck")

    memory = manager(source=Slow(refuse))
    use(memory, A, C)
    assert held(memory) == {"c"}
    assert memory.unload("c")
    assert memory.snapshot().used_bytes == 0


def test_the_snapshot_adds_up() -> None:
    memory = manager()
    use(memory, A)
    with leased(memory, B, workspace=5):
        snapshot = memory.snapshot()
    assert snapshot.used_bytes == sum(entry.size_bytes for entry in snapshot.held) + 5
    assert [(e.card, e.leases, e.state) for e in snapshot.held] == [
        ("a", 0, "ready"),
        ("b", 1, "ready"),
    ]
    assert (snapshot.budget_bytes, snapshot.waiting, snapshot.simulated) == (100, 0, True)
