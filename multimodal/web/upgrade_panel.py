"""On the page: better models that come behind the first ones, and the way to decline them."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import Any

import gradio as gr

from multimodal.build import Program
from multimodal.messages import Task
from multimodal.model_tiers import ModelTier, current_tier
from multimodal.upgrades import Upgrade, offer
from multimodal.web import gauge
from multimodal.web.tab_session import TabSession


class UpgradePanel:
    """Builds its components inside the Blocks that is open: a banner over the chat, and a place
    beside the gauge."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._tasks = tuple(program.upgrades.tasks)
        self.banner: gr.HTML
        self.stay: gr.Button
        self.tier: gr.HTML
        self.choices: list[gr.Button] = []

    def build_banner(self) -> None:
        self.banner = gr.HTML(elem_id="fetching")
        self.stay = gr.Button("Stay with the first model", size="sm", visible=False, elem_id="stay")

    def build_side(self) -> None:
        self.tier = gr.HTML(elem_id="rung")
        for task in self._tasks:
            label = self._choice(task)
            self.choices.append(gr.Button(label, size="sm", elem_classes="upgrade-choice"))

    @property
    def outputs(self) -> list[Any]:
        return [self.banner, self.stay, self.tier, *self.choices]

    def wire(self, session: gr.State, quiet: dict[str, Any]) -> None:
        self.stay.click(self._stay, [session], self.outputs, **quiet)
        for task, button in zip(self._tasks, self.choices, strict=True):
            button.click(partial(self._switch, task), [session], self.outputs, **quiet)

    def updates(self, session: TabSession) -> list[Any]:
        """The outputs where something of them changed since this tab was told."""
        coming = self._coming()
        choices = map(self._choice, self._tasks)
        stay = "" if coming is None else f"Stay with {self._first(coming.task)}"
        told = (self._banner(coming), stay, _tier_html(current_tier(self._program)), *choices)
        if session.upgrades == told:
            return [gr.skip() for _ in self.outputs]
        session.upgrades = told
        return [
            told[0],
            gr.Button(stay or "Stay with the first model", visible=bool(stay)),
            told[2],
            *map(gr.Button, told[3:]),
        ]

    # ------------------------------------------------------------ what is pressed

    def _stay(self, session: TabSession) -> list[Any]:
        if (coming := self._coming()) is not None:
            self._program.upgrades.decline(coming.task)
        return self.updates(session)

    def _switch(self, task: Task, session: TabSession) -> list[Any]:
        upgrades = self._program.upgrades
        if task in upgrades.declined:
            upgrades.accept(task)
        else:
            upgrades.decline(task)
        return self.updates(session)

    # ------------------------------------------------------------ what is shown

    def _coming(self) -> Upgrade | None:
        """The upgrade that is fetched or tried now."""
        under_way = ("fetching", "measuring")
        return next((u for u in self._program.upgrades.all if u.state in under_way), None)

    def _banner(self, coming: Upgrade | None) -> str:
        state, card = self._program.fetching, self._program.catalog.card
        progress = dict(state.progress)
        titles = {name: f"{card(name).title} ({card(name).license})" for name in progress}
        is_upgrade = coming is not None and set(progress) <= {coming.card}
        shown = gauge.fetching(progress, dict(state.errors), titles, is_upgrade)
        if (unused := self._program.unused_gpu) is not None:
            shown = gauge.unused_gpu(unused) + shown
        return shown

    def _choice(self, task: Task) -> str:
        """What the button for a task says."""
        upgrades, card = self._program.upgrades, self._program.catalog.card
        names = [upgrade.card for upgrade in upgrades.all if upgrade.task is task]
        if task in upgrades.declined:
            return f"Get {offer(card(names[0]), self._program.weights)}"
        return f"Stay with {self._first(task)}"

    def _first(self, task: Task) -> str:
        return self._program.catalog.title(self._program.defaults.first(task) or "")


def _tier_html(stands: ModelTier) -> str:
    """Where the program stands on the ladder, as HTML."""
    place = f"Step {stands.level} of {stands.levels}: " if stands.level else ""
    lines = [
        f"<p><b>{escape(place + stands.title)}</b></p>",
        f"<p>{escape(stands.why)}</p>" if stands.why else "",
        f"<p>Next: {escape(stands.next)}</p>" if stands.next else "",
        *(f"<p>{escape(note)}</p>" for note in stands.notes),
    ]
    return f'<section class="rung" aria-label="Models by size">{"".join(lines)}</section>'
