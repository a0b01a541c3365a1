"""The run of mixed turns on a simulated card: no GPU is used and no second here is a GPU's."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.memory.turns import all_of_them, by_cost, least_recently_used, mixed, replay
from multimodal.catalog.cards import Catalog, ModelCard, Profile
from multimodal.memory.devices.simulated import DISK_BYTES_PER_S, Simulated
from multimodal.memory.estimate.fit_report import BUS_BYTES_PER_S
from multimodal.memory.headroom import model_bytes, planned_reserve_bytes
from multimodal.memory.manager import MemoryManager
from multimodal.memory.transfers import ReportProgress

HOST_BYTES = 32_000_000_000


class _Nothing:
    """A model that takes no memory of this machine."""

    def close(self) -> None:
        """Nothing to give back."""


class _Nowhere:
    def fetch(self, card: ModelCard, report: ReportProgress) -> Path:
        return Path()

    def load(self, card: ModelCard, files: Path, engine: str) -> _Nothing:
        return _Nothing()


def measure(catalog: Catalog, profile: Profile, budget: int, turns: int) -> dict[str, Any]:
    """Swaps, bytes and virtual seconds of the run, against other rules on the same order."""
    reserve = planned_reserve_bytes(profile)
    device = Simulated(budget, BUS_BYTES_PER_S, HOST_BYTES, context_bytes=reserve)
    room = model_bytes(budget, device)
    memory: MemoryManager[_Nothing] = MemoryManager(device, room, _Nowhere())
    order = mixed(catalog, profile, turns)
    most, hits = 0, []
    for card in order:
        there = any(held.card == card.name for held in memory.snapshot().held)
        started_s = time.perf_counter()
        with memory.lease(card, threading.Event()) as lease:
            for _ in lease.wait():
                pass
            if there and not lease.evicted:
                hits.append(time.perf_counter() - started_s)
            most = max(most, memory.snapshot().used_bytes)
    snapshot = memory.snapshot()
    ours = replay(order, room, by_cost)
    peers = {
        "least recently used": replay(order, room, least_recently_used),
        "one model at a time": replay(order, room, all_of_them),
    }
    return {
        "device": f"{device.name}, {BUS_BYTES_PER_S / 1e9:.0f} GB/s bus, "
        f"{DISK_BYTES_PER_S / 1e9:.0f} GB/s disk",
        "turns": turns,
        "leases": len(order),
        "arrivals": snapshot.decided,
        "virtual_seconds": round(device.now_s(), 3),
        "most_used_bytes": most + budget - room,
        "budget_bytes": budget,
        "resident_hit_ms_median": round(1000 * sorted(hits)[len(hits) // 2], 3),
        "moved_bytes": ours.moved_bytes,
        "moved_against": {
            name: round(ours.moved_bytes / peer.moved_bytes, 3) for name, peer in peers.items()
        },
    }
