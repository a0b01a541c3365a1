"""What this machine's card and memory can run: one line for each profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from multimodal.backends.compute_device import runs_on_cpu
from multimodal.build import missing_families
from multimodal.catalog.architectures import MeasuredArchitecture
from multimodal.catalog.cards import Catalog, ModelCard, Profile
from multimodal.doctor.finding import Finding
from multimodal.errors import MultimodalError
from multimodal.memory.estimate.factors import ESTIMATE, PeakFactors
from multimodal.memory.estimate.fit_report import FitReport
from multimodal.memory.plan import make_plan, request_for
from multimodal.sizes import gigabytes

OTHER = "choose another: --profile embedded"


@dataclass(frozen=True, slots=True)
class Room:
    """Sizes in bytes. `card`: of the card, or of the simulated one; 0 without one. `usable`: a
    model can be loaded onto it. `torch_loads`: PyTorch can be asked about a model's modules.
    `is_on_cpu`: the profile that is chosen runs on the CPU, whatever it is made for.
    `context_bytes`: what CUDA's context was measured to take; None where it was not. `factors`:
    what turns take of what is counted for them."""

    card: int
    memory: int
    budget: int | None = None
    usable: bool = False
    torch_loads: bool = True
    is_on_cpu: bool = False
    context_bytes: int | None = None
    factors: PeakFactors = ESTIMATE


def capacity_findings(catalog: Catalog, chosen: Profile, room: Room) -> Iterator[Finding]:
    """A finding for each profile and the models it starts with, one a task; only the profile that
    is chosen can fail."""
    known = {profile.name: profile for profile in (*catalog.profiles, chosen)}
    for profile in known.values():
        yield capacity_finding(catalog, profile, room, profile.name == chosen.name)


def capacity_finding(catalog: Catalog, profile: Profile, room: Room, chosen: bool) -> Finding:
    name = f"profile {profile.name}"
    cards = [catalog.card(card) for card in profile.defaults]
    budget = room.budget or profile.budget_for(room.memory)
    on_card = profile.device == "cuda" and not (chosen and room.is_on_cpu)
    here = room.card if on_card else room.memory
    if not here:
        told = f"needs an NVIDIA card; its budget is {gigabytes(budget)}"
        return _judged(name, told, chosen, bad=True)
    if not room.torch_loads and not all(_needs_no_torch(card) for card in cards):
        return _judged(name, "cannot be worked out until torch can be loaded", chosen, bad=True)
    kind = "cuda" if on_card else "cpu"
    try:
        found = make_plan(
            request_for(
                profile,
                cards,
                min(budget, here),
                kind,
                room.context_bytes,
                runs_on_cpu,
                factors=room.factors,
            )
        ).fit_report
    except (ImportError, OSError, MultimodalError) as error:
        return _judged(name, f"cannot be worked out: {error}", chosen, bad=True)
    told = _words(found)
    if here < budget and found.verdict != "impossible":
        told += f", if started with --budget {here // 10**8 / 10:.1f}GB: more is not here"
    if families := missing_families(catalog, profile):
        told += f"; this version cannot run the family {', '.join(families)} yet"
    elif profile.device == "cuda" and room.usable and not chosen and found.verdict != "impossible":
        told += f"; start it with: python app.py --profile {profile.name}"
    way = OTHER
    if budget < found.peak_bytes <= here:
        way = f"start with a larger budget: --budget {-(-found.peak_bytes // 10**8) / 10:.1f}GB"
    return _judged(name, told, chosen, found.verdict == "impossible" or bool(families), way)


def _judged(name: str, told: str, chosen: bool, bad: bool, way: str = OTHER) -> Finding:
    if not chosen:
        return Finding("info" if bad else "ok", name, told)
    if bad:
        return Finding("fail", name, f"chosen; {told}", way)
    return Finding("ok", name, f"chosen; {told}")


def _words(found: FitReport) -> str:
    """“fits together, 1.20 GB spare”."""
    if found.verdict == "together":
        return f"fits together, {gigabytes(found.spare_bytes)} spare"
    if found.verdict == "impossible":
        return f"needs {gigabytes(found.peak_bytes)}, and {gigabytes(found.budget_bytes)} are there"
    moved = [line.member.title for line in found.lines if line.swaps]
    return f"fits by swapping {' and '.join(moved)} in and out"


def _needs_no_torch(card: ModelCard) -> bool:
    return isinstance(card.architecture, MeasuredArchitecture)
