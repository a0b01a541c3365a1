"""The model menu: what each model does, what it takes, and whether it is there."""

from __future__ import annotations

import threading
import time
from typing import Any

import gradio as gr

from multimodal.build import Program
from multimodal.catalog.architectures import MeasuredArchitecture
from multimodal.catalog.cards import AUTO, ModelCard
from multimodal.errors import CardError
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Task
from multimodal.sizes import download_size, gigabytes
from multimodal.web.tab_session import TabSession

TASKS = {
    Task.TEXT: "text",
    Task.IMAGE: "pictures",
    Task.SPEECH: "speech",
    Task.DRAW: "drawing",
    Task.TTS: "voice",
}
LOOK_EVERY_S = 4.0
"""Whether weights are there is asked of the disk, for all tabs together."""


class ModelMenu:
    """Builds its component inside the Blocks that is open."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._sizes: dict[str, int] = {}
        self._ready: frozenset[str] = frozenset()
        self._looked_at: tuple[ModelCard, ...] = ()
        self._looked_s = float("-inf")
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sizing: threading.Thread | None = None
        self.choice = gr.Dropdown(
            self.choices(), value=AUTO, label="Model", elem_id="model", filterable=True
        )

    def update(self, model: str) -> gr.Dropdown:
        """The menu as it is now, with that model chosen."""
        return gr.Dropdown(self.choices(), value=model)

    def changes(self, session: TabSession) -> Any:
        """The menu where something of it changed since that tab was told; a model that is gone is
        left to the router."""
        self.size_up()
        choices = self.choices()
        told = tuple(label for label, _ in choices)
        if session.menu == told:
            return gr.skip()
        session.menu = told
        if session.model and session.model not in {name for _, name in choices}:
            session.model = AUTO
            return gr.Dropdown(choices, value=AUTO)
        return gr.Dropdown(choices)

    def choices(self) -> list[tuple[str, str]]:
        """“Phi-2 · text · 1.82 GB · ready”, those of one task together, as they are now."""
        order = list(TASKS)
        cards = sorted(self._program.cards, key=lambda card: order.index(card.task))
        states, resident = self._states(), self._program.offer.resident
        auto = ("Auto (the router chooses)", AUTO)
        return [
            auto,
            *((self._label(card, states.get(resident(card).name)), card.name) for card in cards),
        ]

    def size_up(self) -> None:
        """Begin to work out the sizes that take time and are not known; the menu tells them as
        they come."""
        with self._lock:
            is_idle = self._sizing is None or not self._sizing.is_alive()
            if is_idle and any(card.name not in self._sizes for card in self._program.cards):
                self._sizing = threading.Thread(target=self._size, name="sizes", daemon=True)
                self._sizing.start()

    def close(self) -> None:
        self._stop.set()

    def _label(self, card: ModelCard, state: str | None) -> str:
        if isinstance(card.architecture, MeasuredArchitecture):
            self._sizes[card.name] = footprint(card).resident
        size = self._sizes.get(card.name)
        told = gigabytes(size) if size else ""
        words = (card.title, TASKS[card.task], told, state or self._absent(card))
        return " · ".join(filter(None, words))

    def _states(self) -> dict[str, str]:
        """What is known of each model that is here or on its way."""
        snapshot = self._program.memory.snapshot()
        return (
            dict.fromkeys(self._ready_names(), "ready")
            | dict.fromkeys(self._program.fetching.progress, "downloading")
            | {mirror.card: "in host memory" for mirror in snapshot.mirrored}
            | {h.card: "loading" if h.state == "loading" else "loaded" for h in snapshot.held}
        )

    def _absent(self, card: ModelCard) -> str:
        known = self._program.weights.declared_bytes(card)
        return f"needs {download_size(known)} download" if known else "needs a download"

    def _ready_names(self) -> frozenset[str]:
        cards, weights = self._program.cards, self._program.weights
        with self._lock:
            is_old = time.monotonic() - self._looked_s > LOOK_EVERY_S
            if is_old or cards != self._looked_at:
                needed = map(self._program.offer.resident, cards)
                self._ready = frozenset(card.name for card in needed if weights.is_ready(card))
                self._looked_at, self._looked_s = cards, time.monotonic()
            return self._ready

    def _size(self) -> None:
        for card in self._program.cards:
            if self._stop.is_set():
                return
            if card.name not in self._sizes:
                try:
                    self._sizes[card.name] = footprint(card).resident
                except CardError:
                    self._sizes[card.name] = 0
