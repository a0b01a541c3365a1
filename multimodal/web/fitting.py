"""“What fits?” on the page: the certificate of a profile under a budget, before it is chosen."""

from __future__ import annotations

from html import escape

import gradio as gr

from multimodal.build import Program
from multimodal.catalog.cards import truncate
from multimodal.errors import MultimodalError, RequestError, SettingsError
from multimodal.fit import FitAnswer, Table, answer_for, tables
from multimodal.settings import byte_size


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
        raise RequestError(f"“{truncate(budget)}” is no size. Write one such as 12GB.") from error


def render_fit(found: FitAnswer) -> str:
    """The answer for a narrow column."""
    ledger, *training = tables(found)
    verdict = found.plan.fit_report.verdict
    more = "".join(f"<p>{escape(table.caption)}</p>{_list(table)}" for table in training)
    return (
        f'<section class="fit" role="status"><p class="{verdict}"><b>{escape(ledger.caption)}</b>'
        f"</p>{_list(ledger)}{more}</section>"
    )


def _list(table: Table) -> str:
    rows = "".join(row(line.name, line.size, line.remarks) for line in table.rows)
    return f"<ul>{rows}</ul>" + (f"<p>{escape(table.advice)}</p>" if table.advice else "")


def row(name: str, size: str, more: str) -> str:
    """One line of a list: what it is, what it takes, and what else is to be said of it."""
    return f"<li><span>{escape(name)}<small>{escape(more)}</small></span><span>{size}</span></li>"
