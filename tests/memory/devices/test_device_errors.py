"""Errors of a graphics card: which of them mean that it is full, and which that it is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from fakes import FakeSource, card, program
from small_memory import A, B, Manager, leased, manager, use

from multimodal.api.guard import status_of
from multimodal.backends.worker import Worker
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, DeviceFullError, DeviceLostError
from multimodal.events import EngineEvent
from multimodal.memory.devices.device_errors import (
    LITTLE_BYTES,
    device_error,
    translate_device_errors,
)
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.host import HostMemory
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Conversation, Message, TextPart

ADVICE = """
Search for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/cuda-runtime-api/ for more.
CUDA kernel errors might be asynchronously reported at some other API call.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
"""What PyTorch writes below an error of CUDA."""
CRASH = "CUDA error: an illegal memory access was encountered"
RESET = "must be reset: start the program again"


def plenty() -> int:
    return 8 * 10**9


def nothing() -> int:
    return 3_000_000


def no_card() -> None:
    return None


def crashed() -> int:
    raise torch.AcceleratorError(CRASH + ADVICE)


FULL: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory" + ADVICE),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA failed with error out of memory"),
    RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`" + ADVICE
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
@pytest.mark.parametrize("free_bytes", [plenty, nothing, no_card])
def test_what_says_that_the_card_is_full_is_believed(
    error: Exception, free_bytes: Callable[[], int | None]
) -> None:
    told = device_error(error, "Whisper", free_bytes)
    assert type(told) is DeviceFullError
    assert str(told) == "Whisper: the device is out of memory"


VAGUE: list[Exception] = [
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", VAGUE, ids=str)
def test_what_may_mean_a_full_card_does_so_only_where_nothing_is_free(error: Exception) -> None:
    assert type(device_error(error, "", nothing)) is DeviceFullError
    assert type(device_error(error, "", lambda: LITTLE_BYTES - 1)) is DeviceFullError
    assert device_error(error, "", lambda: LITTLE_BYTES) is None
    assert device_error(error, "", plenty) is None
    assert device_error(error, "", no_card) is None


LOST: list[Exception] = [
    torch.AcceleratorError(CRASH + ADVICE),
    torch.AcceleratorError("CUDA error: device-side assert triggered" + ADVICE),
    torch.AcceleratorError("CUDA error: unspecified launch failure" + ADVICE),
    torch.AcceleratorError("CUDA error: misaligned address" + ADVICE),
    torch.AcceleratorError("CUDA error: unknown error" + ADVICE),
    RuntimeError("CUDA driver error: the launch timed out and was terminated"),
    RuntimeError("CUDA failed with error an illegal memory access was encountered"),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_crashed_kernel_loses_the_card(error: Exception) -> None:
    told = device_error(error, "Whisper", plenty)
    assert type(told) is DeviceLostError
    assert RESET in str(told)
    assert status_of(told) == 503


@pytest.mark.parametrize("error", [*VAGUE, *FULL[4:]], ids=str)
def test_a_library_that_fails_on_a_lost_card_is_not_taken_for_a_full_one(error: Exception) -> None:
    told = device_error(error, "", crashed)
    assert type(told) is DeviceLostError
    assert "an illegal memory access was encountered" in str(told)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: invalid argument" + ADVICE),
        torch.AcceleratorError(
            "CUDA error: part or all of the requested memory range is already mapped" + ADVICE
        ),
        torch.AcceleratorError("CUDA error: no kernel image is available for execution" + ADVICE),
        RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
        RuntimeError("expected scalar type Float but found Half"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        ValueError("CUDA error: out of memory"),
        MemoryError("out of memory"),
    ],
    ids=str,
)
def test_another_error_is_no_fault_of_the_card(error: Exception) -> None:
    """One that `cudaHostRegister` left behind is raised by the next kernel, and once."""
    assert device_error(error, "", plenty) is None
    assert device_error(error, "", nothing) is None


def test_errors_of_the_card_are_told_and_others_pass() -> None:
    with (
        pytest.raises(DeviceFullError, match="RTX: the device is out"),
        translate_device_errors("RTX"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(DeviceLostError, match=RESET), translate_device_errors("RTX"):
        raise LOST[0]
    with pytest.raises(RuntimeError, match="a shape"), translate_device_errors("RTX"):
        raise RuntimeError("a shape is wrong")


def test_the_table_needs_no_pytorch() -> None:
    code = "import sys, multimodal.memory.devices.device_errors; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(FULL[1], DeviceFullError), (LOST[1], DeviceLostError), (VAGUE[0], BackendError)],
    ids=str,
)
def test_a_turn_raises_what_the_card_said(error: Exception, raised: type[Exception]) -> None:
    def work(emit: Callable[[EngineEvent], None], stopped: Callable[[], bool]) -> None:
        raise error

    with pytest.raises(raised) as found:
        list(Worker().stream(work, threading.Event()))
    assert type(found.value) is raised


# ------------------------------------------------------------ the manager of a lost card


class Crash(FakeSource):
    """Models whose load crashes a kernel."""

    def load(self, card: ModelCard, files: Path, engine: str) -> Any:
        raise torch.AcceleratorError(CRASH + ADVICE)


def refused(memory: Manager, model: ModelCard) -> str:
    with pytest.raises(DeviceLostError, match=RESET) as found, leased(memory, model):
        pass
    return str(found.value)


def test_a_turn_that_loses_the_card_is_the_last_one_on_it() -> None:
    source = FakeSource()
    memory = manager(source=source)
    use(memory, A)
    with pytest.raises(DeviceLostError), leased(memory, A):
        raise DeviceLostError(f"The graphics card failed and {RESET}.")
    loaded = list(source.loaded)
    assert refused(memory, A) == refused(memory, B) == f"The graphics card failed and {RESET}."
    assert source.loaded == loaded, "nothing is brought any more"


def test_a_load_that_loses_the_card_is_the_last_one() -> None:
    memory = manager(source=Crash())
    first = refused(memory, A)
    assert "an illegal memory access was encountered" in first
    assert refused(memory, B) == first


def test_a_card_that_is_lost_between_two_turns_is_noticed_by_the_next_one() -> None:
    device = Simulated(1000, host_bytes=1000)
    memory = manager(device=device)
    use(memory, A, B)
    device.is_lost = True
    first = refused(memory, A)
    assert refused(memory, A) == first
    assert memory.snapshot().waiting == 0, "nobody waits for it any more"


def test_who_waits_for_a_lost_card_is_told_so() -> None:
    memory = manager()
    with memory.lease(A, threading.Event()) as waiting:
        with pytest.raises(DeviceLostError), leased(memory, B):
            raise DeviceLostError(f"The graphics card failed and {RESET}.")
        with pytest.raises(DeviceLostError, match=RESET):
            list(waiting.wait())


def test_a_ladder_on_a_lost_card_ends_with_its_first_rung() -> None:
    device = Simulated(1000, host_bytes=1000)
    memory = manager(device=device)
    use(memory, A, B)

    def climb() -> None:
        with leased(memory, A) as lease:
            device.is_lost = True
            while memory.recover_from_oom(lease):
                pass

    with pytest.raises(DeviceLostError, match=RESET):
        climb()
    refused(memory, B)


def test_a_person_is_told_what_to_do_and_nothing_is_tried_in_vain(tmp_path: Path) -> None:
    source = FakeSource()
    source.script = lambda request: [cast("str", device_error(LOST[0]))]
    made = program(tmp_path, source)
    for _ in range(2):
        conversation = Conversation((Message("user", (TextPart("Hello"),)),))
        with pytest.raises(DeviceLostError, match=RESET):
            list(made.assistant.reply(conversation, threading.Event()))
    assert len(source.requests) == 1, "no second try, and none by the second turn"
    made.close()


def test_models_on_the_cpu_beside_a_lost_card_still_work() -> None:
    source = FakeSource()
    host: HostMemory[Any] = HostMemory(1000, source)
    device = Simulated(1000)
    memory: Manager = MemoryManager(device, 500, source, host=host)
    device.is_lost = True
    refused(memory, A)
    voice = card("voice", size=10, device="cpu")
    use(memory, voice)
    refused(memory, A)
    use(memory, voice)


def test_a_program_with_a_lost_card_closes() -> None:
    device = Simulated(1000, host_bytes=1000)
    source = FakeSource()
    memory = manager(source=source, device=device)
    use(memory, A, B)
    device.is_lost = True
    refused(memory, A)
    memory.close()
    assert sorted(source.closed) == ["a", "b"]
