"""The proof before loading: does a set of models fit a budget, which must swap, what would mend it.

Pure arithmetic over footprints. One turn runs at a time and holds one model, so at any moment the
device holds the models that stay, the one that is used, and that one's workspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Literal

from multimodal.memory.estimate.footprint import Footprint
from multimodal.sizes import gigabytes

BUS_BYTES_PER_S = 25e9
"""PCIe 4.0 x16 with pinned host memory; PCIe 5.0 x16 reaches about twice as much."""

Verdict = Literal["together", "swapping", "impossible"]


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model of the set, as it would be loaded."""

    card: str
    title: str
    quantization: str
    context_tokens: int | None
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class FitLine:
    """A member in the ledger. `swaps`: it leaves the device for others; bringing it back takes
    `swap_s` on the bus, sending it away nothing, since its weights stay mirrored in host memory."""

    member: PlannedModel
    swaps: bool
    swap_s: float


@dataclass(frozen=True, slots=True)
class FitReport:
    """Sizes in bytes. `peak_bytes` is the fullest moment; `spare_bytes` what is then left."""

    verdict: Verdict
    budget_bytes: int
    reserve_bytes: int
    peak_bytes: int
    lines: tuple[FitLine, ...]

    @property
    def spare_bytes(self) -> int:
        """Negative: what is missing."""
        return self.budget_bytes - self.peak_bytes

    @property
    def together_bytes(self) -> int:
        """What holding all of them at once would take."""
        return self.reserve_bytes + co_resident_bytes([line.member for line in self.lines])

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        match self.verdict:
            case "together":
                return f"Fits together, {gigabytes(self.spare_bytes)} spare."
            case "swapping":
                moved = [line for line in self.lines if line.swaps]
                told = ", ".join(f"{line.member.title} ({line.swap_s:.2f} s)" for line in moved)
                missing = gigabytes(self.together_bytes - self.budget_bytes)
                return f"Does not fit together: {missing} too much. These take turns: {told}."
            case "impossible":
                large = [
                    f"{line.member.title} needs {gigabytes(_alone(line.member))}"
                    for line in self.lines
                    if _alone(line.member) + self.reserve_bytes > self.budget_bytes
                ]
                room = gigabytes(max(0, self.budget_bytes - self.reserve_bytes))
                return f"Does not fit: {', '.join(large)}, and {room} are there for models."


def make_fit_report(
    members: Sequence[PlannedModel],
    budget_bytes: int,
    reserve_bytes: int = 0,
    bus_bytes_per_s: float = BUS_BYTES_PER_S,
) -> FitReport:
    """The certificate of `members` under a budget that also holds `reserve_bytes`."""
    room = budget_bytes - reserve_bytes

    def issued(verdict: Verdict, kept: Sequence[PlannedModel], needed: int) -> FitReport:
        lines = tuple(
            FitLine(m, m not in kept, 0.0 if m in kept else m.footprint.resident / bus_bytes_per_s)
            for m in members
        )
        return FitReport(verdict, budget_bytes, reserve_bytes, reserve_bytes + needed, lines)

    if co_resident_bytes(members) <= room:
        return issued("together", members, co_resident_bytes(members))
    if any(_alone(member) > room for member in members):
        return issued("impossible", (), max(_alone(member) for member in members))
    subsets = chain.from_iterable(combinations(members, n) for n in range(len(members) + 1))
    kept = min(
        (kept for kept in subsets if _busiest(members, kept) <= room),
        key=lambda kept: _traffic(members, kept),
    )
    return issued("swapping", kept, _busiest(members, kept))


def co_resident_bytes(members: Sequence[PlannedModel]) -> int:
    """Bytes with every member on the device, and the one with the largest workspace in use."""
    return _busiest(members, members)


def _alone(member: PlannedModel) -> int:
    return member.footprint.resident + member.footprint.workspace


def _busiest(members: Sequence[PlannedModel], kept: Sequence[PlannedModel]) -> int:
    """The fullest moment when `kept` never leave and the others come one at a time."""
    base = sum(member.footprint.resident for member in kept)
    return max(
        (base + (m.footprint.workspace if m in kept else _alone(m)) for m in members), default=0
    )


def _traffic(members: Sequence[PlannedModel], kept: Sequence[PlannedModel]) -> tuple[int, int]:
    """Bytes that cross the bus when every member is used once; then how many models move."""
    moved = [member for member in members if member not in kept]
    return sum(member.footprint.resident for member in moved), len(moved)
