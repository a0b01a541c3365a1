"""What is measured of a card. Each probe raises an error in words where the card does not do what
the program relies on.

Run as a module, with the names of the probes, it writes one line of JSON after each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

Facts = Mapping[str, float]
MODULE = "multimodal.memory.calibration.probes"
"""This one, also where it is the main one of its process."""
LOCKED_BYTES = 1 << 33
"""The most host memory that is locked to see whether it can be."""
SIDE = 256
TOKENS = 64
MOST_AWAY = {"fp16": 0.01, "nf4": 0.01, "int8": 0.05}
"""Of the largest result, how far one may be from what the packed weights give in fp32. 8-bit layers
pack what they are given as well."""
DECODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
}
"""Stable Diffusion's decoder, of which only the size matters here."""


def context(device: torch.device) -> Facts:
    """What another process takes with its context, then with every library in use."""
    command = [sys.executable, "-P", "-m", MODULE, "--use-libraries"]
    before = _free(device)
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


def bus(device: torch.device) -> Facts:
    """Copies of a quarter of a gigabyte, from host memory that is locked and that is not."""
    from multimodal.memory.host_slabs import PROBE_BYTES, HostSlabs, copied_bytes_per_s

    locked = HostSlabs([PROBE_BYTES], _locks(device))
    try:
        if not locked.is_locked:
            raise RuntimeError("the driver locks no host memory: copies are slower")
        pageable = torch.zeros(PROBE_BYTES, dtype=torch.uint8)
        return {
            "locked_bytes_per_s": copied_bytes_per_s(locked.tensors[0], device),
            "pageable_bytes_per_s": copied_bytes_per_s(pageable, device),
        }
    finally:
        locked.close()


def locking(device: torch.device) -> Facts:
    """How much host memory can be locked, up to a third of what is free, and how fast."""
    import psutil

    from multimodal.memory.host_slabs import PROBE_BYTES, HostSlabs

    asked = min(LOCKED_BYTES, int(psutil.virtual_memory().available) // 3)
    count = max(1, asked // PROBE_BYTES)
    started_s = time.perf_counter()
    slabs = HostSlabs([PROBE_BYTES] * count, _locks(device))
    seconds = time.perf_counter() - started_s
    locked = slabs.locked_bytes
    slabs.close()
    return {"asked_bytes": count * PROBE_BYTES, "locked_bytes": locked, "lock_s": seconds}


def refusal(device: torch.device) -> Facts:
    """Whether more than is free is refused, and the card goes on afterwards."""
    free, total = torch.cuda.mem_get_info(device)
    try:
        taken = torch.empty(free + (1 << 30), dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        assert float(torch.ones(8, device=device).sum()) == 8.0  # noqa: S101
        return {"free_bytes": free, "card_bytes": total}
    del taken
    torch.cuda.empty_cache()
    raise RuntimeError("a full card does not refuse: the driver goes on in host memory")


def mirror(kind: str, device: torch.device) -> Facts:
    """A small model leaves for host memory and comes back: computing the same, and right."""
    from multimodal.memory.mirror import Mirror

    torch.manual_seed(0)
    module, exact = _layers(kind, device)
    given = torch.randn(TOKENS, SIDE, device=device, dtype=torch.float16)
    before = module(given)
    error = float((before.float() - exact(given.float())).abs().max() / before.float().abs().max())
    if not error < MOST_AWAY[kind]:
        raise RuntimeError(f"it computes something else: {error:.1%} away from the exact result")
    held = Mirror(module, device, _locks(device))
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


def decoder(side: int, device: torch.device) -> Facts:
    """What making a picture of that many pixels a side takes in its last step, and for how long."""
    import diffusers

    autoencoder: Any = diffusers.AutoencoderKL
    with device:
        made = autoencoder(**DECODER).to(torch.float16).eval()
    latents = torch.randn(1, 4, side // 8, side // 8, device=device, dtype=torch.float16)
    with torch.no_grad():
        made.decode(latents)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.synchronize(device)
        started_s = time.perf_counter()
        made.decode(latents)
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started_s
    return {"peak_bytes": torch.cuda.max_memory_allocated(device) - before, "decode_s": seconds}


PROBES: dict[str, Callable[[torch.device], Facts]] = {
    "context": context,
    "bus": bus,
    "locking": locking,
    "refusal": refusal,
    "mirror fp16": lambda device: mirror("fp16", device),
    "mirror nf4": lambda device: mirror("nf4", device),
    "mirror int8": lambda device: mirror("int8", device),
    "decoder 512": lambda device: decoder(512, device),
    "decoder 1024": lambda device: decoder(1024, device),
}


# ------------------------------------------------------------ what they need


def _free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def _locks(device: torch.device) -> Any:
    from multimodal.memory.host_slabs import CudaPageLocks

    return CudaPageLocks(device) if device.type == "cuda" else None


def _layers(kind: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Two layers of that kind on `device`, and the same in fp32 with the weights as packed."""
    import bitsandbytes as bnb

    plain = [nn.Linear(SIDE, SIDE, bias=False) for _ in range(2)]
    made: list[nn.Module] = []
    exact: list[nn.Module] = []
    for layer in plain:
        packed, weight = _packed(bnb, kind, layer.weight.detach(), device)
        twin = nn.Linear(SIDE, SIDE, bias=False, device=device)
        twin.weight.data = weight.float().to(device)
        made.append(packed)
        exact.append(twin)
    modules = nn.Sequential(*made), nn.Sequential(*exact)
    for module in modules:
        module.eval().requires_grad_(False)
    return modules


def _packed(
    bnb: Any, kind: str, weight: torch.Tensor, device: torch.device
) -> tuple[nn.Module, torch.Tensor]:
    """A layer with `weight` in that kind, and the weight that it then stands for."""
    if kind == "nf4":
        layer = bnb.nn.Linear4bit(
            SIDE, SIDE, bias=False, compute_dtype=torch.float16, quant_type="nf4"
        )
        layer.weight = bnb.nn.Params4bit(weight.half(), requires_grad=False, quant_type="nf4")
        layer = layer.to(device)
        stored = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return layer, stored
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(SIDE, SIDE, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(weight.half(), requires_grad=False, has_fp16_weights=False)
        return layer.to(device), weight.half()
    layer = nn.Linear(SIDE, SIDE, bias=False, dtype=torch.float16, device=device)
    layer.weight.data = weight.half().to(device)
    return layer, weight.half()


# ------------------------------------------------------------ the process of its own


def _use_libraries() -> None:
    """Say when the context is there; then use what models use, and say what PyTorch keeps."""
    device = torch.device("cuda", 0)
    torch.zeros(1, device=device)
    print("context", flush=True)
    sys.stdin.readline()
    some = torch.randn(1, 64, 64, 64, device=device, dtype=torch.float16)
    nn.functional.conv2d(some, some[0, :, :3, :3].expand(64, -1, -1, -1), padding=1)
    nn.functional.scaled_dot_product_attention(some, some, some)
    for kind in ("fp16", "nf4", "int8"):
        module, _exact = _layers(kind, device)
        for tokens in (1, TOKENS):
            module(torch.randn(tokens, SIDE, device=device, dtype=torch.float16))
    torch.multinomial(torch.softmax(torch.randn(32_000, device=device), 0), 1)
    torch.cuda.synchronize(device)
    print(torch.cuda.memory_reserved(device), flush=True)
    sys.stdin.readline()


def _run(names: list[str]) -> None:
    device = torch.device("cuda", 0)
    torch.zeros(1, device=device)
    for name in names:
        print(json.dumps({"begun": name}), flush=True)
        started_s = time.perf_counter()
        told: dict[str, Any] = {"name": name}
        try:
            told["facts"] = dict(PROBES[name](device))
        except Exception as error:  # whatever it is, it is what the card does
            told["error"] = (str(error) or type(error).__name__).splitlines()[0]
        told["seconds"] = round(time.perf_counter() - started_s, 3)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--use-libraries"]:
        _use_libraries()
    else:
        _run(sys.argv[1:])
