"""What went wrong on a graphics card, told from what its libraries raise. One table for everybody.

- The card is full. PyTorch's allocator has a type for that; CUDA itself and cuBLAS say so in words.
  cuDNN and cuFFT say no more than that something failed inside, so the driver is asked whether next
  to nothing is free. Words and bytes as seen on an H200 (torch 2.11, CUDA 13) of which another
  process held all but 3 MB; none of these errors stays, and each call succeeds once there is room.
- The card is lost to this process: a kernel crashed, or the driver was reset. Every later call of
  CUDA fails with the same error until the process ends (CUDA Runtime API, `cudaError_t`: "leaves
  the process in an inconsistent state").
- Anything else is no fault of the card.

Imports no PyTorch, which takes seconds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from multimodal.errors import DeviceFullError, DeviceLostError

LITTLE_BYTES = 200_000_000
"""Free on the card, by the driver. With so much, the first use of each library succeeded."""

FULL = re.compile(
    r"CUDA\b.*\bout of memory|CUBLAS_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED"
)
PERHAPS_FULL = re.compile(
    r"CUDNN_STATUS_(ALLOC_FAILED|INTERNAL_ERROR|NOT_INITIALIZED)"
    r"|CUFFT_(ALLOC_FAILED|INTERNAL_ERROR)"
)
LIBRARY = re.compile(r"\b(CUBLAS_STATUS|CUDNN_STATUS|CUFFT|CUSOLVER_STATUS|CUSPARSE_STATUS)_[A-Z]+")
LOST = re.compile(
    r"CUDA\b.*?\b("
    r"an illegal memory access was encountered"  # cudaErrorIllegalAddress, 700
    r"|the launch timed out and was terminated"  # cudaErrorLaunchTimeout, 702
    r"|context is destroyed"  # cudaErrorContextIsDestroyed, 709
    r"|device-side assert triggered"  # cudaErrorAssert, 710
    r"|hardware stack error"  # cudaErrorHardwareStackError, 714
    r"|an illegal instruction was encountered"  # cudaErrorIllegalInstruction, 715
    r"|misaligned address"  # cudaErrorMisalignedAddress, 716
    r"|operation not supported on global/shared address space"  # cudaErrorInvalidAddressSpace, 717
    r"|invalid program counter"  # cudaErrorInvalidPc, 718
    r"|unspecified launch failure"  # cudaErrorLaunchFailure, 719
    r"|uncorrectable ECC error encountered"  # cudaErrorECCUncorrectable, 214
    r"|unknown error"  # cudaErrorUnknown, 999
    r")"
)
"""In the words of `cudaGetErrorString`. A dot matches no line end: the lines below the first are
PyTorch's advice, which names such errors too."""


def driver_free_bytes() -> int | None:
    """Bytes that are free on the card; None where this process uses none. Raises the RuntimeError
    of a lost card."""
    torch = _torch_on_card()
    return None if torch is None else int(torch.cuda.mem_get_info()[0])


def device_error(
    error: BaseException, title: str = "", free_bytes: Callable[[], int | None] = driver_free_bytes
) -> DeviceFullError | DeviceLostError | None:
    """`error` as ours, if the card was full or is lost; `title` names what was doing."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    if (found := LOST.search(text)) is not None:
        return lost_error(found[1])
    is_full = type(error).__name__ == "OutOfMemoryError" or bool(FULL.search(text))
    if LIBRARY.search(text):  # a lost card makes them fail, too
        try:
            free = free_bytes()
        except RuntimeError as asked:
            return device_error(asked, title, lambda: None)
        is_near = free is not None and free < LITTLE_BYTES
        is_full = is_full or (is_near and bool(PERHAPS_FULL.search(text)))
    return _full(title) if is_full else None


def lost_error(reason: str) -> DeviceLostError:
    return DeviceLostError(
        f"The graphics card failed ({reason}) and must be reset: start the program again."
    )


@contextmanager
def translate_device_errors(title: str) -> Iterator[None]:
    """Raise DeviceFullError or DeviceLostError for what goes wrong on the card, also where another
    library catches the error and raises one of its own: PyTorch counts how often it was full."""
    before = _times_full()
    try:
        yield
    except RuntimeError as error:
        told = device_error(error, title)
        if told is None and _times_full() > before:
            told = _full(title)
        if told is None:
            raise
        raise told from error


def _full(title: str) -> DeviceFullError:
    return DeviceFullError(f"{title}: the device is out of memory".removeprefix(": "))


def _times_full() -> int:
    torch = _torch_on_card()
    return 0 if torch is None else int(torch.cuda.memory_stats().get("num_ooms", 0))


def is_gpu_in_use() -> bool:
    """Whether PyTorch computes on a card in this process; imports nothing for it. While another
    thread imports PyTorch, modules without their functions are already listed."""
    is_initialized = getattr(sys.modules.get("torch.cuda"), "is_initialized", None)
    return is_initialized is not None and bool(is_initialized())


def _torch_on_card() -> Any | None:
    return sys.modules["torch"] if is_gpu_in_use() else None
