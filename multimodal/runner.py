"""One request to one model: leased, run, and recovered where the device is full. Turns, the HTTP
interface and whatever else asks a model do so here; a job that needs no model of the catalog holds
a reservation, and recovers by the same steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from multimodal.backends.base import Backend
from multimodal.catalog.cards import ModelCard
from multimodal.errors import DeviceFullError
from multimodal.events import EngineEvent, Notice, Preview, Progress
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager
from multimodal.memory.reservation import Reservation
from multimodal.oom_fallbacks import fallbacks
from multimodal.requests import Request

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A place in the queue for one model, then the right to use it."""

    memory: MemoryManager[Backend]
    lease: Lease[Backend]
    stop: threading.Event

    def acquire(self) -> Iterator[Progress | Notice]:
        """Wait for the model; where the device had no room for it whatever was done, it is loaded
        on the CPU. Yields Progress, and a Notice for what had to be given up."""
        try:
            yield from self.lease.wait()
        except DeviceFullError:
            if (told := self.memory.cpu_fallback(self.lease)) is None:
                raise
            yield Notice(told)
        for told in self.lease.notices:
            yield Notice(told)

    def run(self, request: Request) -> Generator[EngineEvent, None, None]:
        """The events of the engine. Where the device is full before anything was said, do what can
        be done about it, one thing after another, and run it again."""
        ways = fallbacks(self.memory, self.lease, request)
        said = False
        while True:
            try:
                with closing(self.lease.backend.run(request, self.stop)) as events:
                    for event in events:
                        said = said or not isinstance(event, Progress | Notice | Preview)
                        yield event
                return
            except DeviceFullError:
                if said or (way := next(ways, None)) is None:
                    raise
                told, request = way
                yield Notice(told)


def recover(
    memory: MemoryManager[Any],
    reservation: Reservation,
    work: Callable[[], T],
    tell: Callable[[str], object],
) -> T:
    """The result of `work`, a step of a job that holds `reservation`. Where the device is full, the
    same is done about it as for a turn, told in words, and the step is tried again; DeviceFullError
    once nothing is left to do."""
    while True:
        try:
            return work()
        except DeviceFullError:
            if (told := memory.recover_from_oom(reservation)) is None:
                raise
            tell(told)


class Runner:
    """Runs requests on the models of one memory manager; thread-safe."""

    def __init__(self, memory: MemoryManager[Backend]) -> None:
        self._memory = memory

    @contextmanager
    def open(self, card: ModelCard, stop: threading.Event) -> Iterator[Run]:
        """Queue for `card`. `acquire()` must be exhausted before `run()`."""
        with self._memory.lease(card, stop) as lease:
            yield Run(self._memory, lease, stop)

    def run(
        self, card: ModelCard, request: Callable[[], Request], stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Queue, acquire and run in one. `request` is called once the model is there, since a long
        recording takes memory."""
        with self.open(card, stop) as run:
            yield from run.acquire()
            yield from run.run(request())
