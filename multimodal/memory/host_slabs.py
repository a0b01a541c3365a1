"""Host memory that a card reads at the speed of the bus, because its pages are locked.

PyTorch's own pinned memory takes the next power of two of what is asked for and keeps it when it is
freed (`pin_memory=True`, seen with PyTorch 2.11: 2.1 GB for 1.2 GB). So ordinary memory is taken,
to the page, and locked in place. What the driver does not lock, because other programs or Windows
allow no more, stays pageable: it is copied at a sixth of the speed, and much faster than a disk.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch

from multimodal.sizes import gigabytes

log = logging.getLogger(__name__)

PAGE = 4096


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


class HostSlabs:
    """One slab of each of `sizes` (bytes), locked by `locks` as far as they go, until `close`.

    Raises RuntimeError where the host has no memory left.
    """

    def __init__(self, sizes: Sequence[int], locks: PageLocks | None) -> None:
        rooms = [-(-size // PAGE) * PAGE for size in sizes]
        whole = torch.empty(sum(rooms) + PAGE, dtype=torch.uint8)
        first = -whole.data_ptr() % PAGE
        starts = itertools.accumulate(rooms, initial=first)
        self.tensors = [
            whole[start : start + size] for start, size in zip(starts, sizes, strict=False)
        ]
        """Of bytes, on the CPU, one a size."""
        pages = [(t.data_ptr(), room) for t, room in zip(self.tensors, rooms, strict=True) if room]
        locked: list[Callable[[], None]] = []
        if locks is not None:
            whole.zero_()  # all cores make the pages so; the driver would, one after the other
            locked = list(_locked(locks, pages))
        self.is_locked = len(locked) == len(pages)
        if locks is not None and not self.is_locked:
            left = sum(room for _, room in pages[len(locked) :])
            log.warning("%s of host memory stay pageable: copies are slower", gigabytes(left))
        self._end = weakref.finalize(self, _unlock, locked, whole)
        self._end.atexit = False

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def close(self) -> None:
        """Unlock the pages and give them back; no copy may be under way."""
        self._end()
        self.tensors = []


def _locked(locks: PageLocks, pages: Sequence[tuple[int, int]]) -> Iterator[Callable[[], None]]:
    """What unlocks each of `pages` (address, bytes) that could be locked, up to the first
    refusal."""
    for address, size in pages:
        if not locks.lock(address, size):
            return
        yield partial(locks.unlock, address)


def _unlock(locked: Sequence[Callable[[], None]], whole: torch.Tensor) -> None:
    """`whole` is where the pages lie: it stays until they are unlocked."""
    for unlock in locked:
        unlock()
