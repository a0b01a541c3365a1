"""An NVIDIA card. The budget is a hard stop: PyTorch refuses more, and that can be caught.

Models that show their PyTorch modules (`modules()`) are mirrored in pinned host memory when they
have been loaded; evicting one then copies nothing, and restoring runs at the speed of the bus.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import psutil
import torch
from torch import nn

from multimodal.errors import DeviceFullError, SettingsError
from multimodal.memory.devices import CUDA_CONTEXT_BYTES
from multimodal.memory.mirror import Mirror
from multimodal.memory.reserve import DRIVER_MARGIN_BYTES
from multimodal.memory.storages import true_bytes
from multimodal.sizes import gigabytes

log = logging.getLogger(__name__)

HOST_SHARE = 0.5
"""Of host memory, for mirrors. Windows pins no more than about half of it."""
PARTLY_SHARE = 0.6
"""Of what is free, for the layers that stay; visitors and activations need the rest."""
PROBE_BYTES = 1 << 28


@runtime_checkable
class Movable(Protocol):
    """A model whose weights lie in PyTorch modules that may be moved while nobody uses it."""

    def modules(self) -> Sequence[nn.Module]: ...


def card_bytes() -> int:
    """The memory of the card that PyTorch finds, 0 without one; takes none of it."""
    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(0).total_memory)


class Cuda:
    """Thread-safe as far as PyTorch is; the manager never moves one model twice at once."""

    engine = "cuda"
    simulated = False
    context_bytes = CUDA_CONTEXT_BYTES

    def __init__(self, index: int = 0) -> None:
        if not torch.cuda.is_available():
            built = torch.version.cuda
            why = f"built for CUDA {built} finds no card" if built else "is built for the CPU only"
            raise SettingsError(
                f"--device cuda: PyTorch {torch.__version__} {why}. `multimodal doctor` says what "
                "to do; --device cpu needs no card, and --device sim:12GB plays one."
            )
        self._device = torch.device("cuda", index)
        self._total = int(torch.cuda.get_device_properties(self._device).total_memory)
        torch.zeros(1, device=self._device)  # makes the context, so that its memory is seen
        self.name = torch.cuda.get_device_name(self._device)
        self.host_bytes = int(psutil.virtual_memory().total * HOST_SHARE)
        self._mirrors: dict[str, list[Mirror]] = {}
        self._bus_bytes_per_s = 0.0
        self._at_start = 0
        self._room = max(0, self.free_bytes() - DRIVER_MARGIN_BYTES)

    def limit(self, budget_bytes: int) -> None:
        share = min(1.0, budget_bytes / self._total)
        torch.cuda.set_per_process_memory_fraction(share, self._device)

    def capacity_bytes(self) -> int:
        return self._total

    def room_bytes(self) -> int:
        return self._room

    def free_bytes(self) -> int:
        """Free by the driver's count, and what PyTorch keeps for later."""
        free, _total = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(
            self._device
        )
        return int(free + cached)

    def now_s(self) -> float:
        return time.monotonic()

    def hold(self, card: str, size_bytes: int, parked: bool = False) -> None:
        """Refuse what the driver has no room for, before anything is allocated."""
        if (free := self.free_bytes()) < size_bytes:
            raise DeviceFullError(
                f"{self.name}: {gigabytes(size_bytes)} are needed and {gigabytes(free)} free"
            )

    def drop(self, card: str) -> None:
        """PyTorch keeps the books."""

    def loaded(self, card: str, model: object) -> int:
        """Mirror a model that was just loaded, if host memory has room; returns its true bytes."""
        modules = list(model.modules()) if isinstance(model, Movable) else []
        sizes = [true_bytes(module) for module in modules]
        held = sum(m.size_bytes for mirrors in self._mirrors.values() for m in mirrors)
        if modules and held + sum(sizes) <= self.host_bytes:
            try:
                self._mirrors[card] = [Mirror(module, self._device, pin=True) for module in modules]
            except RuntimeError as error:  # no more memory can be pinned
                log.warning("%s is not mirrored in host memory: %s", card, error)
        return sum(sizes)

    def park(self, card: str, model: object) -> int:
        mirrors = self._mirrors.get(card, [])
        for mirror in mirrors:
            mirror.evict()
        return sum(mirror.size_bytes for mirror in mirrors)

    def restore(self, card: str, model: object) -> None:
        self._bring_back(self._mirrors[card], None)

    def restore_partly(self, card: str, model: object) -> bool:
        """As many layers as there is room for; the others visit while they run."""
        self._bring_back(self._mirrors.get(card, []), int(self.free_bytes() * PARTLY_SHARE))
        return card in self._mirrors

    def _bring_back(self, mirrors: Sequence[Mirror], room: int | None) -> None:
        """All of `mirrors`, or none of them: where the card is full, what came back leaves."""
        done: list[Mirror] = []
        try:
            for mirror in mirrors:
                with translated(self.name):
                    mirror.restore(room)
                done.append(mirror)
                room = None if room is None else max(0, room - mirror.size_bytes)
        except DeviceFullError:
            for mirror in done:
                mirror.evict()
            raise

    def forget(self, card: str) -> None:
        self._mirrors.pop(card, None)
        self.collect()

    def collect(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()

    def reload_s(self, size_bytes: int, load_s: float) -> float:
        return size_bytes / self.bus_bytes_per_s()

    def bus_bytes_per_s(self) -> float:
        """Pinned host memory to the card, measured once with a quarter of a gigabyte."""
        if not self._bus_bytes_per_s:
            host = torch.empty(PROBE_BYTES, dtype=torch.uint8, pin_memory=True)
            card = torch.empty_like(host, device=self._device)
            card.copy_(host)
            torch.cuda.current_stream(self._device).synchronize()
            started_s = time.perf_counter()
            card.copy_(host, non_blocking=True)
            torch.cuda.current_stream(self._device).synchronize()
            self._bus_bytes_per_s = PROBE_BYTES / (time.perf_counter() - started_s)
        return self._bus_bytes_per_s

    def beside_bytes(self) -> int:
        return int(psutil.virtual_memory().available)

    def turn_begins(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)
        self._at_start = torch.cuda.memory_allocated(self._device)

    def turn_peak_bytes(self) -> int:
        return int(torch.cuda.max_memory_allocated(self._device)) - self._at_start


@contextmanager
def translated(name: str) -> Iterator[None]:
    """PyTorch's out-of-memory error as ours."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceFullError(f"{name}: out of memory") from error
