"""Who must go: the decision against every possible set of victims."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from multimodal.memory.eviction import Resident, victims

residents = st.lists(
    st.builds(
        Resident,
        card=st.text("abcdefgh", min_size=1, max_size=3),
        size_bytes=st.integers(1, 50),
        leases=st.integers(0, 2),
        reload_s=st.integers(0, 5).map(float),
        uses=st.integers(0, 4),
        last_used_s=st.integers(0, 9).map(float),
    ),
    max_size=7,
    unique_by=lambda resident: resident.card,
)
sizes = st.integers(0, 120)


@given(sizes, sizes, residents)
def test_victims_are_idle_and_free_enough(needed: int, free: int, held: list[Resident]) -> None:
    chosen = victims(needed, free, held)
    by_name = {resident.card: resident for resident in held}
    if chosen is None:
        assert free + sum(r.size_bytes for r in held if r.idle) < needed
        return
    assert all(by_name[name].idle for name in chosen)
    assert free + sum(by_name[name].size_bytes for name in chosen) >= needed
    assert bool(chosen) == (needed > free)


Rank = tuple[float, int, float]


def rank(group: Sequence[Resident]) -> Rank:
    """Least reload seconds x uses, then fewest bytes, then least recently used."""
    return (
        sum(r.reload_s * (1 + r.uses) for r in group),
        sum(r.size_bytes for r in group),
        max(r.last_used_s for r in group),
    )


@given(sizes, sizes, residents)
def test_no_other_set_is_better_by_the_stated_order(
    needed: int, free: int, held: list[Resident]
) -> None:
    chosen = victims(needed, free, held)
    if not chosen:
        return
    idle = [resident for resident in held if resident.idle]
    every = chain.from_iterable(combinations(idle, n) for n in range(1, len(idle) + 1))
    ranks = [rank(g) for g in every if free + sum(r.size_bytes for r in g) >= needed]
    assert rank([resident for resident in held if resident.card in chosen]) == min(ranks)


@given(sizes, sizes, residents, st.randoms())
def test_the_order_of_the_ledger_does_not_matter(
    needed: int, free: int, held: list[Resident], random: Random
) -> None:
    shuffled = list(held)
    random.shuffle(shuffled)
    assert victims(needed, free, held) == victims(needed, free, shuffled)


def test_each_of_the_stated_reasons_decides_in_its_turn() -> None:
    dear = Resident("dear", 50, reload_s=3.0)
    cheap = Resident("cheap", 50, reload_s=1.0, last_used_s=9.0)
    assert victims(50, 0, [dear, cheap]) == ("cheap",)
    popular = Resident("popular", 50, reload_s=1.0, uses=4)
    assert victims(50, 0, [popular, dear]) == ("dear",)
    big, small = Resident("big", 80), Resident("small", 50, last_used_s=9.0)
    assert victims(50, 0, [big, small]) == ("small",)
    old, new = Resident("z-old", 50, last_used_s=1.0), Resident("a-new", 50, last_used_s=2.0)
    assert victims(50, 0, [new, old]) == ("z-old",)
    assert victims(50, 0, [Resident("b", 50), Resident("a", 50)]) == ("a",)


@given(st.integers(1, 900), st.lists(st.integers(1, 50), min_size=13, max_size=20))
def test_many_idle_models_still_free_enough_and_none_needlessly(
    needed: int, sizes: list[int]
) -> None:
    held = [Resident(f"m{i:02}", size) for i, size in enumerate(sizes)]
    chosen = victims(needed, 0, held)
    if chosen is None:
        assert sum(sizes) < needed
        return
    freed = [r.size_bytes for r in held if r.card in chosen]
    assert needed <= sum(freed) < needed + min(freed)


def test_many_idle_models_are_taken_one_at_a_time() -> None:
    held = [Resident(f"m{i:02}", 10, last_used_s=float(i)) for i in range(30)]
    assert victims(25, 0, held) == ("m00", "m01", "m02")
