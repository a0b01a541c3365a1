"""One request to one model: leased, run, and recovered where the device is full. Turns, the HTTP
interface and whatever else asks a model do so here; a job that needs no model of the catalog holds
a reservation, and recovers by the same steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from multimodal.backends.base import AdapterHost, Backend
from multimodal.catalog.cards import ModelCard
from multimodal.errors import DeviceFullError
from multimodal.events import EngineEvent, Notice, Preview, Progress
from multimodal.memory.estimate.footprint import adapter_bytes
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager
from multimodal.memory.reservation import Reservation
from multimodal.oom_fallbacks import fallbacks
from multimodal.requests import Request

T = TypeVar("T")


@dataclass
class Run:
    """A place in the queue for one model, then the right to use it. `card` is that of the lease, or
    that of an adapter which the model is given for each request."""

    memory: MemoryManager[Backend]
    lease: Lease[Backend]
    stop: threading.Event
    card: ModelCard
    switch_s: float = 0.0
    """Seconds that it took to put the adapter on."""

    def acquire(self) -> Iterator[Progress | Notice]:
        """Wait for the model; where the device had no room for it whatever was done, it is loaded
        on the CPU. Yields Progress, and a Notice for what had to be given up, or where an adapter
        could not be put on the model that is there."""
        try:
            yield from self.lease.wait()
        except DeviceFullError:
            if (told := self.memory.cpu_fallback(self.lease)) is None:
                raise
            yield Notice(told)
        for told in self.lease.notices:
            yield Notice(told)
        if self.card is self.lease.card and self.card.adapter is not None and self.lease.load_s:
            yield Notice(
                f"{self.card.title} was loaded anew in {self.lease.load_s:.1f} s, with its base: "
                "this engine takes an adapter only as it loads a model."
            )

    def run(self, request: Request) -> Generator[EngineEvent, None, None]:
        """The events of the engine. Where the device is full before anything was said, do what can
        be done about it, one thing after another, and run it again."""
        ways = fallbacks(self.memory, self.lease, request)
        said = False
        while True:
            try:
                with closing(self._events(request)) as events:
                    for event in events:
                        said = said or not isinstance(event, Progress | Notice | Preview)
                        yield event
                return
            except DeviceFullError:
                if said or (way := next(ways, None)) is None:
                    raise
                told, request = way
                yield Notice(told)

    def _events(self, request: Request) -> Generator[EngineEvent, None, None]:
        backend = self.lease.backend
        if self.card is self.lease.card:
            yield from backend.run(request, self.stop)
            return
        adapted = cast("AdapterHost", backend).adapted(self.card)
        try:
            yield from adapted.run(request, self.stop)
        finally:
            self.switch_s += adapted.switch_s


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
    """Runs requests on the models of one memory manager; thread-safe. `resident` tells the card of
    what must be in memory for another one, such as the base of an adapter (`Offer.resident`)."""

    def __init__(
        self,
        memory: MemoryManager[Backend],
        resident: Callable[[ModelCard], ModelCard] = lambda card: card,
    ) -> None:
        self._memory = memory
        self._resident = resident

    @contextmanager
    def open(self, card: ModelCard, stop: threading.Event) -> Iterator[Run]:
        """Queue for `card`. `acquire()` must be exhausted before `run()`."""
        base = self._resident(card)
        beside = 0 if base is card else adapter_bytes(card)
        with self._memory.lease(base, stop, adapter_bytes=beside) as lease:
            yield Run(self._memory, lease, stop, card)

    def run(
        self, card: ModelCard, request: Callable[[], Request], stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Queue, acquire and run in one. `request` is called once the model is there, since a long
        recording takes memory."""
        with self.open(card, stop) as run:
            yield from run.acquire()
            yield from run.run(request())
