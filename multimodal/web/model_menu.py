"""The model menu: what each model does, what it takes, and whether it is there."""

from __future__ import annotations

import threading
import time

import gradio as gr

from multimodal.build import Program
from multimodal.catalog.architectures import MeasuredArchitecture
from multimodal.catalog.cards import AUTO, ModelCard
from multimodal.errors import CardError
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Task
from multimodal.sizes import download_size, gigabytes

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
        self._sizes = {
            card.name: footprint(card).resident
            for card in program.cards
            if isinstance(card.architecture, MeasuredArchitecture)
        }
        self._ready: frozenset[str] = frozenset()
        self._looked_s = float("-inf")
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sizing: threading.Thread | None = None
        self.choice = gr.Dropdown(
            self.choices(), value=AUTO, label="Model", elem_id="model", filterable=True
        )

    def choices(self) -> list[tuple[str, str]]:
        """“Phi-2 · text · 1.82 GB · ready”, those of one task together."""
        order = list(TASKS)
        cards = sorted(self._program.cards, key=lambda card: order.index(card.task))
        states = self._states()
        auto = ("Auto (the router chooses)", AUTO)
        return [auto, *((self._label(card, states.get(card.name)), card.name) for card in cards)]

    def size_up(self) -> None:
        """Begin to work out the sizes that take time, once; the menu tells them as they come."""
        with self._lock:
            if self._sizing is None:
                self._sizing = threading.Thread(target=self._size, name="sizes", daemon=True)
                self._sizing.start()

    def close(self) -> None:
        self._stop.set()

    def _label(self, card: ModelCard, state: str | None) -> str:
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
        with self._lock:
            if time.monotonic() - self._looked_s > LOOK_EVERY_S:
                weights = self._program.weights
                self._ready = frozenset(c.name for c in self._program.cards if weights.is_ready(c))
                self._looked_s = time.monotonic()
            return self._ready

    def _size(self) -> None:
        for card in self._program.cards:
            if self._stop.is_set():
                return
            if card.name not in self._sizes:
                try:
                    self._sizes[card.name] = footprint(card).resident
                except CardError:
                    continue
