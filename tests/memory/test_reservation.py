"""Work that is no turn shares the budget with chats: it holds bytes, is asked to give some back,
and recovers from a full device by the same steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from conftest import wait_until
from small_memory import A, B, C, Manager, finish, held, leased, manager, reserved, start, use

from multimodal.errors import CapacityError, DeviceFullError, DeviceLostError, TurnStoppedError
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.peaks import Peaks
from multimodal.memory.reservation import MAX_WAIT_S, Reservation
from multimodal.runner import recover
from multimodal.web.gauge import gauge


@dataclass
class Product:
    """A job: a matrix product, a few rows at a time, each row one byte of the simulated card. When
    it is asked to, it goes on with fewer rows, and ends where it may not go on with any."""

    memory: Manager
    device: Simulated
    rows: int
    least_rows: int | None = None
    left: np.ndarray = field(default_factory=lambda: np.arange(1200.0).reshape(400, 3))
    right: np.ndarray = field(default_factory=lambda: np.arange(6.0).reshape(3, 2))
    found: list[np.ndarray] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with reserved(self.memory, "Matrix product", self.rows, self.least_rows) as reservation:
            while self.rows and len(self.product()) < len(self.left):
                self.give_back(reservation)
                recover(self.memory, reservation, self.step, self.told.append)
                self.begun.set()
            self.device.give_back("job")

    def product(self) -> np.ndarray:
        return np.concatenate([np.empty((0, 2)), *self.found])

    def step(self) -> None:
        if not self.rows:
            return
        self.device.give_back("job")
        self.device.take("job", self.rows)
        done = len(self.product())
        # The last piece waits for the test, which says when it has seen what goes on meanwhile.
        rows = min(self.rows, len(self.left) - done - 1) or self.last()
        self.found.append(self.left[done : done + rows] @ self.right)
        self.sizes.append(self.rows)

    def last(self) -> int:
        return 1 if self.may_end.wait(0.01) else 0

    def give_back(self, reservation: Reservation) -> None:
        if reservation.wanted_bytes:
            self.rows = max(self.least_rows or 0, self.rows - reservation.wanted_bytes)
            self.device.give_back("job")
            self.memory.shrink(reservation, self.rows)


@contextmanager
def running(product: Product) -> Iterator[None]:
    """While it goes on; then it ends, and is right."""
    threads = start(product.run)
    assert product.begun.wait(60)
    yield
    assert threads[0].is_alive()
    product.may_end.set()
    finish(threads)
    assert np.array_equal(product.product(), product.left @ product.right)


@pytest.fixture
def device() -> Simulated:
    return Simulated(1000, host_bytes=1000)


@pytest.fixture
def memory(device: Simulated) -> Manager:
    return manager(100, device=device)


def test_idle_models_leave_for_a_job_as_they_do_for_one_another(
    memory: Manager, device: Simulated
) -> None:
    use(memory, A, B)
    with running(Product(memory, device, 30)):
        assert held(memory) == {"a"}, "the one that costs least to bring back"
        assert memory.snapshot().used_bytes == 60 + 30
    assert memory.snapshot().used_bytes == 60


def test_a_job_that_never_fits_is_refused_before_anything_is_evicted(memory: Manager) -> None:
    use(memory, A, B)
    with (
        pytest.raises(CapacityError, match=r"Matrix product needs .* and the budget is"),
        reserved(memory, "Matrix product", 101),
    ):
        pass
    assert held(memory) == {"a", "b"}


def test_a_job_that_is_asked_gives_back_what_a_chat_lacks(
    memory: Manager, device: Simulated
) -> None:
    product = Product(memory, device, 70, 40)
    with running(product), leased(memory, C):
        assert memory.snapshot().used_bytes == 50 + 50
    assert (product.sizes[0], product.sizes[-1]) == (70, 50), "no more than the chat lacks"


def test_a_job_that_would_rather_end_does_so_for_a_chat(memory: Manager, device: Simulated) -> None:
    product = Product(memory, device, 50, 0)
    threads = start(product.run)
    assert product.begun.wait(60)
    with leased(memory, A, workspace=40):
        finish(threads)
    assert product.rows == 0
    assert len(product.product()) < len(product.left)


@pytest.mark.parametrize("least", [None, 60], ids=["never", "too little"])
def test_a_job_that_cannot_give_back_enough_is_not_asked_and_the_chat_waits(
    memory: Manager, device: Simulated, least: int | None
) -> None:
    product = Product(memory, device, 70, least)
    with memory.lease(C, threading.Event(), 0) as lease:
        with running(product):
            waiting = lease.wait()
            assert next(waiting).text == "Waiting for memory for C, held by Matrix product"
            steps = len(product.sizes)
            wait_until(lambda: len(product.sizes) > steps + 3, 60)
        list(waiting)
        assert lease.backend
    assert set(product.sizes) == {70}


def test_a_job_waits_for_turns_under_way(memory: Manager) -> None:
    with memory.reserve("Job", 60, threading.Event()) as reservation:
        with leased(memory, C):
            for _ in range(20):
                assert memory.try_grant(reservation) is not None
        list(reservation.wait())
        assert held(memory) == set()


def test_a_full_device_is_recovered_from_as_in_a_turn(memory: Manager, device: Simulated) -> None:
    use(memory, A)
    device.others_bytes = 1000 - 60 - 40
    product = Product(memory, device, 40)

    def squeeze() -> bool:
        """Another program takes what the job has just given back, if it is quick enough."""
        device.give_back("job")
        device.others_bytes = 1000 - 60 - 20
        return bool(product.told)

    with running(product):
        wait_until(squeeze, 60)
    assert product.told == ["The device was full; one idle model left."]


def test_where_nothing_is_left_to_do_a_full_device_is_told(device: Simulated) -> None:
    memory = manager(100, device=device)
    device.others_bytes = 990
    told: list[str] = []

    def work() -> None:
        device.take("job", 40)

    with reserved(memory, "Job", 10) as job, pytest.raises(DeviceFullError):
        recover(memory, job, work, told.append)
    assert told == ["The device was full; its cache was emptied."]


def test_what_turns_take_is_not_measured_while_a_job_takes_some(device: Simulated) -> None:
    peaks = Peaks()
    memory = manager(100, device=device, peaks=peaks)
    with reserved(memory, "Job", 30), leased(memory, B) as lease:
        device.take("job", 30)
        assert not lease.is_measured
    assert peaks.workspace("b", 0, 100) == 0


def test_a_job_that_is_stopped_while_it_waits_leaves_the_queue(memory: Manager) -> None:
    stop = threading.Event()
    with leased(memory, A), memory.reserve("Job", 60, stop) as reservation:
        waiting = reservation.wait()
        assert next(waiting).text == "Waiting for memory for Job"
        stop.set()
        with pytest.raises(TurnStoppedError):
            next(waiting)
    assert memory.snapshot().waiting == 0
    assert memory.snapshot().used_bytes == 60


def test_who_waited_too_long_is_told_what_it_waited_for(memory: Manager) -> None:
    with reserved(memory, "Fine-tuning", 70):
        with memory.lease(C, threading.Event(), 0) as chat:
            next(chat.wait())
            chat.idle_since_s -= MAX_WAIT_S
            told = r"C waited 15 minutes for memory, held by Fine-tuning\. Send the message again"
            with pytest.raises(CapacityError, match=told):
                list(chat.wait())
        with memory.reserve("Evaluation", 40, threading.Event()) as other:
            next(other.wait())
            other.idle_since_s -= MAX_WAIT_S
            told = r"^Evaluation waited .* held by Fine-tuning\. Start it again later\.$"
            with pytest.raises(CapacityError, match=told):
                list(other.wait())


def test_a_job_that_waits_for_a_turn_names_no_job(memory: Manager) -> None:
    with leased(memory, A), memory.reserve("Job", 60, threading.Event()) as job:
        next(job.wait())
        job.idle_since_s -= MAX_WAIT_S
        told = r"^Job waited 15 minutes for memory\. Start it again later\.$"
        with pytest.raises(CapacityError, match=told):
            list(job.wait())


def test_a_job_for_which_the_device_has_no_room_may_be_started_again(
    memory: Manager, device: Simulated
) -> None:
    device.others_bytes = 990
    with (
        pytest.raises(DeviceFullError, match=r"Close other programs and start it again\.$"),
        reserved(memory, "Job", 60),
    ):
        pass


def test_nobody_is_asked_for_a_turn_that_has_gone(memory: Manager) -> None:
    stop = threading.Event()
    with reserved(memory, "Job", 70, least=0) as reservation:
        with memory.lease(C, stop, 0) as lease:
            next(lease.wait())
            assert reservation.wanted_bytes == 20
        assert reservation.wanted_bytes == 0


def test_a_lost_card_is_told_to_a_job(memory: Manager, device: Simulated) -> None:
    def reserve() -> None:
        with reserved(memory, "Job", 10):
            device.is_lost = True
            device.take("job", 10)

    for _ in range(2):
        with pytest.raises(DeviceLostError, match="start the program again"):
            reserve()


def test_a_job_is_shown_where_memory_is_shown(memory: Manager) -> None:
    with reserved(memory, "Matrix <b>product</b>", 30):
        snapshot = memory.snapshot()
    assert snapshot.reserved == (("Matrix <b>product</b>", 30),)
    shown = gauge(snapshot, lambda name: name)
    assert "Matrix &lt;b&gt;product&lt;/b&gt;" in shown
    assert 'class="workspace" style="width:30.00%"' in shown


def test_many_turns_and_jobs_together_never_exceed_the_budget(device: Simulated) -> None:
    memory = manager(100, device=device)
    most: list[int] = []

    def seen(work: Callable[[], None]) -> Callable[[], None]:
        def several() -> None:
            for _ in range(15):
                work()
                most.append(memory.snapshot().used_bytes)

        return several

    def hold() -> None:
        with reserved(memory, "Job", 40):
            most.append(memory.snapshot().used_bytes)

    finish(start(seen(lambda: use(memory, A)), seen(lambda: use(memory, B, C)), seen(hold)))
    assert max(most) <= 100
    assert memory.snapshot().reserved == ()
    assert memory.snapshot().waiting == 0
