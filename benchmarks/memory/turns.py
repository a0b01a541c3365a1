"""Two hundred turns as people mix them, and what an order of models costs under simple rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multimodal.catalog.cards import Catalog, ModelCard, Profile
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.eviction import Resident, victims
from multimodal.messages import Task

SHARES = {
    (Task.TEXT,): 50,
    (Task.IMAGE,): 20,
    (Task.SPEECH, Task.TEXT): 20,
    (Task.DRAW,): 10,
}


def mixed(catalog: Catalog, profile: Profile, turns: int, seed: int = 7) -> list[ModelCard]:
    """The cards that so many turns use, one after the other."""
    chance = random.Random(seed)  # noqa: S311
    kinds = chance.choices(list(SHARES), weights=list(SHARES.values()), k=turns)
    names = [profile.default_name(task) for kind in kinds for task in kind]
    return [catalog.card(name) for name in names if name]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an order of models moved onto the device, in bytes, and how often."""

    moved_bytes: int
    arrivals: int


Choose = Callable[[int, int, Sequence[Resident]], Sequence[str]]


def by_cost(needed: int, free: int, residents: Sequence[Resident]) -> Sequence[str]:
    """The memory manager's own rule."""
    return victims(needed, free, residents) or ()


def least_recently_used(needed: int, free: int, residents: Sequence[Resident]) -> Sequence[str]:
    """What most programs do."""
    gone: list[str] = []
    for resident in sorted(residents, key=lambda r: r.last_used_s):
        if free >= needed:
            break
        gone.append(resident.card)
        free += resident.size_bytes
    return gone


def all_of_them(needed: int, free: int, residents: Sequence[Resident]) -> Sequence[str]:
    """One model at a time: what a program without a budget for a set does."""
    return [resident.card for resident in residents]


def replay(order: Sequence[ModelCard], room: int, choose: Choose) -> Cost:
    """What `order` costs under a rule, with one turn at a time and `room` bytes for models."""
    residents: dict[str, Resident] = {}
    moved = arrivals = 0
    for now, card in enumerate(order):
        size = footprint(card)
        mine = residents.pop(card.name, None)
        held = sum(r.size_bytes for r in residents.values())
        needed = size.resident + size.workspace
        for name in choose(needed, room - held, list(residents.values())):
            del residents[name]
        if mine is None:
            moved += size.resident
            arrivals += 1
        uses = mine.uses + 1 if mine else 1
        residents[card.name] = Resident(
            card.name, size.resident, 0, size.resident / 1e9, uses, float(now)
        )
    return Cost(moved, arrivals)
