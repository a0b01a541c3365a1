"""“Quantization” on the page: how the weights of the chosen model are kept, and what that takes."""

from __future__ import annotations

import re
from dataclasses import replace

import gradio as gr

from multimodal.build import Program
from multimodal.catalog.architectures import MeasuredArchitecture
from multimodal.catalog.cards import AUTO, ModelCard, ModelName
from multimodal.errors import CardError
from multimodal.memory.estimate.footprint import footprint
from multimodal.sizes import gigabytes


class QuantizationPanel:
    """Builds its component inside the Blocks that is open; shown where there is a choice."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.choice = gr.Dropdown(
            [],
            label="Quantization",
            info="Fewer bits a weight take less memory and are less exact.",
            visible=False,
            elem_id="quantization",
        )

    def menu_entry(self, model: str) -> str:
        """The model menu's entry for a model that may be asked for in any quantization."""
        names = [card.name for card in self._program.cards]
        base = ModelName.parse(model).base
        same = (name for name in names if ModelName.parse(name).base == base)
        return model if model in names else next(same, AUTO)

    def model_name(self, model: str | None, kind: str | None) -> str:
        """The name that asks for the menu's `model` in that quantization; "name:int8"."""
        if not model or model == AUTO:
            return AUTO
        kinds = self._kinds(model)
        if kind not in kinds or kind == kinds[0]:
            return model
        return str(replace(ModelName.parse(model), quantization=kind))

    def update(self, model: str, has_sizes: bool = False) -> gr.Dropdown:
        """The choice as it is for `model`; where it has sizes, see `update_with_sizes`."""
        kinds = self._kinds(self.menu_entry(model))
        if len(kinds) < 2:
            # Hidden as it is: a browser keeps what a hidden menu held, which Gradio refuses, and
            # the message with it, where it is none of the choices. `model_name` knows better.
            return gr.Dropdown(visible=False)
        asked = ModelName.parse(model).quantization
        value = asked if asked in kinds else kinds[0]
        if has_sizes:
            choices = self._sized(model, kinds)
        else:
            choices = [(_label(kind, kind == kinds[0]), kind) for kind in kinds]
        return gr.Dropdown(choices, value=value, visible=True)

    def update_with_sizes(self, model: str) -> gr.Dropdown:
        """The same with what each quantization takes; the first time this takes seconds."""
        kinds = self._kinds(self.menu_entry(model))
        return gr.Dropdown(self._sized(model, kinds)) if len(kinds) > 1 else gr.Dropdown()

    def _sized(self, model: str, kinds: tuple[str, ...]) -> list[tuple[str, str]]:
        card = self._program.catalog.card(self._program.catalog.card(model).base)
        return [(_label(kind, kind == kinds[0], self._size(card, kind)), kind) for kind in kinds]

    def _kinds(self, model: str) -> tuple[str, ...]:
        """The quantizations of a model of the menu, its own first; () for the router's choice."""
        if model == AUTO:
            return ()
        catalog = self._program.catalog
        card = catalog.card(model)
        return tuple(dict.fromkeys((*card.quantization[:1], *catalog.card(card.base).quantization)))

    def _size(self, card: ModelCard, kind: str) -> str:
        """What stays on the device between two turns, by the estimate that admits the model; ""
        where only one quantization was ever measured."""
        if isinstance(card.architecture, MeasuredArchitecture):
            return ""
        try:
            size = footprint(card, kind)
        except CardError:
            return ""
        memory = self._program.memory
        place = "in memory" if memory.device.name == "cpu" else "on the card"
        over = ", over the budget" if size.total > memory.budget_bytes else ""
        return f"{gigabytes(size.resident)} {place}{over}"


def _label(kind: str, default: bool, size: str = "") -> str:
    """“4 bits, 2.26 GB on the card: nf4-double (default)”: what matters most comes first, since a
    narrow page cuts the end."""
    bits = re.search(r"\d+", kind)
    words = ", ".join(filter(None, (f"{bits[0]} bits" if bits else "", size)))
    label = f"{words}: {kind}" if words else kind
    return f"{label} (default)" if default else label
