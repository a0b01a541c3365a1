"""“What fits?” on the page: the certificate of a profile under a budget, before it is chosen."""

from __future__ import annotations

from html import escape

import gradio as gr

from multimodal.build import Program
from multimodal.catalog.cards import clipped
from multimodal.errors import MultimodalError, RequestError, SettingsError
from multimodal.fit import Answer, answer_for
from multimodal.memory.estimate.fit_report import Line
from multimodal.memory.estimate.training import Training
from multimodal.memory.reserve import reserve_words
from multimodal.settings import byte_size
from multimodal.sizes import gigabytes


class FittingPanel:
    """Builds its components inside the Blocks that is open."""

    def __init__(self, program: Program) -> None:
        self._program = program
        profiles = [(profile.title, profile.name) for profile in program.catalog.profiles]
        with gr.Accordion("What fits?", open=False, elem_id="fit"):
            self.profile = gr.Dropdown(profiles, value=program.profile.name, label="Set of models")
            choices = [(card.title, card.name) for card in program.catalog.cards]
            self.models = gr.Dropdown(
                choices, multiselect=True, label="Models", info="Empty: one a task, the set's own"
            )
            self.budget = gr.Textbox(
                "", label="Budget", placeholder="12GB", info="Empty: the set's own", max_lines=1
            )
            self.ask = gr.Button("Work it out", size="sm", elem_id="fit-ask")
            self.told = gr.HTML(elem_id="fit-told")

    def work_out(self, profile: str, models: list[str] | None, budget: str) -> str:
        """The certificate as HTML; what is wrong with the budget, in its place."""
        catalog = self._program.catalog
        try:
            size = _size(budget.strip())
            chosen = catalog.profile(profile)
            # Of the device that is there; on the CPU there is no context, and estimates count.
            device = self._program.memory.device
            is_own = chosen.name == self._program.profile.name
            context = device.context_bytes or None
            found = answer_for(
                catalog,
                chosen,
                size,
                models=models or (),
                device_kind=self._program.settings.device_kind if is_own else "auto",
                context_bytes=context,
                factors=device.factors,
            )
            return render_fit(found)
        except MultimodalError as error:
            return f'<p class="fit-wrong" role="alert">{escape(str(error))}</p>'


def _size(budget: str) -> int | None:
    """Raises RequestError in the page's words."""
    if not budget:
        return None
    try:
        return byte_size("budget", budget)
    except SettingsError as error:
        raise RequestError(f"“{clipped(budget)}” is no size. Write one such as 12GB.") from error


def render_fit(found: Answer) -> str:
    """The answer for a narrow column."""
    fit_report, change = found.plan.fit_report, found.plan.change
    rows = "".join(_line(line) for line in fit_report.lines)
    if fit_report.reserve_bytes:
        held = fit_report.reserve_bytes
        rows += row("CUDA context", gigabytes(held), reserve_words(held))
    for member in found.plan.beside:
        size = gigabytes(member.footprint.total)
        rows += row(member.title, size, "on the CPU, in host memory")
    advice = ""
    if change:
        advice = f"<p>Cheapest change so that all fit together: {escape(change.sentence)}.</p>"
    training = "".join(_training(title, ways) for title, ways in found.training.items())
    return (
        f'<section class="fit" role="status"><p class="{fit_report.verdict}"><b>'
        f"{escape(fit_report.sentence)}</b></p><ul>{rows}</ul>{advice}{training}</section>"
    )


def _line(line: Line) -> str:
    size = line.member.footprint
    more = [line.member.quantization]
    if size.workspace:
        more.append(f"+{gigabytes(size.workspace)} in use")
    more.append(f"swaps in {line.swap_s:.2f} s" if line.swaps else "stays")
    return row(line.member.title, gigabytes(size.resident), " · ".join(more))


def _training(title: str, ways: tuple[Training, ...]) -> str:
    rows = "".join(
        row(way.method, gigabytes(way.total), f"up to {way.tokens:,} tokens" if way.fits else "no")
        for way in ways
    )
    return f"<p>Fine-tuning {escape(title)} on it</p><ul>{rows}</ul>"


def row(name: str, size: str, more: str) -> str:
    """One line of a list: what it is, what it takes, and what else is to be said of it."""
    return f"<li><span>{escape(name)}<small>{escape(more)}</small></span><span>{size}</span></li>"
