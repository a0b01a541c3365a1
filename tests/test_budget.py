"""Who must go: the decision against every possible set of victims."""

from __future__ import annotations

from itertools import chain, combinations

from hypothesis import given
from hypothesis import strategies as st

from multimodal.memory.budget import Resident, victims

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


@given(sizes, sizes, residents)
def test_no_other_set_would_cost_less_to_bring_back(
    needed: int, free: int, held: list[Resident]
) -> None:
    chosen = victims(needed, free, held)
    if not chosen:
        return
    idle = [resident for resident in held if resident.idle]
    every = chain.from_iterable(combinations(idle, n) for n in range(1, len(idle) + 1))
    costs = [
        (sum(r.reload_s * (1 + r.uses) for r in group), sum(r.size_bytes for r in group))
        for group in every
        if free + sum(r.size_bytes for r in group) >= needed
    ]
    group = [resident for resident in held if resident.card in chosen]
    cost = (sum(r.reload_s * (1 + r.uses) for r in group), sum(r.size_bytes for r in group))
    assert cost == min(costs)


@given(sizes, sizes, residents, st.randoms())
def test_the_order_of_the_ledger_does_not_matter(
    needed: int, free: int, held: list[Resident], random: object
) -> None:
    shuffled = list(held)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = victims(needed, free, held), victims(needed, free, shuffled)
    assert (first is None) == (second is None)
    assert set(first or ()) == set(second or ())


def test_many_idle_models_are_taken_one_at_a_time() -> None:
    held = [Resident(f"m{i:02}", 10, last_used_s=float(i)) for i in range(30)]
    assert victims(25, 0, held) == ("m00", "m01", "m02")
