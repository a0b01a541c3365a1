"""Models on their way: from the disk or their mirror onto the device, and off it again.

What leaves is not copied back: its weights never change, and a mirror of them stays in host memory,
as long as there is room for it. When the device itself is full, whatever the budget says, one step
after another is taken, once, and told: give back what is only cached, evict one idle model, evict
all of them, give up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from multimodal.catalog.cards import ModelCard
from multimodal.errors import DeviceFullError
from multimodal.events import Progress
from multimodal.memory.devices.base import Device
from multimodal.memory.lease import B, Closable
from multimodal.memory.records import How, MirroredEntry

log = logging.getLogger(__name__)

B_co = TypeVar("B_co", bound=Closable, covariant=True)
ReportProgress = Callable[[Progress], None]
PARTLY = "Only part of it fits now; the rest is copied in as it runs, which is slow."


class ModelSource(Protocol[B_co]):
    """Gets weights and turns them into a loaded model; both may take long and may fail."""

    def fetch(self, card: ModelCard, report: ReportProgress) -> Path: ...

    def load(self, card: ModelCard, files: Path, engine: str) -> B_co: ...


@dataclass(frozen=True, slots=True)
class LoadResult(Generic[B]):
    """A model that has arrived, or whose last layers are on their way (`Device.settle`). `seconds`
    on the device's clock, without any download; `is_partial`: layers of it only visit."""

    model: B
    how: How
    seconds: float
    recoveries: tuple[str, ...]
    true_bytes: int
    is_partial: bool = False


class Transfers(Generic[B]):
    """Every method is thread-safe, but the caller sees to it that one model is not loaded and
    sent away at once."""

    def __init__(self, device: Device, source: ModelSource[B]) -> None:
        self._device = device
        self._source = source
        self._lock = threading.Lock()
        self._parked: dict[str, tuple[B, int]] = {}

    @property
    def mirrored_entries(self) -> tuple[MirroredEntry, ...]:
        """Evicted models whose weights stay in host memory, the longest there first."""
        with self._lock:
            return tuple(MirroredEntry(name, size) for name, (_, size) in self._parked.items())

    def load(
        self,
        card: ModelCard,
        size_bytes: int,
        report: ReportProgress,
        evict_idle: Callable[[int | None], int],
        admitted: Callable[[], None],
    ) -> LoadResult[B]:
        """Load or restore `card`. `evict_idle(n)` sends away up to n idle models (None: all) and
        returns how many; `admitted()` is called once the device counts the model's bytes.

        Raises what the source raises, and DeviceFullError after the last step.
        """
        with self._lock:
            parked = self._parked.pop(card.name, None)
        try:
            return self._load(card, parked, size_bytes, report, evict_idle, admitted)
        except BaseException:
            if parked:  # what could not be restored stays parked
                self._keep(card.name, parked)
            else:
                self._forget(card.name)
            raise

    def _load(
        self,
        card: ModelCard,
        parked: tuple[B, int] | None,
        size_bytes: int,
        report: ReportProgress,
        evict_idle: Callable[[int | None], int],
        admitted: Callable[[], None],
    ) -> LoadResult[B]:
        files = Path() if parked else self._source.fetch(card, report)
        verb = "Restoring" if parked else "Loading"
        report(Progress(f"{verb} {card.title}"))
        started_s = self._device.now_s()
        recoveries: list[str] = []
        for step in self.oom_recovery_steps(evict_idle):
            try:
                self._device.begin_load(card.name, size_bytes, parked is not None)
                admitted()
                model, true_bytes = self._arrived(card, parked, files)
            except DeviceFullError as error:
                self._device.remove(card.name)
                if (told := step()) is None:
                    if parked and self._partly(card, parked[0]):
                        seconds = self._device.now_s() - started_s
                        return LoadResult(
                            parked[0], "restored", seconds, (*recoveries, PARTLY), 0, True
                        )
                    raise DeviceFullError(f"{error}. Close other programs that use it.") from error
                recoveries.append(told)
                report(Progress(f"{told} {verb} {card.title}"))
            else:
                seconds = self._device.now_s() - started_s
                how: How = "restored" if parked else "loaded"
                return LoadResult(model, how, seconds, tuple(recoveries), true_bytes)
        raise AssertionError("the last step of the recovery raises")

    def _arrived(self, card: ModelCard, parked: tuple[B, int] | None, files: Path) -> tuple[B, int]:
        """The model on the device, and its true bytes, 0 if they are not known."""
        if parked is None:
            model = self._source.load(card, files, self._device.engine)
            return model, self._device.finish_load(card.name, model)
        self._device.restore(card.name, parked[0])
        return parked[0], 0

    def _partly(self, card: ModelCard, model: B) -> bool:
        """The last resort for a model whose mirror is there."""
        try:
            return self._device.restore_partly(card.name, model)
        except DeviceFullError:
            return False

    def oom_recovery_steps(
        self, evict_idle: Callable[[int | None], int], in_turn: bool = False
    ) -> Iterator[Callable[[], str | None]]:
        """What to do after each failed try: told in words, or None where it could not help.

        A turn begins by sending a model away (`in_turn`): PyTorch has emptied its cache before it
        tells that the device is full, and the turn would only fail once more.
        """

        def collect() -> str:
            self._device.free_cached()
            return "The device was full; its cache was emptied."

        def evict(count: int | None) -> str | None:
            gone = evict_idle(count)
            self._device.free_cached()
            left = "one idle model left" if gone == 1 else f"{gone} idle models left"
            return f"The device was full; {left}." if gone else None

        if in_turn:
            yield lambda: evict(1) or collect()
        else:
            yield collect
            yield lambda: evict(1)
        yield lambda: evict(None)
        yield lambda: None

    def load_on_cpu(self, card: ModelCard) -> B:
        """A copy of the model on the CPU, which nobody keeps books of. Raises what loading does."""
        return self._source.load(card, self._source.fetch(card, lambda progress: None), "cpu")

    def evict(self, card: ModelCard, model: B, size_bytes: int) -> None:
        """Take the model off the device: parked if host memory has room for its mirror, else
        closed. Those that were parked longest make that room."""
        most, kept = self._device.host_bytes, 0
        if size_bytes <= most:
            self._leave_at_most(most - size_bytes)
        try:
            kept = self._device.park(card.name, model)
        except Exception:
            log.exception("%s could not be kept in host memory", card.title)
        if not kept:
            self.close(card.name, model)
            return
        self._keep(card.name, (model, kept))

    def close(self, name: str, model: B) -> None:
        try:
            model.close()
        except Exception:
            log.exception("%s could not be closed", name)
        self._forget(name)

    def close_on_cpu(self, card: ModelCard, model: B) -> None:
        """Close a copy on the CPU. What goes wrong is no fault of the turn, which is over."""
        try:
            model.close()
            self._device.free_cached()
        except Exception:
            log.exception("the copy of %s on the CPU could not be closed", card.title)

    @property
    def parked_bytes(self) -> int:
        with self._lock:
            return sum(size for _, size in self._parked.values())

    def give_up(self, size_bytes: int) -> None:
        """Close the models that were parked longest until so many bytes are free."""
        self._leave_at_most(max(0, self.parked_bytes - size_bytes))

    def close_parked(self, name: str) -> bool:
        """Close that model if it is parked; whether it was."""
        with self._lock:
            parked = self._parked.pop(name, None)
        if parked is not None:
            self.close(name, parked[0])
        return parked is not None

    def forget(self) -> None:
        """Close every model that is parked; for the end of the program."""
        self._leave_at_most(0)

    def _keep(self, name: str, parked: tuple[B, int]) -> None:
        with self._lock:
            self._parked[name] = parked
        self._leave_at_most(self._device.host_bytes)

    def _leave_at_most(self, most_bytes: int) -> None:
        """Close the models that were parked longest until the rest takes no more than that."""
        gone: list[tuple[str, B]] = []
        with self._lock:
            while sum(size for _, size in self._parked.values()) > most_bytes:
                name = next(iter(self._parked))
                gone.append((name, self._parked.pop(name)[0]))
        for name, model in gone:
            self.close(name, model)

    def _forget(self, name: str) -> None:
        try:
            self._device.drop_mirror(name)
        except Exception:
            log.exception("%s could not be taken off %s", name, self._device.name)
