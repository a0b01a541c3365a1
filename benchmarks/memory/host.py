"""The mirror with the CPU in the card's place: what evicting and restoring cost where both sides
are host memory, against a plain copy of as many bytes and against PyTorch's own way."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.memory.models import RandomModel
from multimodal.catalog.architectures import ModulesArchitecture
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.memory.devices.mirror import HostMirror
from multimodal.memory.devices.storages import slots, storage_bytes

NAME, LAYERS, ROUNDS = "mistral-7b-instruct", 4, 11
CPU = torch.device("cpu")


def measure(catalog: Catalog) -> dict[str, Any]:
    """Some layers of a 4-bit model of 7B; it is moved and never run, since kernels for the CPU
    repack 4-bit weights in place."""
    model = RandomModel(_shallow(catalog.card(NAME)), "cpu")
    (module,) = model.modules()
    size = storage_bytes(module)
    before = [slot.tensor.clone() for slot in slots(module)]
    mirror = HostMirror(module, CPU)
    evict_s, restore_s = [], []
    for _ in range(ROUNDS):
        evict_s.append(_timed(mirror.evict))
        restore_s.append(_timed(mirror.restore))
    after = [slot.tensor for slot in slots(module)]
    same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    restored = statistics.median(restore_s)
    source = torch.ones(size, dtype=torch.uint8)
    plain = _median(lambda: torch.empty_like(source).copy_(source))
    peer = _median(lambda: copy.deepcopy(module.state_dict()))
    return {
        "model": f"{LAYERS} layers of {NAME}, {size / 1e9:.2f} GB",
        "evict_ms_median": round(1000 * statistics.median(evict_s), 3),
        "restore_s_median": round(restored, 4),
        "restore_over_plain_copy": round(restored / plain, 3),
        "restore_against": {"copying each tensor of state_dict()": round(restored / peer, 3)},
        "identical_after_evictions": same,
    }


def _shallow(card: ModelCard) -> ModelCard:
    shape = card.architecture
    if not isinstance(shape, ModulesArchitecture):
        raise TypeError(f"{card.name} is not made of PyTorch modules")
    part = shape.parts["text"]
    fewer = part.model_copy(update={"config": {**part.config, "num_hidden_layers": LAYERS}})
    return card.model_copy(
        update={"architecture": shape.model_copy(update={"parts": {"text": fewer}})}
    )


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _median(work: Callable[[], object]) -> float:
    return statistics.median(_timed(work) for _ in range(ROUNDS))
