"""An NVIDIA card. The budget is a hard stop: PyTorch refuses more, and that can be caught.

Models that show their PyTorch modules (`modules()`) leave for page-locked host memory and come
back at the speed of the bus. Their mirrors are filled when they leave for the first time and stay
as long as host memory has room: evicting them again copies nothing.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import MutableMapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import psutil
import torch
from torch import nn

from multimodal.errors import DeviceFullError, SettingsError
from multimodal.memory.calibration.record import Calibration, DeviceFingerprint
from multimodal.memory.calibration.record import read as read_calibration
from multimodal.memory.devices.base import (
    CUDA_CONTEXT_BYTES,
    HOST_SHARE,
    PAGEABLE_BYTES_PER_S,
    PARTLY_SHARE,
    Device,
    spare_host_bytes,
)
from multimodal.memory.devices.device_errors import translate_device_errors
from multimodal.memory.devices.host_slabs import (
    PROBE_BYTES,
    CudaPageLocks,
    HostMemoryPool,
    copied_bytes_per_s,
)
from multimodal.memory.devices.kernels import use_kernels
from multimodal.memory.devices.mirror import HostMirror
from multimodal.memory.devices.nvidia import driver
from multimodal.memory.devices.storages import storage_bytes
from multimodal.memory.headroom import driver_margin_bytes
from multimodal.sizes import gigabytes

log = logging.getLogger(__name__)


PLANS = ("TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT", "1000")
"""How many plans of cuDNN's convolutions PyTorch keeps in a thread, so for a model; read at
the first convolution. A plan takes 33 kB of host memory (H200, torch 2.11) to 200 kB (PyTorch's
documentation, whose own limit of 10,000 is 2 GB). A model needs 40 to 60 for each size of its
pictures, or length of its sounds."""


def limit_convolution_plans(environment: MutableMapping[str, str]) -> None:
    """Bound the plans of convolutions, unless the person has."""
    environment.setdefault(*PLANS)


@runtime_checkable
class MovableModel(Protocol):
    """A model whose weights lie in PyTorch modules that may be moved while nobody uses it."""

    def modules(self) -> Sequence[nn.Module]: ...


def total_gpu_bytes() -> int:
    """The memory of the card that PyTorch finds, 0 without one; takes none of it."""
    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(0).total_memory)


def load_calibration(folder: Path) -> Calibration | None:
    """What was measured of the card that PyTorch finds, where it is kept in `folder`; None without
    a card, and where another card or other releases were measured."""
    if not torch.cuda.is_available():
        return None
    return read_calibration(folder, device_fingerprint())


@cache
def device_fingerprint() -> DeviceFingerprint:
    """What a calibration of the card that PyTorch finds is made for. Asked once: the driver takes
    a moment to tell its version."""
    card = torch.cuda.get_device_properties(0)
    found = driver()
    version = found.version if found is not None else ""
    return DeviceFingerprint.of(
        card.name, int(card.total_memory), str(torch.version.cuda or ""), version
    )


def free_bytes_within(device: torch.device, most_bytes: float) -> int:
    """What PyTorch can still take of that card, of which it may take `most_bytes` in all."""
    free, _total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    cached = torch.cuda.memory_reserved(device) - allocated
    return int(min(free + cached, most_bytes - allocated))


class Cuda(Device):
    """Thread-safe as far as PyTorch is; the manager never moves one model twice at once."""

    engine = "cuda"
    context_bytes = CUDA_CONTEXT_BYTES

    def __init__(self, index: int = 0, calibration: Calibration | None = None) -> None:
        """`calibration`: what was measured of this card, in place of estimates."""
        if not torch.cuda.is_available():
            built = torch.version.cuda
            why = f"built for CUDA {built} finds no card" if built else "is built for the CPU only"
            raise SettingsError(
                f"--device cuda: PyTorch {torch.__version__} {why}. `multimodal doctor` says what "
                "to do; --device cpu needs no card, and --device sim:12GB plays one."
            )
        limit_convolution_plans(os.environ)
        self._device = torch.device("cuda", index)
        self._total = int(torch.cuda.get_device_properties(self._device).total_memory)
        torch.zeros(1, device=self._device)  # makes the context, so that its memory is seen
        self.name = torch.cuda.get_device_name(self._device)
        self._locks = CudaPageLocks(self._device)
        self._mirrors: dict[str, list[HostMirror]] = {}
        """By card, the longest unused first."""
        self._parked: set[str] = set()
        self._host_lock = threading.Lock()
        """Held while mirrors are made, filled or given up."""
        self._kernels_lock = threading.Lock()
        self._has_kernels = False
        self._bus_bytes_per_s = 0.0
        self._has_mirrors = True
        is_spilling: bool | None = None
        if calibration is not None:
            self.context_bytes = calibration.context_bytes or CUDA_CONTEXT_BYTES
            self._bus_bytes_per_s = calibration.bus_bytes_per_s or 0.0
            self._has_mirrors = calibration.has_mirrors
            self.factors = calibration.factors
            is_spilling = calibration.is_spilling
        self._at_start = 0
        self._most = self._total
        self._room = max(0, self.free_bytes() - driver_margin_bytes(is_spilling))

    @property
    def host_bytes(self) -> int:
        """A share of host memory, or of what is left of it now; mirrors that are there count."""
        left = spare_host_bytes() + self._mirrored_bytes()
        return max(0, min(int(psutil.virtual_memory().total * HOST_SHARE), left))

    def set_limit(self, budget_bytes: int) -> None:
        self._most = min(self._total, budget_bytes)
        torch.cuda.set_per_process_memory_fraction(self._most / self._total, self._device)

    def capacity_bytes(self) -> int:
        return self._total

    def usable_bytes(self) -> int:
        return self._room

    def free_bytes(self) -> int:
        """Free by the driver's count, with what PyTorch keeps for later, but no more than its
        limit leaves."""
        return free_bytes_within(self._device, self._most)

    def begin_load(self, card: str, size_bytes: int, parked: bool = False) -> None:
        """Refuse what the driver has no room for, before anything is allocated. Before the first
        model comes, kernels are loaded."""
        with self._kernels_lock:
            if not self._has_kernels:
                self._has_kernels = True
                use_kernels(self._device)
        if (free := self.free_bytes()) < size_bytes:
            raise DeviceFullError(
                f"{self.name}: {gigabytes(size_bytes)} are needed and {gigabytes(free)} free"
            )

    def finish_load(self, card: str, model: object) -> int:
        modules = list(model.modules()) if isinstance(model, MovableModel) else []
        if modules and self._has_mirrors:
            mirrors = [HostMirror(module, self._device, self._locks) for module in modules]
            with self._host_lock:
                self._mirrors[card] = mirrors
        return sum(storage_bytes(module) for module in modules)

    def park(self, card: str, model: object) -> int:
        with self._host_lock:
            mirrors = self._mirrors.get(card, [])
            missing = sum(mirror.missing_bytes() for mirror in mirrors)
            if not self._has_host_room(card, missing):
                return 0
            for mirror in mirrors:
                mirror.evict()
            self._parked.add(card)
            return sum(mirror.size_bytes for mirror in mirrors)

    def restore(self, card: str, model: object) -> None:
        self._bring_back(card, None)

    def restore_partly(self, card: str, model: object) -> bool:
        """As many layers as there is room for; the others visit while they run."""
        if card not in self._mirrors:
            return False
        self._bring_back(card, int(self.free_bytes() * PARTLY_SHARE))
        return True

    def wait_for_copies(self, card: str) -> float | None:
        mirrors = self._mirrors.get(card, [])
        try:
            return max((mirror.arrival_s(mirrors[0]) for mirror in mirrors), default=None)
        except RuntimeError as error:  # the turn that uses the model will meet it, too
            log.warning("%s did not arrive: %s", card, error)
            return None

    def _has_host_room(self, card: str, missing_bytes: int) -> bool:
        """Whether `card` can be parked. Models on the card give up their mirrors for it: filling
        one again takes less than loading what is parked."""
        for other, mirrors in self._mirrors.items():
            if self._mirrored_bytes() + missing_bytes <= self.host_bytes:
                break
            if other != card and other not in self._parked:
                for mirror in mirrors:
                    mirror.release()
        return self._mirrored_bytes() + missing_bytes <= self.host_bytes

    def _mirrored_bytes(self) -> int:
        found = list(self._mirrors.values())
        return sum(mirror.size_bytes for mirrors in found for mirror in mirrors)

    def _bring_back(self, card: str, room: int | None) -> None:
        """All mirrors of `card`, or none of them: where the card is full, what came back leaves."""
        done: list[HostMirror] = []
        try:
            for mirror in self._mirrors[card]:
                with translate_device_errors(self.name):
                    mirror.restore(room)
                done.append(mirror)
                room = None if room is None else max(0, room - mirror.size_bytes)
        except DeviceFullError:
            for mirror in done:
                mirror.evict()
            raise
        with self._host_lock:
            self._parked.discard(card)
            self._mirrors[card] = self._mirrors.pop(card)

    def drop_mirror(self, card: str) -> None:
        with self._host_lock:
            mirrors = self._mirrors.pop(card, [])
            self._parked.discard(card)
        del mirrors
        self.free_cached()

    def free_cached(self) -> None:
        gc.collect()
        if not self.failure:
            torch.cuda.empty_cache()

    def reload_s(self, card: str, size_bytes: int, load_s: float) -> float:
        """From a mirror, if the model can have one; the disk otherwise."""
        mirrors = self._mirrors.get(card, [])
        if not mirrors or size_bytes > self.host_bytes:
            return load_s
        is_slow = any(mirror.size_bytes and not mirror.is_pinned for mirror in mirrors)
        return size_bytes / (PAGEABLE_BYTES_PER_S if is_slow else self.bus_bytes_per_s())

    def bus_bytes_per_s(self) -> float:
        """Locked host memory to the card, measured once with a quarter of a gigabyte."""
        if not self._bus_bytes_per_s:
            try:
                with closing(HostMemoryPool([PROBE_BYTES], self._locks)) as slabs:
                    self._bus_bytes_per_s = copied_bytes_per_s(slabs.tensors[0], self._device)
            except (OSError, RuntimeError) as error:
                log.warning("%s: the bus could not be measured: %s", self.name, error)
                self._bus_bytes_per_s = PAGEABLE_BYTES_PER_S
        return self._bus_bytes_per_s

    def cpu_free_bytes(self) -> int:
        return int(psutil.virtual_memory().available)

    def reset_turn_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)
        self._at_start = torch.cuda.memory_allocated(self._device)

    def turn_peak_bytes(self) -> int:
        return int(torch.cuda.max_memory_allocated(self._device)) - self._at_start
