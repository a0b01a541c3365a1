"""What is measured of a card by itself; `backends/probes.py` adds what models do on it. Each probe
raises an error in words where the card does not do what the program relies on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch

from multimodal.memory.calibration.record import SPILLS
from multimodal.memory.devices.kernels import SIDE, make_probe_layers, use_kernels

Measurements = Mapping[str, float]
MODULE = "multimodal.memory.calibration.probes"
"""This one, which another process runs to see what a context takes."""
LOCKED_BYTES = 1 << 33
"""The most host memory that is locked to see whether it can be."""
TOKENS = 64
MOST_AWAY = {"fp16": 0.01, "nf4": 0.01, "int8": 0.05}
"""Of the largest result, how far one may be from what the packed weights give in fp32. 8-bit layers
pack what they are given as well."""


def measure_context(device: torch.device) -> Measurements:
    """What another process takes with its context, then with every library in use."""
    command = [sys.executable, "-P", "-m", MODULE]
    before = _free(device)
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as other:
        assert other.stdin is not None  # noqa: S101
        assert other.stdout is not None  # noqa: S101
        other.stdout.readline()
        with_context = _free(device)
        other.stdin.write("\n")
        other.stdin.flush()
        reserved = float(other.stdout.readline() or 0)
        with_libraries = _free(device)
        other.stdin.close()
    return {
        "context_bytes": before - with_context,
        "context_and_libraries_bytes": before - with_libraries - reserved,
    }


def measure_bus(device: torch.device) -> Measurements:
    """Copies of a quarter of a gigabyte, from host memory that is locked and that is not."""
    from multimodal.memory.devices.host_slabs import PROBE_BYTES, HostMemoryPool, copied_bytes_per_s

    with closing(HostMemoryPool([PROBE_BYTES], _locks(device))) as locked:
        if not locked.is_locked:
            raise RuntimeError("the driver locks no host memory: copies are slower")
        pageable = torch.zeros(PROBE_BYTES, dtype=torch.uint8)
        return {
            "locked_bytes_per_s": copied_bytes_per_s(locked.tensors[0], device),
            "pageable_bytes_per_s": copied_bytes_per_s(pageable, device),
        }


def measure_page_locking(device: torch.device) -> Measurements:
    """How much host memory can be locked, up to a third of what is free, and how fast."""
    import psutil

    from multimodal.memory.devices.host_slabs import PROBE_BYTES, HostMemoryPool

    asked = min(LOCKED_BYTES, int(psutil.virtual_memory().available) // 3)
    count = max(1, asked // PROBE_BYTES)
    started_s = time.perf_counter()
    slabs = HostMemoryPool([PROBE_BYTES] * count, _locks(device))
    seconds = time.perf_counter() - started_s
    locked = slabs.locked_bytes
    slabs.close()
    return {"asked_bytes": count * PROBE_BYTES, "locked_bytes": locked, "lock_s": seconds}


def measure_allocation_failure(device: torch.device) -> Measurements:
    """Whether more than is free is refused, and the card goes on afterwards."""
    free, total = torch.cuda.mem_get_info(device)
    try:
        taken = torch.empty(free + (1 << 30), dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        assert float(torch.ones(8, device=device).sum()) == 8.0  # noqa: S101
        return {"free_bytes": free, "card_bytes": total}
    del taken
    torch.cuda.empty_cache()
    raise RuntimeError(f"{SPILLS}: the driver goes on in host memory")


def measure_mirror(kind: str, device: torch.device) -> Measurements:
    """A small model leaves for host memory and comes back: computing the same, and right."""
    from multimodal.memory.devices.mirror import HostMirror

    torch.manual_seed(0)
    module, exact = make_probe_layers(kind, device)
    given = torch.randn(TOKENS, SIDE, device=device, dtype=torch.float16)
    before = module(given)
    error = float((before.float() - exact(given.float())).abs().max() / before.float().abs().max())
    if not error < MOST_AWAY[kind]:
        raise RuntimeError(f"it computes something else: {error:.1%} away from the exact result")
    held = HostMirror(module, device, _locks(device))
    seconds = []
    for _ in range(10):
        held.evict()
        started_s = time.perf_counter()
        held.restore()
        same = torch.equal(module(given), before)
        seconds.append(time.perf_counter() - started_s)
        if not same:
            raise RuntimeError("what comes back computes something else than before")
    held.evict()
    held.restore(0)
    if not torch.equal(module(given), before):
        raise RuntimeError("layers that only visit compute something else than before")
    return {"away_from_exact": error, "first_answer_s": min(seconds[1:])}


PROBES: dict[str, Callable[[torch.device], Measurements]] = {
    "context": measure_context,
    "bus": measure_bus,
    "locking": measure_page_locking,
    "refusal": measure_allocation_failure,
    "mirror fp16": lambda device: measure_mirror("fp16", device),
    "mirror nf4": lambda device: measure_mirror("nf4", device),
    "mirror int8": lambda device: measure_mirror("int8", device),
}


# ------------------------------------------------------------ what they need


def _free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def _locks(device: torch.device) -> Any:
    from multimodal.memory.devices.host_slabs import CudaPageLocks

    return CudaPageLocks(device) if device.type == "cuda" else None


# ------------------------------------------------------------ the process of its own


def _use_libraries() -> None:
    """Say when the context is there; then use what models use, and say what PyTorch keeps."""
    device = torch.device("cuda", 0)
    torch.zeros(1, device=device)
    print("context", flush=True)
    sys.stdin.readline()
    use_kernels(device)
    torch.cuda.synchronize(device)
    print(torch.cuda.memory_reserved(device), flush=True)
    sys.stdin.readline()


def run(probes: Mapping[str, Callable[[torch.device], Measurements]], names: Sequence[str]) -> None:
    """Write one line of JSON when one of `names` begins, and one when it is over."""
    device = torch.device("cuda", 0)
    torch.zeros(1, device=device)
    for name in names:
        print(json.dumps({"begun": name}), flush=True)
        started_s = time.perf_counter()
        told: dict[str, Any] = {"name": name}
        try:
            told["facts"] = dict(probes[name](device))
        except Exception as error:  # whatever it is, it is what the card does
            told["error"] = (str(error) or type(error).__name__).splitlines()[0]
        told["seconds"] = round(time.perf_counter() - started_s, 3)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    _use_libraries()
