"""A real card: load, evict, restore and run models of full size, by the driver's own count."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.memory.models import RandomModel, RandomSource
from benchmarks.memory.turns import mixed
from multimodal.catalog.cards import Catalog, ModelCard, Profile
from multimodal.errors import CapacityError
from multimodal.memory.devices.cuda import Cuda
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.headroom import model_bytes
from multimodal.memory.manager import MemoryManager

ROUNDS, EVICTIONS, TOKENS = 5, 50, 512


def measure(catalog: Catalog, chosen: Profile, budget: int, turns: int) -> dict[str, Any]:
    """All figures of one card. Needs host memory for the largest model in 16 bits."""
    device = Cuda()
    device.set_limit(model_bytes(budget, device))
    cards = [catalog.card(name) for name in chosen.names]
    found = {
        "name": device.name,
        "pinned_bytes_per_s": device.bus_bytes_per_s(),
        "models": {card.name: _model(card, device) for card in cards},
    }
    return found | {"run": _run(catalog, chosen, device, budget, turns)}


def _model(card: ModelCard, device: Cuda) -> dict[str, Any]:
    """Estimate against truth; eviction, restoring and the peers' way, in seconds."""
    started_s = time.perf_counter()
    model = RandomModel(card, "cuda")
    torch.cuda.synchronize()
    loaded_s = time.perf_counter() - started_s
    truth = device.finish_load(card.name, model)
    before = model.output()
    first_s = _timed(lambda: device.park(card.name, model))
    device.restore(card.name, model)
    evict_s, restore_s, copied_back = [], [], 0
    for number in range(EVICTIONS):
        watched = number == 0
        with _copies_to_host() if watched else _unwatched() as count:
            evict_s.append(_timed(lambda: device.park(card.name, model)))
        copied_back += count()
        restore_s.append(_timed(lambda: device.restore(card.name, model)))
    same = torch.equal(before, model.output())
    peer = _peers(model) if "4" not in card.quantization[0] else _moved(model)
    size = footprint(card)
    model.close()
    device.drop_mirror(card.name)
    ideal_s = truth / device.bus_bytes_per_s()
    return {
        "estimate_over_truth": round(size.weights / truth, 4),
        "true_bytes": truth,
        "load_s": round(loaded_s, 3),
        "first_eviction_s": round(first_s, 3),
        "evict_ms_median": round(1000 * statistics.median(evict_s), 3),
        "evict_copies_to_host": copied_back,
        "restore_s_median": round(statistics.median(restore_s), 4),
        "restore_over_ideal": round(statistics.median(restore_s) / ideal_s, 3),
        "identical_after_evictions": same,
        "restore_against": {n: round(statistics.median(restore_s) / s, 3) for n, s in peer.items()},
    }


def _timed(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started_s = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started_s


def _moved(model: RandomModel) -> dict[str, float]:
    """Seconds of PyTorch's own `.to()` from the host, the median of some rounds."""
    seconds = []
    for _ in range(ROUNDS):
        for module in model.modules():
            module.to("cpu")
        seconds.append(_timed(lambda: [module.to("cuda") for module in model.modules()]))
    return {".to()": statistics.median(seconds)}


def _peers(model: RandomModel) -> dict[str, float]:
    """`.to()`, and accelerate's hook, which moves a whole module before its forward."""
    from accelerate import cpu_offload_with_hook

    found = _moved(model)
    hooks = [cpu_offload_with_hook(module, "cuda") for module in model.modules()]
    seconds = []
    for _ in range(ROUNDS):
        for _module, hook in hooks:
            hook.offload()
        seconds.append(
            _timed(lambda: [module._hf_hook.pre_forward(module) for module, _hook in hooks])
        )
    return found | {"cpu_offload_with_hook": statistics.median(seconds)}


@contextmanager
def _copies_to_host() -> Any:
    """Yields a function that, afterwards, tells how often the driver copied to the host."""
    told: list[int] = []
    with profile(activities=[ProfilerActivity.CUDA]) as watch:
        yield lambda: told[0]
    events = [e for e in watch.events() or [] if "Memcpy DtoH" in e.name]
    told.append(len(events))


@contextmanager
def _unwatched() -> Any:
    yield lambda: 0


class _Driver:
    """Watches what is taken of the card by the driver's count, while it is open."""

    def __init__(self, total: int) -> None:
        self._total, self._over = total, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.most_bytes = 0

    def taken(self) -> int:
        return int(self._total - torch.cuda.mem_get_info()[0])

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.most_bytes = max(self.most_bytes, self.taken())

    def __enter__(self) -> _Driver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _run(
    catalog: Catalog, chosen: Profile, device: Cuda, budget: int, turns: int
) -> dict[str, Any]:
    """Mixed turns under the budget; the card must have no other user."""
    device.free_cached()
    driver = _Driver(device.capacity_bytes())
    context = driver.taken() - torch.cuda.memory_reserved()
    room = model_bytes(budget, device)
    memory: MemoryManager[RandomModel] = MemoryManager(device, room, RandomSource())
    hits, failed = list[float](), 0
    started_s = time.perf_counter()
    with driver:
        for card in mixed(catalog, chosen, turns):
            try:
                hits += _turn(memory, card)
            except (torch.OutOfMemoryError, CapacityError):
                failed += 1
    seconds = time.perf_counter() - started_s
    snapshot = memory.snapshot()
    memory.close()
    return {
        "turns": turns,
        "seconds": round(seconds, 1),
        "context_bytes": context,
        "models_and_turns_bytes": room,
        "arrivals": snapshot.decided,
        "restored": sum(d.how == "restored" for d in snapshot.decisions),
        "most_bytes_by_the_driver": driver.most_bytes,
        "budget_bytes": budget,
        "out_of_memory": failed,
        "resident_hit_ms_median": round(1000 * statistics.median(hits), 3) if hits else None,
    }


def _turn(memory: MemoryManager[RandomModel], card: ModelCard) -> list[float]:
    """One turn; the seconds that its lease took, if the model was there already."""
    there = any(held.card == card.name for held in memory.snapshot().held)
    asked_s = time.perf_counter()
    with memory.lease(card, threading.Event()) as lease:
        for _ in lease.wait():
            pass
        waited_s = time.perf_counter() - asked_s
        lease.backend.run_once(TOKENS)
        torch.cuda.synchronize()
    return [waited_s] if there and not lease.evicted else []
