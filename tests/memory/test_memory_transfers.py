"""Models on their way: mirrors, the ladder of a full device, fragments, virtual time."""

from __future__ import annotations

import random
import threading

import pytest
from conftest import wait_until
from fakes import FakeSource, card
from small_memory import A, B, C, finish, held, leased, manager, start, use

from multimodal.errors import BackendError, CapacityError, MultimodalError
from multimodal.memory.devices.simulated import Simulated


def mirrored(memory: object) -> list[str]:
    return [mirror.card for mirror in memory.snapshot().mirrored]  # type: ignore[attr-defined]


def test_an_evicted_model_comes_back_from_its_mirror() -> None:
    source, device = FakeSource(), Simulated(100, host_bytes=1000, bus_bytes_per_s=10.0)
    memory = manager(100, source, device)
    use(memory, A, C)
    assert (held(memory), mirrored(memory), source.closed) == ({"c"}, ["a"], [])
    before_s = device.now_s()
    use(memory, A)
    assert source.loaded == ["a", "c"], "nothing was loaded twice"
    assert device.now_s() - before_s == pytest.approx(6.0), "60 bytes came over the bus, none left"
    last = memory.snapshot().decisions[-1]
    assert (last.how, last.victims, last.moved_bytes) == ("restored", ("c",), 60)
    assert last.bytes_per_s == pytest.approx(10.0)
    memory.close()
    assert sorted(source.closed) == ["a", "c"]


def test_mirrors_are_bounded_by_host_memory() -> None:
    source = FakeSource()
    memory = manager(100, source, Simulated(100, host_bytes=100))
    use(memory, A, C)
    use(memory, card("e", size=90))
    assert mirrored(memory) == ["c"], "the mirror that was longest unused went"
    assert source.closed == ["a"]
    use(memory, card("f", size=95), A)
    assert source.loaded.count("a") == 2


def test_a_model_larger_than_host_memory_is_closed() -> None:
    source = FakeSource()
    use(manager(100, source, Simulated(100, host_bytes=50)), A, C)
    assert source.closed == ["a"]


@pytest.mark.parametrize(
    ("fails", "gone", "told"),
    [
        (1, set(), ["its cache was emptied"]),
        (2, {"b"}, ["its cache was emptied", "one idle model left"]),
        (3, {"b", "d"}, ["its cache was emptied", "one idle model left", "one idle model left"]),
    ],
)
def test_a_full_device_is_climbed_rung_by_rung(fails: int, gone: set[str], told: list[str]) -> None:
    device = Simulated(1000)
    memory = manager(500, device=device)
    use(memory, B, card("d", size=20))
    device.fail_next = fails
    with leased(memory, A) as lease:
        assert [words for words in told if any(words in n for n in lease.notices)] == told
        assert len(lease.notices) == fails
        assert set(lease.evicted) == gone
    assert held(memory) == {"a", "b", "d"} - gone
    assert memory.snapshot().decisions[-1].recoveries == lease.notices


def test_fragments_are_pushed_together_when_they_are_in_the_way() -> None:
    device = Simulated(100, slab_bytes=50)
    for name, size in (("a", 30), ("b", 30), ("c", 30)):
        device.begin_load(name, size)
    device.remove("b")
    with pytest.raises(CapacityError, match="out of memory while loading d"):
        device.begin_load("d", 40)
    assert device.free_bytes() == 40
    device.free_cached()
    device.begin_load("d", 40)
    memory = manager(100, device=Simulated(100, slab_bytes=50))
    small = [card(name, size=30) for name in ("x", "y", "z")]
    use(memory, *small)
    memory.unload("y")
    with leased(memory, card("wide", size=40)) as lease:
        assert lease.notices == ("The device was full; its cache was emptied.",)


class Crowd:
    """People who ask at once, give up, and meet broken models and a device that is full."""

    MODELS = (A, B, C, card("d", size=20), card("e", size=90))

    def __init__(self) -> None:
        self.source, self.device = FakeSource(), Simulated(110, host_bytes=120, slab_bytes=10)
        self.memory = manager(100, self.source, self.device)
        self.over = threading.Event()
        self.ended: list[str] = []
        self.most_bytes = 0

    def watch(self) -> None:
        while not self.over.is_set():
            self.most_bytes = max(self.most_bytes, self.memory.snapshot().used_bytes)

    def trouble(self) -> None:
        chance = random.Random(99)  # noqa: S311
        while not self.over.wait(0.001):
            if chance.random() < 0.5:
                self.device.fail_next = chance.randint(1, 5)
            else:
                self.source.fail = [BackendError("injected")]

    def person(self, number: int) -> None:
        chance = random.Random(number)  # noqa: S311
        for _ in range(60):
            try:
                self.turn(chance)
            except MultimodalError as error:
                self.ended.append(type(error).__name__)
            else:
                self.ended.append("served")

    def at_rest(self) -> bool:
        """Whether the loads that nobody waits for any more have ended."""
        return not any(t.name.startswith(("load ", "evict ")) for t in threading.enumerate())

    def turn(self, chance: random.Random) -> None:
        stop = threading.Event()
        card, workspace = chance.choice(self.MODELS), chance.randint(0, 10)
        with self.memory.lease(card, stop, workspace) as lease:
            for _ in lease.wait():
                if chance.random() < 0.1:
                    stop.set()
            assert not lease.backend.closed


def test_a_crowd_with_every_kind_of_trouble_is_served_or_told() -> None:
    crowd = Crowd()
    others = start(crowd.watch, crowd.trouble)
    finish(start(*(lambda n=i: crowd.person(n) for i in range(6))))
    crowd.over.set()
    finish(others)
    assert len(crowd.ended) == 360
    assert crowd.ended.count("served") > 10, "how many hangs on the clock"
    assert crowd.most_bytes <= 100
    wait_until(crowd.at_rest, 60)
    snapshot = crowd.memory.snapshot()
    assert (snapshot.waiting, snapshot.workspace_bytes) == (0, 0)
    assert snapshot.used_bytes == sum(entry.size_bytes for entry in snapshot.held)
    assert crowd.device.taken_bytes == snapshot.used_bytes
    crowd.memory.close()
    assert sorted(crowd.source.loaded) == sorted(crowd.source.closed)
