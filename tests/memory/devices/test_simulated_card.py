"""What a card does only now and then, on the simulated one: the budget holds, nobody's turn is
lost, and the person is told."""

from __future__ import annotations

import threading

import pytest
from conftest import wait_until
from fakes import FakeSource, card
from small_memory import A, B, C, Forgetful, Manager, Slow, held, leased, manager, use

from benchmarks.memory.turns import mixed
from multimodal.catalog.cards import Catalog
from multimodal.errors import CapacityError, DeviceFullError, DeviceLostError
from multimodal.memory.devices.base import PAGEABLE_BYTES_PER_S
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.headroom import model_bytes

GB = 10**9
CARD_BYTES, CONTEXT_BYTES = 12_878_086_144, 800_000_000
"""An RTX 4070 Ti."""


# ------------------------------------------------------------ other programs


def test_what_other_programs_take_and_give_back_is_seen_at_once() -> None:
    device = Simulated(100)
    memory = manager(100, device=device)
    device.others_bytes = 50
    with pytest.raises(DeviceFullError, match=r"0\.00 GB of .* is free\. Close other programs"):
        use(memory, A)
    device.others_bytes = 0
    use(memory, A)
    assert held(memory) == {"a"}


def test_other_programs_are_refused_what_is_not_free() -> None:
    device = Simulated(100)
    use(manager(100, device=device), A)
    device.others_bytes = 90
    assert device.others_bytes == 40
    assert device.free_bytes() == 0


class SeenOnceLoaded(Simulated):
    """Counts a model when it is there, as a real driver does."""

    simulated = False

    def begin_load(self, card: str, size_bytes: int, parked: bool = False) -> None:
        """Nothing is taken yet."""


def test_what_a_load_under_way_will_take_is_given_to_nobody_else() -> None:
    source, device = FakeSource(), SeenOnceLoaded(100)
    memory = manager(100, source, device)
    device.others_bytes = 30
    source.gate.clear()
    stop = threading.Event()
    with memory.lease(card("first", size=40), stop) as first:
        next(first.wait())
        with memory.lease(card("second", size=35), stop) as second:
            told = next(second.wait()).text
        source.gate.set()
        list(first.wait())
    assert told == "Waiting for memory for Second"


def turns_on(device: Simulated, catalog: Catalog, grows: bool = False) -> tuple[int, list[str]]:
    """Sixty turns under the budget of a card of 12 GB, each taking what its lease says: the most
    that spilled, and the sentences of turns that could not be served."""
    profile = catalog.profile("gpu-12gb")
    memory = manager(model_bytes(profile.budget, device), device=device)
    most, told, at_start = 0, [], device.others_bytes
    for number, model in enumerate(mixed(catalog, profile, 60)):
        if grows:
            device.others_bytes = at_start + (4 * GB if number % 10 >= 5 else 0)
        try:
            with leased(memory, model) as lease:
                device.take("turn", lease.size_bytes)
                most = max(most, device.spilled_bytes)
                assert device.taken_bytes <= memory.budget_bytes + device.context_bytes
        except DeviceFullError as error:
            told.append(str(error))
        device.give_back("turn")
    snapshot = memory.snapshot()
    assert (snapshot.waiting, snapshot.workspace_bytes) == (0, 0)
    return most, told


def spilling_card() -> Simulated:
    return Simulated(
        CARD_BYTES, host_bytes=32 * GB, context_bytes=CONTEXT_BYTES, others_bytes=GB, spills=True
    )


def test_a_card_that_spills_instead_of_refusing_never_does(catalog: Catalog) -> None:
    """Nothing refuses more than the budget: the program keeps to it by its own books."""
    device = spilling_card()
    assert turns_on(device, catalog) == (0, [])
    assert device.free_bytes() > 0
    with pytest.raises(CapacityError, match="Raise --budget"):
        use(manager(10 * GB, device=spilling_card()), card("huge", size=11 * GB))


def test_where_other_programs_grow_no_more_spills_than_they_took(catalog: Catalog) -> None:
    """What lies on the card already is the driver's to move; what is brought then has room, or its
    turn is told."""
    device = spilling_card()
    most, told = turns_on(device, catalog, grows=True)
    assert most <= 4 * GB
    assert all("Close other programs" in words for words in told)
    device.others_bytes = GB
    assert device.spilled_bytes == 0


def test_spilling_is_slow_and_nothing_is_refused() -> None:
    device = Simulated(100, spills=True)
    device.others_bytes = 80
    before_s = device.now_s()
    device.take("turn", 30)
    assert (device.spilled_bytes, device.free_bytes()) == (10, 0)
    assert device.now_s() - before_s == pytest.approx(10 / PAGEABLE_BYTES_PER_S)
    device.others_bytes = 0
    assert device.spilled_bytes == 0


# ------------------------------------------------------------ what the allocator does not see


def test_an_engine_past_the_allocator_is_in_the_ledger_and_in_the_drivers_count() -> None:
    device = Simulated(130, context_bytes=10)
    device.outside.add("a")
    memory = manager(100, device=device)
    use(memory, A)
    assert (device.taken_bytes, memory.snapshot().used_bytes) == (70, 60)
    assert device.free_bytes() == 60, "by the driver; the allocator would give 100 more"
    with leased(memory, C) as lease:
        assert lease.evicted == ("a",), "the ledger knows of it"
    assert device.taken_bytes == 10 + 50


# ------------------------------------------------------------ mirrors


def mirrored(memory: Manager) -> list[str]:
    return [mirror.card for mirror in memory.snapshot().mirrored]


def test_a_driver_that_locks_no_host_memory_makes_restores_slow_and_no_more() -> None:
    source, device = FakeSource(), Simulated(100, host_bytes=1000, bus_bytes_per_s=100e9)
    device.locks_pages = False
    memory = manager(100, source, device)
    use(memory, A, C, A)
    assert source.loaded == ["a", "c"]
    restored = memory.snapshot().decisions[-1]
    assert restored.how == "restored"
    assert restored.bytes_per_s == pytest.approx(PAGEABLE_BYTES_PER_S)


def test_host_memory_that_runs_out_in_mid_life_closes_models_and_loses_no_turn() -> None:
    source, device = FakeSource(), Simulated(100, host_bytes=1000)
    memory = manager(100, source, device)
    use(memory, A, C)
    assert mirrored(memory) == ["a"]
    device.host_bytes = 0
    use(memory, A)
    assert source.loaded == ["a", "c"], "its mirror was there"
    assert (mirrored(memory), source.closed) == ([], ["c"])
    use(memory, C)
    assert source.loaded == ["a", "c", "c"], "read from the disk again"


def test_a_host_that_refuses_a_mirror_in_spite_of_its_room_loses_no_turn() -> None:
    source, device = FakeSource(), Simulated(100, host_bytes=1000)
    device.fail_next_parks = 1
    memory = manager(100, source, device)
    use(memory, A, C)
    assert (mirrored(memory), source.closed) == ([], ["a"])
    use(memory, A)
    assert mirrored(memory) == ["c"], "the next one was not refused"


def test_a_restore_refused_half_way_is_tried_again_and_told() -> None:
    source, device = FakeSource(), Simulated(100, host_bytes=1000)
    memory = manager(100, source, device)
    use(memory, A, C)
    device.fail_next_restores = 1
    with leased(memory, A) as lease:
        assert lease.notices == ("The device was full; its cache was emptied.",)
    assert source.loaded == ["a", "c"], "from its mirror"
    assert device.taken_bytes == 60


@pytest.mark.parametrize(
    ("trouble", "told"),
    [("fail_next_restores", r"while restoring a\. Close other"), ("fail_next", "Close other")],
)
def test_a_restore_refused_to_the_end_keeps_its_mirror(trouble: str, told: str) -> None:
    source, device = FakeSource(), Simulated(100, host_bytes=1000)
    memory = manager(100, source, device)
    use(memory, A, C)
    setattr(device, trouble, 9)
    with pytest.raises(CapacityError, match=f"{told} programs"):
        use(memory, A)
    assert (device.taken_bytes, memory.snapshot().used_bytes) == (0, 0)
    assert mirrored(memory) == ["c", "a"]
    setattr(device, trouble, 0)
    use(memory, A)
    assert source.loaded == ["a", "c"]


def test_what_runs_in_part_says_so_and_the_next_turn_tries_all_of_it() -> None:
    device = Simulated(100, host_bytes=1000)
    device.runs_partly = True
    memory = manager(100, device=device)
    use(memory, A, C)
    device.fail_next_restores = 9
    with leased(memory, A) as lease:
        assert lease.notices[-1].startswith("Only part of it fits now")
        assert device.model_bytes("a") == 60
    device.fail_next_restores = 0
    with leased(memory, A) as lease:
        assert not lease.notices
    assert device.model_bytes("a") == 60


def test_what_came_in_part_for_a_turn_that_had_gone_does_not_stay_so() -> None:
    came, let_go = threading.Event(), threading.Event()

    class Held(Simulated):
        def restore_partly(self, card: str, model: object) -> bool:
            came.set()
            return let_go.wait(60) and super().restore_partly(card, model)

    device = Held(100, host_bytes=1000)
    device.runs_partly = True
    memory = manager(100, device=device)
    use(memory, A, C)
    device.fail_next_restores = 9
    with memory.lease(A, threading.Event()) as lease:
        next(lease.wait())
        assert came.wait(60)
    device.fail_next_restores = 0
    let_go.set()
    wait_until(lambda: not held(memory), 60)
    assert mirrored(memory)[-1] == "a"
    use(memory, A)
    assert device.model_bytes("a") == 60


# ------------------------------------------------------------ a card that is lost


class LostWhileFull(Simulated):
    """Is full, and then a kernel crashes where that would be mended."""

    def free_cached(self) -> None:
        self.is_lost = True
        super().free_cached()


def test_a_card_lost_while_it_is_full_leaves_no_model_behind() -> None:
    source, device = FakeSource(), LostWhileFull(100, host_bytes=1000)
    memory = manager(100, source, device)
    use(memory, A, C)
    device.fail_next_restores = 1
    with pytest.raises(DeviceLostError, match="start the program again"):
        use(memory, A)
    assert mirrored(memory)[-1] == "a"
    memory.close()
    assert sorted(source.closed) == ["a", "c"]


def test_a_card_lost_behind_a_turn_on_the_cpu_does_not_fail_that_turn() -> None:
    source, device = FakeSource(), Simulated(100, host_bytes=1000)
    memory = manager(100, source, device)
    with leased(memory, A) as lease:
        assert memory.cpu_fallback(lease) is not None
        device.is_lost = True
    assert source.closed == ["a"]
    assert memory.snapshot().held[0].leases == 0
    with pytest.raises(DeviceLostError):
        use(memory, B)


def test_the_mirror_of_a_model_that_cannot_be_closed_is_given_up_all_the_same() -> None:
    def refuse() -> None:
        raise OSError("stuck")

    device = Forgetful()
    memory = manager(100, Slow(refuse), device)
    use(memory, A)
    assert memory.unload("a")
    assert device.forgotten == ["a"]
