"""Host memory that a card reads at the speed of the bus, because its pages are locked.

PyTorch's own pinned memory takes the next power of two of what is asked for and keeps it when it is
freed (`pin_memory=True`, seen with PyTorch 2.11: 2.1 GB for 1.2 GB). So ordinary memory is taken,
to the page, and locked in place. What the driver does not lock, because other programs or Windows
allow no more, stays pageable: it is copied at a sixth of the speed, and much faster than a disk.
"""

from __future__ import annotations

import logging
import mmap
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch

from multimodal.sizes import gigabytes

log = logging.getLogger(__name__)

PAGE = mmap.PAGESIZE
PROBE_BYTES = 1 << 28
"""What is copied to measure a bus."""


class PageLocks(Protocol):
    """What locks pages of host memory for a device."""

    def lock(self, address: int, size_bytes: int) -> bool:
        """Whether these pages are locked now; False where the driver refuses."""

    def unlock(self, address: int) -> None:
        """Undo `lock` at that address."""


class CudaPageLocks:
    """Page locks of the CUDA driver (`cudaHostRegister`)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def lock(self, address: int, size_bytes: int) -> bool:
        code = int(torch.cuda.cudart().cudaHostRegister(address, size_bytes, 0))  # type: ignore[no-untyped-call]
        if code:
            log.info("the driver locks no more host memory: CUDA error %d", code)
            self._clear()
        return not code

    def unlock(self, address: int) -> None:
        torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]

    def _clear(self) -> None:
        """Take up the error that a refusal leaves behind: the next kernel of this thread would
        raise it, whoever starts that."""
        try:
            torch.zeros(1, device=self._device)
            torch.cuda.synchronize(self._device)
        except RuntimeError as error:
            log.debug("what the refusal left behind: %s", error)


class HostMemoryPool:
    """One slab of each of `sizes` (bytes), locked by `locks` as far as they go, until `close`.

    Raises OSError where the host has no memory left.
    """

    def __init__(self, sizes: Sequence[int], locks: PageLocks | None) -> None:
        self.tensors = [_memory(size) for size in sizes]
        """Of bytes, on the CPU, one a size, each at the beginning of its storage."""
        slabs = [tensor for tensor in self.tensors if tensor.nbytes]
        locked: list[Callable[[], None]] = []
        if locks is not None:
            for slab in slabs:
                slab.zero_()  # all cores make its pages so; the driver would, one after the other
            locked = list(_locked(locks, slabs))
        self.is_locked = len(locked) == len(slabs)
        self.locked_bytes = sum(slab.nbytes for slab in slabs[: len(locked)])
        if locks is not None and not self.is_locked:
            left = sum(slab.nbytes for slab in slabs[len(locked) :])
            log.warning("%s of host memory stay pageable: copies are slower", gigabytes(left))
        self._end = weakref.finalize(self, _unlock, locked, slabs)
        self._end.atexit = False

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def close(self) -> None:
        """Unlock the pages and give them back; no copy may be under way."""
        self._end()
        self.tensors = []


def copied_bytes_per_s(host: torch.Tensor, device: torch.device) -> float:
    """How fast `host` is copied to a card, the best of three times."""
    card = torch.empty_like(host, device=device)
    times = []
    for _ in range(3):
        torch.cuda.synchronize(device)
        started_s = time.perf_counter()
        card.copy_(host, non_blocking=True)
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started_s)
    return host.nbytes / min(times)


def _memory(size_bytes: int) -> torch.Tensor:
    """Whole pages, which the system takes back as soon as nobody holds them."""
    if not size_bytes:
        return torch.empty(0, dtype=torch.uint8)
    if sys.platform == "win32":
        pages = mmap.mmap(-1, size_bytes)
    else:
        pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.uint8)


def _locked(locks: PageLocks, slabs: Sequence[torch.Tensor]) -> Iterator[Callable[[], None]]:
    """What unlocks each of `slabs` that could be locked, up to the first refusal."""
    for slab in slabs:
        if not locks.lock(slab.data_ptr(), -(-slab.nbytes // PAGE) * PAGE):
            return
        yield partial(locks.unlock, slab.data_ptr())


def _unlock(locked: Sequence[Callable[[], None]], slabs: Sequence[torch.Tensor]) -> None:
    """`slabs` are what is unlocked: their pages stay until it is done."""
    for unlock in locked:
        unlock()
