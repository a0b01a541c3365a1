"""A memory manager of a hundred bytes, and short words for using it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fakes import FakeBackend, FakeSource, card

from multimodal.catalog.cards import ModelCard
from multimodal.memory.devices.cuda import Cuda
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.lease import Lease
from multimodal.memory.manager import MemoryManager

A, B, C = card("a", size=60), card("b", size=30), card("c", size=50)
Manager = MemoryManager[FakeBackend]


class Slow(FakeSource):
    """Models that do something before they close."""

    def __init__(self, on_close: Callable[[], Any]) -> None:
        super().__init__()
        self.on_close = on_close

    def load(self, card: ModelCard, files: Path, engine: str) -> FakeBackend:
        super().load(card, files, engine)
        return _Slow(card, self)


class _Slow(FakeBackend):
    source: Slow

    def close(self) -> None:
        self.source.on_close()
        super().close()


def manager(
    budget: int = 100, source: FakeSource | None = None, device: Simulated | None = None
) -> Manager:
    return MemoryManager(device or Simulated(1000), budget, source or FakeSource())


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


def start(*turns: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=turn) for turn in turns]
    for thread in threads:
        thread.start()
    return threads


def finish(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


class CardOnCpu(Cuda):
    """`Cuda` with the CPU as its card, so that no driver is asked, and so many bytes for
    mirrors."""

    def __init__(self, most_host_bytes: int) -> None:
        self.name = "RTX"
        self.most_host_bytes = most_host_bytes
        self._device, self._locks = torch.device("cpu"), None
        self._mirrors, self._parked = {}, set()
        self._host_lock = threading.Lock()
        self._kernels_lock, self._has_kernels = threading.Lock(), False
        self._bus_bytes_per_s, self._has_mirrors = 10e9, True

    @property
    def host_bytes(self) -> int:
        return self.most_host_bytes
