"""One job as the page shows it: values for the templates, read from its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimodal.memory.records import Snapshot
from multimodal.studio.folder import JobFolder
from multimodal.studio.records import ENDS, JobNotice, Metric, Report, Sample
from multimodal.studio.requirements import TEACHABLE, TEXT_MODEL
from multimodal.web.studio import words
from multimodal.web.studio.curves import Plot, plots
from multimodal.web.studio.form import METHODS
from multimodal.web.studio.rendering import picture_address
from multimodal.web.studio.services import Job

LOG_LINES = 40
LOG_BYTES = 16_000
MOST_PICTURES = 8
TABLE_ROWS = 12
"""Steps of the table of figures, evenly spread."""
FILES = ("status.json", "metrics.jsonl", "samples.jsonl", "notices.jsonl", "report.json")


@dataclass(frozen=True, slots=True)
class JobHeading:
    """What the list says of a job. `outcome`: “learned”, “not learned” or “not shown”, once it
    ended with a report."""

    id: str
    name: str
    model: str
    method: str
    state: str
    sign: str
    word: str
    doing: str
    step: int
    steps: int
    created_s: float
    outcome: str
    is_active: bool

    @property
    def percent(self) -> float:
        return 100 * min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True, slots=True)
class JobView:
    """All that is shown of the open job."""

    heading: JobHeading
    error: str
    log: str
    data: str
    started_s: float | None
    ran: str
    left: str
    plots: tuple[Plot, ...]
    table: Table | None
    samples: tuple[ShownSample, ...]
    notices: tuple[JobNotice, ...]
    report: Report | None
    effective: str
    why_not_resumable: str
    command: str
    toml: str
    download: str
    installed: str


@dataclass(frozen=True, slots=True)
class ShownSample:
    """`picture`: the address that holds the picture itself, "" where there is none."""

    step: int
    prompt: str
    answer: str
    expected: str
    picture: str


@dataclass(frozen=True, slots=True)
class Table:
    """Figures of some steps, for those who do not see the plots."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def heading(job: Job, title: str) -> JobHeading:
    """`title`: of the model that it begins with."""
    status, settings = job.status, job.settings
    sign, word = words.STATES[status.state]
    report = job.folder.report() if status.state in ENDS else None
    outcome = words.outcome(report) if report else ""
    return JobHeading(
        job.folder.id,
        settings.name,
        title,
        METHODS[settings.method][0],
        status.state,
        sign,
        word,
        status.doing if status.state not in ENDS else "",
        status.step,
        status.steps,
        status.created_s,
        outcome,
        status.state == "running" or (status.state == "waiting" and job.is_busy),
    )


def job_view(job: Job, title: str, download: str, installed: str) -> JobView:
    status, settings, folder = job.status, job.settings, job.folder
    metrics = folder.metrics()
    drawn = tuple(plots(metrics, TEACHABLE[settings.method] is TEXT_MODEL))
    shown = heading(job, title)
    ran_s = metrics[-1].time_s if metrics else None
    eta_s = metrics[-1].values.get("eta_s") if metrics else None
    return JobView(
        shown,
        status.error or "",
        _log_tail(folder.log) if status.state in {"failed", "interrupted"} else "",
        _short_data(settings.data),
        status.started_s,
        "" if ran_s is None else words.duration(ran_s),
        words.duration(eta_s) if eta_s is not None and shown.is_active else "",
        drawn,
        _table(metrics, drawn),
        tuple(_shown_sample(sample, folder) for sample in _spread(folder.samples())[::-1]),
        tuple(folder.notices()),
        folder.report(),
        _effective(job),
        (job.why_not_resumable() or "") if status.state in ENDS else "",
        settings.command(),
        settings.as_toml(),
        download,
        installed,
    )


def _spread(samples: list[Sample]) -> list[Sample]:
    """All answers; of what was drawn, MOST_PICTURES over the whole run, since each picture is sent
    with every change of the page."""
    if len(samples) <= MOST_PICTURES or not samples[-1].picture:
        return samples
    last = len(samples) - 1
    return [samples[round(at * last / (MOST_PICTURES - 1))] for at in range(MOST_PICTURES)]


def _shown_sample(sample: Sample, folder: JobFolder) -> ShownSample:
    picture = ""
    if sample.picture:
        try:
            png = (folder.pictures / Path(sample.picture).name).read_bytes()
            picture = picture_address(png, "png")
        except OSError:
            picture = ""
    return ShownSample(sample.step, sample.prompt, sample.answer, sample.expected, picture)


def fingerprint(job: Job) -> str:
    """Changes with what the job's folder says, and with whether anybody works on it."""
    told = [str(job.is_busy)]
    for name in FILES:
        try:
            found = (job.folder.path / name).stat()
        except OSError:
            continue
        told.append(f"{name}:{found.st_mtime_ns}:{found.st_size}")
    return hashlib.sha256("|".join(told).encode()).hexdigest()


def memory_shares(snapshot: Snapshot, title_of: Mapping[str, str]) -> dict[str, Any]:
    """Who holds the memory: jobs first, then models that stay, then who left lately, and why."""
    held = [*snapshot.reserved]
    held += [(title_of.get(one.card, one.card), one.size_bytes) for one in snapshot.held]
    if snapshot.workspace_bytes:
        held.append(("Turns under way", snapshot.workspace_bytes))
    left = [
        title_of.get(name, name) for decision in snapshot.decisions for name in decision.victims
    ]
    return {
        "device": snapshot.device,
        "budget": snapshot.budget_bytes,
        "used": snapshot.used_bytes,
        "held": held,
        "free": max(0, snapshot.budget_bytes - snapshot.used_bytes),
        "left": list(dict.fromkeys(left)),
        "waiting": snapshot.waiting,
    }


def _table(metrics: Sequence[Metric], drawn: Sequence[Plot]) -> Table | None:
    if not metrics:
        return None
    count = min(TABLE_ROWS, len(metrics))
    places = {round(at * (len(metrics) - 1) / max(1, count - 1)) for at in range(count)}
    named = [
        (plot.quantity, name, f"{plot.quantity.title} ({label})" if label else plot.quantity.title)
        for plot in drawn
        for name, label in plot.quantity.series
        if any(name in metric.values for metric in metrics)
    ]
    rows = tuple(
        (
            str(metrics[at].step),
            *(
                "" if (value := metrics[at].values.get(name)) is None else quantity.write(value)
                for quantity, name, _ in named
            ),
        )
        for at in sorted(places)
    )
    return Table(("Step", *(column for _, _, column in named)), rows)


def _effective(job: Job) -> str:
    """What became of the batch, where it is not as it was asked for."""
    status, asked = job.status, job.settings
    if not status.batch:
        return ""
    told = []
    if (status.batch, status.accumulation) != (asked.batch, asked.accumulation):
        told.append(
            f"batch {status.batch} × {status.accumulation} instead of "
            f"{asked.batch} × {asked.accumulation}"
        )
    if status.max_length and status.max_length != asked.max_length:
        told.append(f"at most {status.max_length} tokens instead of {asked.max_length}")
    return ", ".join(told)


def _short_data(data: str) -> str:
    return "your own chats" if data == "chats" else Path(data).name or data


def _log_tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-LOG_LINES:])
