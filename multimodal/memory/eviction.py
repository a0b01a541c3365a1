"""Which idle models must go for another to fit: pure arithmetic, no locks, no devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

SEARCH_LIMIT = 12
"""Above this many idle models the exact search (2^n sets) gives way to one model at a time."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model on the device. `reload_s` is what bringing it back would cost, `uses` counts its
    leases since it was loaded, `last_used_s` orders by age."""

    card: str
    size_bytes: int
    leases: int = 0
    reload_s: float = 0.0
    uses: int = 0
    last_used_s: float = 0.0

    @property
    def idle(self) -> bool:
        return self.leases == 0


def victims(
    needed_bytes: int, free_bytes: int, residents: Iterable[Resident]
) -> tuple[str, ...] | None:
    """The idle models to evict so that `needed_bytes` fit; () if they fit now, None if never.

    Among the sets that free enough: least reload seconds x (1 + uses), then fewest bytes freed in
    excess, then least recently used, then by name. A leased model is never among them.
    """
    short = needed_bytes - free_bytes
    if short <= 0:
        return ()
    idle = sorted((r for r in residents if r.idle), key=lambda r: (r.last_used_s, r.card))
    if sum(r.size_bytes for r in idle) < short:
        return None
    if len(idle) > SEARCH_LIMIT:
        return _one_at_a_time(short, idle)
    sets = chain.from_iterable(combinations(idle, n) for n in range(1, len(idle) + 1))
    enough = (chosen for chosen in sets if sum(r.size_bytes for r in chosen) >= short)
    return tuple(r.card for r in min(enough, key=_regret))


def _regret(chosen: Sequence[Resident]) -> tuple[float, int, float, tuple[str, ...]]:
    cost = sum(r.reload_s * (1 + r.uses) for r in chosen)
    size = sum(r.size_bytes for r in chosen)
    return cost, size, max(r.last_used_s for r in chosen), tuple(r.card for r in chosen)


def _one_at_a_time(short: int, idle: Sequence[Resident]) -> tuple[str, ...]:
    chosen: list[Resident] = []
    for resident in sorted(idle, key=lambda r: _regret((r,))):
        chosen.append(resident)
        if sum(r.size_bytes for r in chosen) >= short:
            break
    for resident in reversed(chosen):  # the dearest first: what others freed may make it needless
        if sum(r.size_bytes for r in chosen) - resident.size_bytes >= short:
            chosen = [r for r in chosen if r is not resident]
    return tuple(r.card for r in chosen)
