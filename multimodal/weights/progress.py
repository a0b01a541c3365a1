"""How far a card's weights are, and how a terminal shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TransferSpeedColumn

Phase = Literal["waiting", "fetching", "verifying", "unpacking", "ready"]


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far one card's weights are; bytes over all that is fetched. `total_bytes` is 0 until
    the place they come from has told it."""

    card: str
    done_bytes: int
    total_bytes: int
    phase: Phase
    note: str = ""
    """What happened on the way: which place failed, and which one is tried next."""


ReportFetch = Callable[[FetchProgress], None]


def silent(_progress: FetchProgress) -> None:
    """For callers that show nothing."""


@contextmanager
def console_progress() -> Iterator[ReportFetch]:
    """Show downloads in the terminal: bars, or a line every ten per cent in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress("{task.description}", *columns, console=console, transient=True) as bars:
        rows: dict[str, TaskID] = {}
        tell_note = _notes(bars.console)

        def show(progress: FetchProgress) -> None:
            tell_note(progress)
            total = progress.total_bytes or None
            if progress.card not in rows:
                rows[progress.card] = bars.add_task(progress.card, total=total)
            done = progress.total_bytes if progress.phase == "ready" else progress.done_bytes
            bars.update(rows[progress.card], total=total, completed=done)

        yield show


def _lines(console: Console) -> ReportFetch:
    told: dict[str, int] = {}
    tell_note = _notes(console)

    def show(progress: FetchProgress) -> None:
        tell_note(progress)
        if progress.phase == "waiting":  # the licence is told before anything comes
            return
        done = progress.phase == "ready"
        tenth = 10 if done else 10 * progress.done_bytes // max(1, progress.total_bytes)
        if tenth > told.get(progress.card, -1):
            told[progress.card] = tenth
            console.print(f"{progress.card}: {10 * tenth} %", highlight=False)

    return show


def _notes(console: Console) -> ReportFetch:
    """Each note about a card once, as a line of its own."""
    told: dict[str, str] = {}

    def tell(progress: FetchProgress) -> None:
        if progress.note and progress.note != told.get(progress.card):
            told[progress.card] = progress.note
            line = f"{progress.card}: {progress.note}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    return tell
