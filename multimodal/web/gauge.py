"""The memory's state and the first start's downloads, as HTML for the side of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

from multimodal.build import UnusedGpu
from multimodal.memory.records import Decision, HeldEntry, Snapshot
from multimodal.sizes import gigabytes
from multimodal.weights import FetchProgress

FETCH_BEGUN = "Getting the models, once. You can type already."
FETCH_ENDED = "The models are here."
UPGRADE_BEGUN = "A better model is on its way. You can chat meanwhile."
UPGRADE_ENDED = "The better model is here. How fast it is gets measured."

TitleOf = Callable[[str], str]


def gauge(snapshot: Snapshot, title: TitleOf) -> str:
    """The budget as a bar with one segment a model, what each does, and the last decision."""
    budget = max(1, snapshot.budget_bytes)
    segments = "".join(
        f'<i class="{held.state}{" busy" if held.leases else ""}" '
        f'style="width:{100 * held.size_bytes / budget:.2f}%"></i>'
        for held in snapshot.held
        if held.place == "device"
    )
    if snapshot.workspace_bytes:
        share = 100 * snapshot.workspace_bytes / budget
        segments += f'<i class="workspace" style="width:{share:.2f}%"></i>'
    for _title, size_bytes in snapshot.reserved:
        segments += f'<i class="workspace" style="width:{100 * size_bytes / budget:.2f}%"></i>'
    used, whole = gigabytes(snapshot.used_bytes), gigabytes(snapshot.budget_bytes)
    failure = escape(snapshot.failure)
    lost = f"<p class='lost' role='alert'>{failure}</p>" if failure else ""
    device = "CPU" if (name := snapshot.device) == "cpu" else name[:1].upper() + name[1:]
    label = f"Memory: {used} of {whole} in use on {snapshot.device}"
    return (
        f'<section class="gauge" aria-label="{escape(label)}"><p><b>Memory</b>'
        f"<span>{used} of {whole}</span></p>"
        f'<div role="meter" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * snapshot.used_bytes / budget:.0f}">{segments}</div>'
        f"<p class='device'>{escape(device)}</p>"
        f"<ul>{''.join(_rows(snapshot, title))}</ul>{_last(snapshot, title)}"
        f"{_simulated(snapshot)}{lost}</section>"
    )


def _rows(snapshot: Snapshot, title: TitleOf) -> list[str]:
    rows = [(held.card, _state(held)) for held in snapshot.held]
    rows += [(mirror.card, "kept in host memory") for mirror in snapshot.mirrored]
    if snapshot.workspace_bytes:
        rows.append(("Turns under way", gigabytes(snapshot.workspace_bytes)))
    rows += [(job, gigabytes(size_bytes)) for job, size_bytes in snapshot.reserved]
    if snapshot.waiting:
        rows.append(("Waiting", f"{snapshot.waiting}"))
    if not rows:
        return ["<li><span>No model is loaded yet</span></li>"]
    return [
        f"<li><span>{escape(title(name))}</span><span>{words}</span></li>" for name, words in rows
    ]


def _state(held: HeldEntry) -> str:
    if held.state == "loading":
        return "loading"
    where = " of host memory" if held.place == "host" else ""
    return f"{gigabytes(held.size_bytes)}{where}{' · in use' if held.leases else ''}"


def _last(snapshot: Snapshot, title: TitleOf) -> str:
    if not snapshot.decisions:
        return ""
    return f"<p class='last'>{escape(decision_sentence(snapshot.decisions[-1], title))}</p>"


def decision_sentence(decision: Decision, title: TitleOf) -> str:
    """What the memory manager did last, and why."""
    name = title(decision.card)
    if decision.error:
        return f"Last: {name} could not be brought: {decision.error}"
    speed = f" ({decision.bytes_per_s / 1e9:.1f} GB/s)" if decision.how == "restored" else ""
    done = f"Last: {name} {decision.how} in {decision.seconds:.2f} s{speed}"
    free = f"{gigabytes(max(0, decision.free_bytes))} were free"
    if not decision.victims:
        return f"{done}; {free}, nothing had to go."
    gone = ", ".join(map(title, decision.victims))
    return f"{done}; it needed {gigabytes(decision.needed_bytes)} and {free}, so {gone} left."


def _simulated(snapshot: Snapshot) -> str:
    if not snapshot.simulated:
        return ""
    return (
        "<p class='simulated' role='note'>This card is simulated. Models run on the CPU, slowly, "
        "with their real weights; what fits, what swaps and the seconds are the card's.</p>"
    )


def unused_gpu(card: UnusedGpu) -> str:
    """Why a card is not used, and the command that mends it, to be copied."""
    fix = escape(card.fix)
    is_command = fix.startswith("pip ")
    shown = f'<pre tabindex="0"><code>{fix}</code></pre>' if is_command else f"<p>{fix}</p>"
    return (
        f'<section class="fetching unused-card" role="note"><p>{escape(card.sentence)}</p>'
        f"{shown}</section>"
    )


def fetching(
    progress: Mapping[str, FetchProgress],
    errors: Mapping[str, str],
    titles: Mapping[str, str],
    is_upgrade: bool = False,
) -> str:
    """What is fetched now, or why it failed; "" when there is nothing to tell. `is_upgrade`:
    something answers already.

    It changes every two seconds, so it is no live region: `head.html` says `FETCH_BEGUN` and
    `FETCH_ENDED` once, to those who hear the page.
    """
    rows = []
    for card, state in progress.items():
        share = 100 * state.done_bytes / max(1, state.total_bytes)
        done, total = state.done_bytes / 1e6, state.total_bytes / 1e6
        amount = f"{done:.0f} of {total:.0f} MB" if total else ""
        title = escape(titles.get(card, card))
        note = f"<p class='note'>{escape(state.note)}</p>" if state.note else ""
        rows.append(
            f"<li><div><span>{title}</span><span>{amount}</span></div>"
            f'<progress aria-label="{title}" max="100" value="{share:.1f}"></progress>{note}</li>'
        )
    if rows:
        begun, ended = (UPGRADE_BEGUN, UPGRADE_ENDED) if is_upgrade else (FETCH_BEGUN, FETCH_ENDED)
        return (
            f'<section class="fetching" aria-label="Getting the models" data-ended="{ended}">'
            f"<p>{begun}</p><ul>{''.join(rows)}</ul></section>"
        )
    if errors:
        sentences = "".join(f"<p>⚠️ {escape(sentence)}</p>" for sentence in errors.values())
        return f'<section class="fetching" role="alert">{sentences}</section>'
    return ""
