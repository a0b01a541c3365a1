"""A set of cards to a certificate, and the cheapest change that would make all of it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from multimodal.catalog.architectures import MeasuredArchitecture
from multimodal.catalog.cards import ModelCard, Profile
from multimodal.memory.estimate.factors import ESTIMATE, PeakFactors
from multimodal.memory.estimate.fit_report import (
    BUS_BYTES_PER_S,
    FitReport,
    PlannedModel,
    co_resident_bytes,
    make_fit_report,
)
from multimodal.memory.estimate.footprint import footprint, usual_quantization
from multimodal.memory.headroom import is_on_gpu, planned_reserve_bytes
from multimodal.memory.host import is_cpu_only

SHORTEST_CONTEXT = 1024
MOST_STEPS = 3


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is asked: the cards, the budget in bytes, the context in tokens (None: each card's).
    `factors`: those of the device."""

    cards: tuple[ModelCard, ...]
    budget_bytes: int
    reserve_bytes: int = 0
    context_tokens: int | None = None
    bus_bytes_per_s: float = BUS_BYTES_PER_S
    factors: PeakFactors = ESTIMATE
    beside: tuple[ModelCard, ...] = ()
    """Cards that run on the CPU and take nothing of the budget."""


def request_for(
    profile: Profile,
    cards: Sequence[ModelCard],
    budget_bytes: int,
    device_kind: str = "auto",
    context_bytes: int | None = None,
    runs_on_cpu: Callable[[ModelCard], bool] = is_cpu_only,
    **more: Any,
) -> PlanRequest:
    """What to ask for a profile on a device of that kind (`--device`): on a card, room is kept for
    the CUDA context, `context_bytes` where they were measured, and models of which `runs_on_cpu`
    says so are beside it."""
    reserve = planned_reserve_bytes(profile, device_kind, context_bytes)
    on_card = is_on_gpu(profile, device_kind)
    beside = tuple(card for card in cards if on_card and runs_on_cpu(card))
    there = tuple(card for card in cards if card not in beside)
    return PlanRequest(there, budget_bytes, reserve, beside=beside, **more)


@dataclass(frozen=True, slots=True)
class PlanChange:
    """One thing to do differently; `spare_bytes` is left once it is done."""

    sentence: str
    spare_bytes: int
    changes: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """`change` is None where everything fits already, or where nothing tried helps; `beside` run on
    the CPU, in host memory."""

    fit_report: FitReport
    change: PlanChange | None
    beside: tuple[PlannedModel, ...] = ()


def make_plan(request: PlanRequest) -> Plan:
    """Certify the request, and look for a change if its models do not fit together."""
    members = [_member(card, request) for card in request.cards]
    fit_report = make_fit_report(
        members, request.budget_bytes, request.reserve_bytes, request.bus_bytes_per_s
    )
    change = None if fit_report.verdict == "together" else cheapest_change(request, members)
    beside = tuple(_member(card, request) for card in request.beside)
    return Plan(fit_report, change, beside)


@dataclass(frozen=True, slots=True)
class _Step:
    """`sentence` replaces the member at `index` by `member`, or removes it."""

    sentence: str
    index: int
    member: PlannedModel | None


def cheapest_change(request: PlanRequest, members: Sequence[PlannedModel]) -> PlanChange | None:
    """The change after which all fit together: as few steps as possible, and of those the one
    that gives up the fewest bytes."""
    room = request.budget_bytes - request.reserve_bytes
    steps = list(_steps(request, members))
    for count in range(1, MOST_STEPS + 1):
        found = [
            PlanChange("; ".join(step.sentence for step in chosen), room - needed, count)
            for chosen in combinations(steps, count)
            if len({step.index for step in chosen}) == count
            and (needed := co_resident_bytes(_changed(members, chosen))) <= room
        ]
        if found:
            return min(found, key=lambda change: change.spare_bytes)
    return None


def _changed(members: Sequence[PlannedModel], steps: Sequence[_Step]) -> list[PlannedModel]:
    new = {step.index: step.member for step in steps}
    chosen = (new.get(index, member) for index, member in enumerate(members))
    return [member for member in chosen if member is not None]


def _steps(request: PlanRequest, members: Sequence[PlannedModel]) -> Iterator[_Step]:
    for index, (card, member) in enumerate(zip(request.cards, members, strict=True)):
        title, tokens = member.title, member.context_tokens
        ways = [(kind, tokens, f"{title} in {kind}") for kind in card.quantization]
        for less in () if isinstance(card.architecture, MeasuredArchitecture) else _shorter(tokens):
            told = f"{title} with {less:,} tokens of context"
            ways.append((member.quantization, less, told))
        for kind, context, told in ways:
            size = footprint(card, kind, context, request.factors)
            if size.total < member.footprint.total:
                new = replace(member, quantization=kind, context_tokens=context, footprint=size)
                yield _Step(told, index, new)
        if sum(other.task is card.task for other in request.cards) > 1:
            yield _Step(f"leave out {member.title}", index, None)


def _shorter(tokens: int | None) -> Iterator[int]:
    """Half a context, half of that, and so on."""
    while tokens and (tokens := tokens // 2) >= SHORTEST_CONTEXT:
        yield tokens


def _member(card: ModelCard, request: PlanRequest) -> PlannedModel:
    kind = usual_quantization(card)
    tokens = None
    if card.context_tokens:  # all of it, as a turn will ask for
        tokens = min(request.context_tokens or card.context_tokens, card.context_tokens)
    size = footprint(card, kind, tokens, request.factors)
    return PlannedModel(card.name, card.title, kind, tokens, size)
