"""One decoder at a time, in order; who has left, or comes when too many wait, holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import wait_until

from multimodal.errors import CapacityError, MediaError, TurnStoppedError
from multimodal.media.decode_queue import DecodeQueue

NEVER = threading.Event()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as callers:
        yield callers


def test_one_is_decoded_at_a_time_in_the_order_of_asking(callers: ThreadPoolExecutor) -> None:
    queue, gate = DecodeQueue("test"), threading.Event()
    begun: list[int] = []
    running = most = 0

    def work(number: int) -> int:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        begun.append(number)
        gate.wait(60)
        running -= 1
        return number

    asked = []
    for number in range(5):
        asked.append(callers.submit(queue.run, lambda n=number: work(n), NEVER))
        wait_until(lambda: len(begun) == 1 and asked[-1].running(), 60)
    gate.set()
    assert sorted(future.result() for future in asked) == list(range(5))
    assert most == 1
    assert begun[0] == 0


def test_who_leaves_gives_the_place_up_at_once(callers: ThreadPoolExecutor) -> None:
    queue, gate, left = DecodeQueue("test", waiting=1), threading.Event(), threading.Event()
    first = callers.submit(queue.run, lambda: gate.wait(60), NEVER)
    wait_until(lambda: first.running(), 60)
    ran: list[str] = []
    second = callers.submit(queue.run, lambda: ran.append("second"), left)
    left.set()
    with pytest.raises(TurnStoppedError):
        second.result(30)
    third = callers.submit(queue.run, lambda: ran.append("third"), NEVER)
    gate.set()
    third.result(30)
    assert ran == ["third"]


def test_more_than_can_wait_are_told_to_come_again(callers: ThreadPoolExecutor) -> None:
    queue, gate, begun = DecodeQueue("test", waiting=1), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(60)

    asked = [callers.submit(queue.run, work, NEVER)]
    assert begun.wait(60)
    refusals = [callers.submit(queue.run, work, NEVER) for _ in range(3)]
    wait_until(lambda: sum(future.done() for future in refusals) == 2, 60)
    gate.set()
    faults = [future.exception(30) for future in (*asked, *refusals)]
    assert sum(isinstance(fault, CapacityError) for fault in faults) == 2
    assert queue.run(lambda: "again", NEVER) == "again"


def test_what_fails_is_told_to_who_asked() -> None:
    queue = DecodeQueue("test")

    def fail(error: Exception) -> None:
        raise error

    for error in (MediaError("It is damaged."), TimeoutError("inside the work")):
        with pytest.raises(type(error), match=str(error)):
            queue.run(lambda error=error: fail(error), NEVER)
    assert queue.run(lambda: 3, NEVER) == 3
