"""The threads in which a model computes: reused, free when the stream ends, gone with the model."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT, wait_until
from text_requests import QUESTION, ask
from tiny_models import load_causal, save_causal

from multimodal.backends.worker import Worker
from multimodal.errors import BackendError, DeviceFullError, PromptError
from multimodal.events import EngineEvent, Notice
from multimodal.memory.devices.device_errors import device_error, is_gpu_in_use

Emit = Callable[[EngineEvent], None]
Stopped = Callable[[], bool]


class OutOfMemoryError(RuntimeError):
    """As PyTorch names it."""


def always() -> bool:
    return True


def note_thread(emit: Emit, stopped: Stopped) -> None:
    emit(Notice(str(threading.get_ident())))


def endless(emit: Emit, stopped: Stopped) -> None:
    note_thread(emit, stopped)
    while not stopped():
        threading.Event().wait(0.01)


def thread_of(worker: Worker) -> str:
    """In which thread a turn of that worker computes."""
    (event,) = worker.stream(note_thread, threading.Event())
    assert isinstance(event, Notice)
    return event.text


def engines() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "engine"}


def test_turns_of_one_model_compute_in_one_thread() -> None:
    before, worker = engines(), Worker(always)
    assert len({thread_of(worker) for _ in range(20)}) == 1
    assert len(engines() - before) == 1


def test_each_model_computes_in_a_thread_of_its_own() -> None:
    first, second = Worker(always), Worker(always)
    assert thread_of(first) != thread_of(second)


def test_no_thread_is_there_before_the_first_turn() -> None:
    before, worker = engines(), Worker(always)
    worker.stream(note_thread, threading.Event())
    assert engines() == before


def test_two_turns_at_once_compute_at_once_and_leave_two_threads() -> None:
    before, worker = engines(), Worker(always)
    meeting = threading.Barrier(2, timeout=30)

    def meet(emit: Emit, stopped: Stopped) -> None:
        meeting.wait()
        note_thread(emit, stopped)

    def take(_: int) -> str:
        (event,) = worker.stream(meet, threading.Event())
        assert isinstance(event, Notice)
        return event.text

    def both() -> set[str]:
        with ThreadPoolExecutor(2) as people:
            return set(people.map(take, range(2)))

    first = both()
    assert len(first) == 2
    assert both() == first
    assert {thread_of(worker) for _ in range(4)} <= first
    assert len(engines() - before) == 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ValueError("a bad number"), BackendError),
        (PromptError("too long"), PromptError),
        (OutOfMemoryError("full"), DeviceFullError),
        (KeyboardInterrupt(), BackendError),
    ],
)
def test_an_error_is_raised_to_the_consumer_and_leaves_the_thread_usable(
    error: BaseException, raised: type[Exception]
) -> None:
    worker = Worker(always)

    def fail(emit: Emit, stopped: Stopped) -> None:
        emit(Notice("begun"))
        raise error

    before = thread_of(worker)
    events = worker.stream(fail, threading.Event())
    assert next(events) == Notice("begun")
    with pytest.raises(raised):
        next(events)
    assert thread_of(worker) == before


@pytest.mark.parametrize("by", ["close", "stop"])
def test_a_stream_ends_only_when_the_work_has_returned(by: str) -> None:
    worker, stop, done = Worker(always), threading.Event(), threading.Event()

    def work(emit: Emit, stopped: Stopped) -> None:
        endless(emit, stopped)
        threading.Event().wait(0.05)
        done.set()

    before = thread_of(worker)
    events = worker.stream(work, stop)
    next(events)
    if by == "stop":
        stop.set()
        assert list(events) == []
    else:
        events.close()
    assert done.is_set()
    assert thread_of(worker) == before, "and the next turn works"


def test_an_abandoned_stream_leaves_its_thread_to_the_next_turn() -> None:
    worker = Worker(always)
    event = next(worker.stream(endless, threading.Event()))
    assert isinstance(event, Notice)
    assert thread_of(worker) == event.text


@pytest.mark.parametrize("end", ["close", "forget"])
def test_a_closed_or_forgotten_worker_ends_its_threads(end: str) -> None:
    before, worker = engines(), Worker(always)
    thread_of(worker)
    assert engines() != before
    if end == "close":
        worker.close()
    else:
        del worker
    wait_until(lambda: engines() <= before, 60)


def test_an_idle_thread_holds_nothing_of_the_turn_before() -> None:
    class Large:
        pass

    worker = Worker(always)

    def work_on(large: Large) -> Callable[[Emit, Stopped], None]:
        return lambda emit, stopped: emit(Notice(repr(large)))

    large = Large()
    held = weakref.ref(large)
    assert len(list(worker.stream(work_on(large), threading.Event()))) == 1
    del large
    assert held() is None


@pytest.mark.parametrize("imported", [["torch"], ["torch", "torch.cuda"]], ids=lambda it: it[-1])
def test_a_turn_ends_while_another_thread_imports_pytorch(
    imported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a GGUF model does not need it, and somebody's picture may do so for the first time."""
    monkeypatch.delitem(sys.modules, "torch.cuda", raising=False)
    for name in imported:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    found: list[str] = []
    turn = threading.Thread(target=lambda: found.append(thread_of(Worker())), daemon=True)
    turn.start()
    turn.join(30)
    assert found
    assert not is_gpu_in_use()
    assert device_error(RuntimeError("CUDNN_STATUS_INTERNAL_ERROR")) is None


def test_a_turn_ends_where_the_thread_cannot_tell_whether_it_is_reused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def lasts() -> bool:
        raise OSError("cannot be told")

    worker = Worker(lasts)
    assert thread_of(worker)
    assert thread_of(worker), "and so does the next"
    wait_until(lambda: len(told) == 2, 60)


def test_turns_end_whenever_the_model_is_closed() -> None:
    worker, ended = Worker(always), threading.Event()
    before = sys.getswitchinterval()

    def close_often() -> None:
        while not ended.is_set():
            worker.close()

    def take_turns() -> None:
        for _ in range(2000):
            thread_of(worker)

    turns = [threading.Thread(target=take_turns, daemon=True) for _ in range(3)]
    closing = threading.Thread(target=close_often, daemon=True)
    try:
        sys.setswitchinterval(1e-6)
        for thread in (*turns, closing):
            thread.start()
        for turn in turns:
            turn.join(60)
        assert not any(turn.is_alive() for turn in turns)
    finally:
        sys.setswitchinterval(before)
        ended.set()


def test_what_failed_holds_nothing_while_room_is_made() -> None:
    """The error that is kept must not keep half a model on the device."""

    class Large:
        pass

    held: list[weakref.ref[Large]] = []

    def work(emit: Any, stopped: Any) -> None:
        half = Large()
        held.append(weakref.ref(half))
        raise OutOfMemoryError("full")

    with pytest.raises(DeviceFullError) as raised:
        list(Worker(always).stream(work, threading.Event()))
    assert raised.value.__cause__ is not None
    assert held[0]() is None


STUCK = """
import threading
from multimodal.backends.worker import Worker, is_gpu_in_use

def stuck(emit, stopped):
    begun.set()
    threading.Event().wait()

begun, worker = threading.Event(), Worker(lambda: True)
ended = worker.stream(lambda emit, stopped: None, threading.Event())
assert list(ended) == []
turn = lambda: list(worker.stream(stuck, threading.Event()))
threading.Thread(target=turn, daemon=True).start()
assert begun.wait(30)
print("over")
"""
"""One turn that ended, and one that never will."""


def test_a_turn_that_never_ends_does_not_hold_up_the_end_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "over\n"


@pytest.mark.skipif(is_gpu_in_use(), reason="threads last in a process that uses a card")
def test_without_a_card_no_thread_is_left_when_a_turn_has_ended(tmp_path: Path) -> None:
    before = engines()
    model = load_causal((tmp_path, save_causal(tmp_path, "llama")))
    for _ in range(3):
        ask(model, QUESTION)
        wait_until(lambda: engines() <= before, 60)
