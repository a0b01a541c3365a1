"""Where models live: how much a device holds, how much of that is free, how time passes on it.

A device only measures. Who may come in is decided by the ledger (`memory/ledger.py`).
"""

from __future__ import annotations

import gc
import sys
import time
from ctypes.util import find_library
from pathlib import Path

import psutil

from multimodal.memory.estimate.factors import ESTIMATE, PeakFactors

CUDA_CONTEXT_BYTES = 800_000_000
"""Kept free of models for the CUDA context, cuBLAS and cuDNN. A reserve, not a measurement."""

PAGEABLE_BYTES_PER_S = 6e9
"""From host memory that is not locked to a card, or where the bus could not be measured: a low
guess."""
HOST_SHARE = 0.4
"""Of a machine's memory, for mirrors of models that left the card, and as much for models that
compute on the CPU beside it. Windows locks no more than about half of it."""
HOST_MARGIN_BYTES = 2_000_000_000
"""Of host memory that nobody uses, left to the program itself, to others and to files."""
PARTLY_SHARE = 0.6
"""Of what is free, for the layers of a model that stay; visitors and activations need the rest."""


def spare_host_bytes() -> int:
    """What host memory has left for what need not be kept there."""
    return int(psutil.virtual_memory().available) - HOST_MARGIN_BYTES


class Device:
    """A device of which nothing is known but how much is free: models are loaded onto it, and
    closed. What it can do beyond that, its class does.

    `engine` names the device that backends really load onto ("cpu", "cuda"). `context_bytes` is
    what a budget for the device holds beside models and turns. `factors`: what turns take of what
    is counted for them. `failure`, which the manager sets, is the sentence why the device cannot be
    used any more; empty while it can."""

    name: str
    engine = "cpu"
    simulated = False
    context_bytes = 0
    factors: PeakFactors = ESTIMATE
    failure = ""

    @property
    def host_bytes(self) -> int:
        """The most that mirrors of evicted models may take of host memory now; 0: none are
        kept."""
        return 0

    def capacity_bytes(self) -> int:
        raise NotImplementedError

    def free_bytes(self) -> int:
        raise NotImplementedError

    def usable_bytes(self) -> int:
        """The most that models may ever take: of a card, what was free when the program started,
        less a margin."""
        return self.capacity_bytes()

    def now_s(self) -> float:
        return time.monotonic()

    def set_limit(self, budget_bytes: int) -> None:
        """Let the device itself refuse more than that, where it can."""

    def begin_load(self, card: str, size_bytes: int, parked: bool = False) -> None:
        """A model of that size was admitted and is about to be loaded, or to be restored if it is
        `parked`. Raises DeviceFullError."""

    def remove(self, card: str) -> None:
        """The model is gone from the device."""

    def finish_load(self, card: str, model: object) -> int:
        """A model was loaded, and may be parked; its true bytes, 0 where they cannot be known."""
        return 0

    def park(self, card: str, model: object) -> int:
        """Take the model off the device and keep its weights in host memory; the bytes they take
        there, or 0 where this cannot be done and the model must be closed."""
        return 0

    def restore(self, card: str, model: object) -> None:
        """Bring a parked model back. Raises DeviceFullError, and the model stays parked."""

    def restore_partly(self, card: str, model: object) -> bool:
        """Bring back what there is room for, so that the model runs slowly; False where that cannot
        be done."""
        return False

    def wait_for_copies(self, card: str) -> float | None:
        """Wait until a model whose `restore` returned is there as a whole: the seconds its copies
        took, None where `restore` had waited for them."""
        return None

    def drop_mirror(self, card: str) -> None:
        """The model was closed: its mirror is not needed any more."""

    def cpu_free_bytes(self) -> int:
        """Free memory beside the device, for a model that runs on the CPU because the device is
        full; 0 where there is no other memory."""
        return 0

    def reset_turn_peak(self) -> None:
        """A turn starts, and is alone on the device."""

    def turn_peak_bytes(self) -> int:
        """The most that was taken since then; 0 where this cannot be known."""
        return 0

    def free_cached(self) -> None:
        """Give back memory that is only kept for later, so that a larger piece may be had."""
        gc.collect()

    def reload_s(self, card: str, size_bytes: int, load_s: float) -> float:
        """What bringing an evicted model back would take; it came in `load_s`."""
        return load_s


DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg")
"""What NVIDIA's driver shows on Linux, and Windows' inside WSL."""


def nvidia_driver_is_here() -> bool:
    """Whether it is worth asking PyTorch for a card."""
    if sys.platform == "win32":
        return find_library("nvcuda") is not None
    return any(Path(path).exists() for path in DRIVER_FILES)


class Cpu(Device):
    """Host memory, as the operating system reports it."""

    name = "cpu"

    def capacity_bytes(self) -> int:
        return int(psutil.virtual_memory().total)

    def free_bytes(self) -> int:
        return int(psutil.virtual_memory().available)
