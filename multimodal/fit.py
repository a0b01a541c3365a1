"""`multimodal fit`: what a profile needs of a card, on any machine, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import psutil

from multimodal.backends.compute_device import runs_on_cpu
from multimodal.build import choose_profile, read_catalog
from multimodal.catalog.cards import Catalog, ModelCard, Profile
from multimodal.memory.calibration.record import Calibration
from multimodal.memory.devices.base import nvidia_driver_is_here
from multimodal.memory.estimate.factors import ESTIMATE, PeakFactors
from multimodal.memory.estimate.fit_report import BUS_BYTES_PER_S, FitLine
from multimodal.memory.estimate.footprint import Footprint
from multimodal.memory.estimate.training import Training, plan_training
from multimodal.memory.headroom import describe_reserve
from multimodal.memory.plan import Plan, make_plan, request_for
from multimodal.messages import Task
from multimodal.settings import Settings
from multimodal.sizes import gigabytes

CARD_BYTES = 12_000_000_000
"""The card that is planned for where none is named."""


@dataclass(frozen=True, slots=True)
class FitAnswer:
    """A profile's plan, and what could be fine-tuned on the same card, by model. `title` says whose
    models they are."""

    profile: Profile
    title: str
    plan: Plan
    training: dict[str, tuple[Training, ...]]
    budget_of: str = ""
    """The profile whose budget was taken for models that are not its own, since none was named."""

    def as_json(self) -> str:
        fit_report, change = self.plan.fit_report, self.plan.change
        return json.dumps(
            {
                "profile": self.profile.name,
                "verdict": fit_report.verdict,
                "sentence": fit_report.sentence,
                "budget_bytes": fit_report.budget_bytes,
                "reserve_bytes": fit_report.reserve_bytes,
                "peak_bytes": fit_report.peak_bytes,
                "spare_bytes": fit_report.spare_bytes,
                "together_bytes": fit_report.together_bytes,
                "models": [_ledger(line) for line in fit_report.lines],
                "in_host_memory": [
                    {"card": m.card, "title": m.title, "host_bytes": m.footprint.total}
                    for m in self.plan.beside
                ],
                "change": asdict(change) if change else None,
                "training": {
                    name: [asdict(way) | {"total": way.total} for way in ways]
                    for name, ways in self.training.items()
                },
            },
            indent=2,
        )


def answer(
    settings: Settings,
    context_tokens: int | None = None,
    bus_bytes_per_s: float = BUS_BYTES_PER_S,
    models: Sequence[str] = (),
) -> FitAnswer:
    """The answer for the settings' profile and budget, and for `models` in place of the profile's
    defaults. Raises CardError, UnknownModelError and SettingsError.

    A card that is not in this machine may be planned for as well: a budget alone is taken for one.
    """
    catalog = read_catalog(settings)
    card_bytes = 0
    if settings.device_kind == "sim":
        card_bytes = settings.simulated_bytes
    elif settings.device_kind == "cuda":
        card_bytes = int(settings.budget or CARD_BYTES)
    elif settings.device_kind == "auto":
        card_bytes = int(settings.budget or 0)
    profile = choose_profile(catalog, settings.profile, card_bytes, can_run=_plannable)
    budget = int(settings.budget) if settings.budget else None
    measured = _calibration(settings)
    return answer_for(
        catalog,
        profile,
        budget,
        context_tokens,
        bus_bytes_per_s,
        models,
        settings.device_kind,
        measured.context_bytes if measured else None,
        measured.factors if measured else ESTIMATE,
    )


def _calibration(settings: Settings) -> Calibration | None:
    """What was measured of the card of this machine."""
    if settings.device_kind in {"sim", "cpu"} or not nvidia_driver_is_here():
        return None
    from multimodal.memory.devices.cuda import load_calibration

    return load_calibration(settings.data)


def _plannable(_family: str) -> bool:
    """Any family can be planned with, whether or not this version runs it."""
    return True


def answer_for(
    catalog: Catalog,
    profile: Profile,
    budget_bytes: int | None = None,
    context_tokens: int | None = None,
    bus_bytes_per_s: float = BUS_BYTES_PER_S,
    models: Sequence[str] = (),
    device_kind: str = "auto",
    context_bytes: int | None = None,
    factors: PeakFactors = ESTIMATE,
) -> FitAnswer:
    """The answer for a profile of `catalog`, under its own budget unless one is given; for one
    model a task, the profile's default, unless `models` are named. `context_bytes` and `factors`
    are those of the card."""
    cards = tuple(catalog.card(name) for name in dict.fromkeys(models or profile.defaults))
    budget = budget_bytes or profile.budget_for(psutil.virtual_memory().total)
    asked = request_for(
        profile,
        cards,
        budget,
        device_kind,
        context_bytes,
        runs_on_cpu,
        context_tokens=context_tokens,
        bus_bytes_per_s=bus_bytes_per_s,
        factors=factors,
    )
    training = _training(cards, budget - asked.reserve_bytes)
    title = "Models of your choice" if models else profile.title
    ways = {card.title: ways for card, ways in training}
    unnamed = models and budget_bytes is None
    return FitAnswer(profile, title, make_plan(asked), ways, profile.title if unnamed else "")


def _training(
    cards: tuple[ModelCard, ...], room: int
) -> list[tuple[ModelCard, tuple[Training, ...]]]:
    text = [card for card in cards if card.task is Task.TEXT]
    found = [(card, tuple(plan_training(card, room))) for card in text]
    return [(card, ways) for card, ways in found if ways]


def _ledger(line: FitLine) -> dict[str, object]:
    member = line.member
    size = member.footprint
    return {
        "card": member.card,
        "title": member.title,
        "quantization": member.quantization,
        "context_tokens": member.context_tokens,
        "weights_bytes": size.weights,
        "kv_cache_bytes": size.kv_cache,
        "runtime_bytes": size.runtime,
        "resident_bytes": size.resident,
        "workspace_bytes": size.workspace,
        "swaps": line.swaps,
        "swap_s": line.swap_s,
    }


class Row(NamedTuple):
    """The cells of a wide table; for a narrow column the name, the bytes in all, and remarks."""

    cells: list[str]
    name: str
    size: str
    remarks: str


class Table(NamedTuple):
    """What a person reads of an answer: in a terminal `title`, `heads`, the cells and `foot`; in a
    narrow column `caption`, the rest of the rows, and `advice`."""

    title: str
    heads: list[str]
    rows: list[Row]
    foot: list[str]
    caption: str
    advice: str = ""


def tables(found: FitAnswer) -> list[Table]:
    """The ledger, then what could be fine-tuned, a table for each model."""
    return [_ledger_table(found), *(_training_table(*item) for item in found.training.items())]


def _ledger_table(found: FitAnswer) -> Table:
    fit_report, change = found.plan.fit_report, found.plan.change
    rows = [_row(line) for line in fit_report.lines]
    if fit_report.reserve_bytes:
        held = gigabytes(fit_report.reserve_bytes)
        source = describe_reserve(fit_report.reserve_bytes)
        cells = ["CUDA context and libraries", "", "", "", "", held, f"stays ({source})"]
        rows.append(Row(cells, "CUDA context", held, source))
    for member in found.plan.beside:
        place = "on the CPU, in host memory"
        cells = [member.title, "", "", *_sizes(member.footprint), f"no: {place}"]
        rows.append(Row(cells, member.title, gigabytes(member.footprint.total), place))
    budget, advice = gigabytes(fit_report.budget_bytes), ""
    foot = [fit_report.sentence]
    if fit_report.verdict != "impossible":
        foot.append(f"The fullest moment takes {gigabytes(fit_report.peak_bytes)} of {budget}.")
    if change:
        spare = gigabytes(change.spare_bytes)
        foot.append(f"Cheapest change: {change.sentence}; then all fit together, {spare} spare.")
        advice = f"Cheapest change so that all fit together: {change.sentence}."
    elif fit_report.verdict != "together":
        foot.append("No three changes that its cards allow make all of them fit together.")
    if found.budget_of:
        foot.append(
            f"The budget is that of the profile “{found.budget_of}”; name another, as in "
            "--budget 12GB."
        )
    heads = ["model", "weights as", "context", "weights", "cache", "runtime", "on the device"]
    return Table(f"{found.title}, {budget}", heads, rows, foot, fit_report.sentence, advice)


def _row(line: FitLine) -> Row:
    member, size, time = line.member, line.member.footprint, f"{line.swap_s:.2f} s"
    context = f"{member.context_tokens:,}" if member.context_tokens else ""
    place = f"swaps, {time}" if line.swaps else "stays"
    remarks = [
        member.quantization,
        *([f"+{gigabytes(size.workspace)} in use"] if size.workspace else []),
        f"swaps in {time}" if line.swaps else "stays",
    ]
    cells = [member.title, member.quantization, context, *_sizes(size), place]
    return Row(cells, member.title, gigabytes(size.resident), " · ".join(remarks))


def _sizes(size: Footprint) -> list[str]:
    return [gigabytes(size.weights), gigabytes(size.kv_cache), gigabytes(size.runtime)]


def _training_table(title: str, ways: tuple[Training, ...]) -> Table:
    rows = []
    for way in ways:
        sizes = [gigabytes(n) for n in (way.weights, way.states, way.activations, way.total)]
        fits = f"up to {way.tokens:,} tokens" if way.fits else "no"
        rows.append(Row([way.method, *sizes, fits], way.method, sizes[-1], fits))
    heads = ["method", "weights", "gradients, optimizer", "activations", "in all", "fits"]
    foot = [
        "Alone on the card, one example at a time, with gradient checkpointing; LoRA of rank 16."
    ]
    return Table(f"Fine-tuning {title}", heads, rows, foot, f"Fine-tuning {title} on it")
