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

from multimodal.catalog.architectures import Part
from multimodal.memory.calibration.record import SPILLS
from multimodal.memory.devices.kernels import SIDE, layers, packed, use_kernels

Facts = Mapping[str, float]
MODULE = "multimodal.memory.calibration.probes"
"""This one, also where it is the main one of its process."""
LOCKED_BYTES = 1 << 33
"""The most host memory that is locked to see whether it can be."""
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

HEARING = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 768,
    "n_audio_head": 12,
    "n_audio_layer": 12,
    "n_vocab": 51_865,
    "n_text_ctx": 448,
    "n_text_state": 768,
    "n_text_head": 12,
    "n_text_layer": 12,
}
"""Whisper small."""
SEEING = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""CLIP's ViT-L/14 for 336 pixels."""
WRITING = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
}
"""Layers as they are in models of one to three thousand million parameters, four of them."""
NEW_TOKENS = 32
GUESSES = 10


def context(device: torch.device) -> Facts:
    """What another process takes with its context, then with every library in use."""
    command = [sys.executable, "-P", "-m", MODULE, "--use-libraries"]
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


def bus(device: torch.device) -> Facts:
    """Copies of a quarter of a gigabyte, from host memory that is locked and that is not."""
    from multimodal.memory.devices.host_slabs import PROBE_BYTES, HostSlabs, copied_bytes_per_s

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

    from multimodal.memory.devices.host_slabs import PROBE_BYTES, HostSlabs

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
    raise RuntimeError(f"{SPILLS}: the driver goes on in host memory")


def mirror(kind: str, device: torch.device) -> Facts:
    """A small model leaves for host memory and comes back: computing the same, and right."""
    from multimodal.memory.devices.mirror import Mirror

    torch.manual_seed(0)
    module, exact = layers(kind, device)
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
    """The last step towards a picture of that many pixels a side."""
    return _peak(Part(library="diffusers", model="AutoencoderKL", config=DECODER), device, side)


def hearing(device: torch.device, dims: Mapping[str, int] = HEARING) -> Facts:
    """Half a minute of sound by Whisper, of a size that the card profiles begin with."""
    return _peak(Part(library="whisper", model="Whisper", config=dims), device)


def seeing(device: torch.device, sizes: Mapping[str, int] = SEEING) -> Facts:
    """One picture, by what LLaVA sees with."""
    return _peak(Part(library="transformers", model="CLIPVisionModel", config=sizes), device)


def decoding(device: torch.device, sizes: Mapping[str, int] = WRITING) -> Facts:
    """Tokens a second of a small model in nf4 with each of the library's caches, and how long
    checking several guessed tokens takes beside one: what looking guesses up in the prompt costs
    when they are wrong."""
    model = _writer(device, sizes)
    ids = torch.arange(TOKENS, device=device)[None] % int(sizes["vocab_size"])
    found = {
        f"{kind}_tokens_per_s": _tokens_per_s(model, ids, kind) for kind in ("dynamic", "static")
    }
    for name, tokens in (("one_token", 1), ("guesses", 1 + GUESSES)):
        found[f"{name}_s"] = _reading_s(model, ids, tokens)
    return found


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
    "hearing": hearing,
    "seeing": seeing,
    "decoding": decoding,
}


# ------------------------------------------------------------ what they need


def _free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def _locks(device: torch.device) -> Any:
    from multimodal.memory.devices.host_slabs import CudaPageLocks

    return CudaPageLocks(device) if device.type == "cuda" else None


def _peak(part: Part, device: torch.device, side: int | None = None) -> Facts:
    """What one turn of a model, with random weights in fp16, takes on `device` beside them, what is
    counted for it on the meta device, and how long it takes."""
    from multimodal.memory.estimate.activation import counted_bytes, forward_passes
    from multimodal.memory.estimate.modules import built, unbuilt, whisper_in_half

    counted = counted_bytes(built(part), TOKENS, side)
    with device:
        module = unbuilt(part).eval().requires_grad_(False)
    module = whisper_in_half(module) if part.library == "whisper" else module.half()
    (work,) = forward_passes(module, TOKENS, side)
    with torch.no_grad():
        work()
        _finish(device)
        before = _allocated(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started_s = time.perf_counter()
        work()
        _finish(device)
    seconds = time.perf_counter() - started_s
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    return {"peak_bytes": peak, "counted_bytes": counted, "turn_s": seconds}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _allocated(device: torch.device) -> int:
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else 0


def _writer(device: torch.device, sizes: Mapping[str, int]) -> Any:
    """A text model with random weights in nf4."""
    import bitsandbytes as bnb

    from multimodal.memory.estimate.modules import unbuilt

    config = {"model_type": "llama", **sizes}
    with device:
        model: Any = unbuilt(Part(library="transformers", model="LlamaForCausalLM", config=config))
    model.half().eval().requires_grad_(False)
    decoder = model.get_decoder()
    for path, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, name = path.rpartition(".")
            small, _weight = packed(bnb, "nf4", layer.weight.detach(), device)
            setattr(decoder.get_submodule(parent), name, small)
    model.generation_config.eos_token_id = None
    return model


def _tokens_per_s(model: Any, ids: torch.Tensor, cache: str) -> float:
    """Of `generate`, after a first time, in which kernels are loaded."""
    seconds = 0.0
    for _ in range(2):
        _finish(ids.device)
        started_s = time.perf_counter()
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            cache_implementation=cache,
            disable_compile=True,
        )
        _finish(ids.device)
        seconds = time.perf_counter() - started_s
    return NEW_TOKENS / seconds


def _reading_s(model: Any, ids: torch.Tensor, tokens: int) -> float:
    """The shortest of several passes over so many tokens."""
    found = []
    with torch.no_grad():
        for _ in range(6):
            _finish(ids.device)
            started_s = time.perf_counter()
            model(input_ids=ids[:, :tokens], use_cache=False)
            _finish(ids.device)
            found.append(time.perf_counter() - started_s)
    return min(found[1:])


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
