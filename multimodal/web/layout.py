"""The page's components and where they stand; what they do is in `page.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from multimodal.build import Program
from multimodal.catalog.cards import SamplingDefaults
from multimodal.messages import Task
from multimodal.web.chat_list import conversation_list
from multimodal.web.chat_pane import chat_pane, example_messages
from multimodal.web.control_bounds import INSTRUCTIONS, NEGATIVE_PROMPT, TOKENS
from multimodal.web.fitting import FittingPanel
from multimodal.web.model_menu import ModelMenu
from multimodal.web.presence import TICK_S
from multimodal.web.quantization import QuantizationPanel
from multimodal.web.saved_models import SavedModelsPanel
from multimodal.web.studio.pane import StudioPane
from multimodal.web.tab_session import TabSession
from multimodal.web.upgrade_panel import UpgradePanel
from multimodal.web.voice import VoicePanel

TITLE = "Multimodal chat"


class Layout:
    """Creates every component inside the Blocks that is open; keeps them as attributes."""

    def __init__(self, program: Program, secret: str, examples: Path | None) -> None:
        self.program = program
        self.examples = example_messages(examples)
        self.studio = StudioPane()
        self._state(secret)
        self._sidebar()
        self._main()

    @property
    def controls(self) -> list[Any]:
        """The inputs that make a `Controls`, in the order of `from_inputs`."""
        return [
            self.model,
            self.quantization.choice,
            self.system,
            self.temperature,
            self.top_p,
            self.penalty,
            self.tokens,
            self.seed,
            *self.voice.inputs,
            *self.drawing,
        ]

    def usual_tokens(self) -> int:
        """The longest answer that the card of the profile's text model allows, as far as the slider
        goes: with a value beyond its ends every message would be refused."""
        name = self.program.defaults.name(Task.TEXT)
        usual = self.program.catalog.card(name).sampling if name else SamplingDefaults()
        return TOKENS.nearest(usual.max_tokens)

    def _state(self, secret: str) -> None:
        nobody = {"owner": "", "conversation": ""}
        self.browser = gr.BrowserState(nobody, storage_key="multimodal-chat", secret=secret)
        self.session = gr.State(TabSession())
        self.set_for = gr.Textbox(visible=False)
        """The conversation that the controls in the browser are of; "" is a new one."""

    def _sidebar(self) -> None:
        with gr.Sidebar(width=300, elem_id="sidebar"):
            gr.HTML(f"<h1>{TITLE}</h1>", elem_id="brand")
            self.new = gr.Button("New chat", variant="primary", elem_id="new")
            self.pressed = gr.Number(visible=False)
            """When it was pressed, by the browser's clock."""
            self.studio.build_side()
            self.list = conversation_list()
            self.menu = ModelMenu(self.program)
            self.model = self.menu.choice
            self.quantization = QuantizationPanel(self.program)
            with gr.Accordion("Instructions and sampling", open=False, elem_id="controls"):
                self._sampling()
            self.voice = VoicePanel(self.program)
            self.drawing = self._drawing() if self.program.defaults.name(Task.DRAW) else []
            self.gauge = gr.HTML(elem_id="gauge")
            self.upgrades = UpgradePanel(self.program)
            self.upgrades.build_side()
            self.fit = FittingPanel(self.program)
            self.saved = SavedModelsPanel(self.program)

    def _sampling(self) -> None:
        self.system = gr.Textbox(
            label="Instructions",
            elem_id="system",
            info="How the assistant should behave. Empty: the model's own.",
            lines=3,
            max_length=INSTRUCTIONS.most,
        )
        own = "Empty: the model's own"
        # Numbers have no bounds here: see `control_bounds.py`.
        self.temperature = gr.Number(
            None, step=0.05, label="Temperature", info=f"0 is the most likely. {own}"
        )
        self.top_p = gr.Number(None, step=0.05, label="Top p", info=own)
        self.penalty = gr.Number(None, step=0.05, label="Repetition penalty", info=own)
        self.tokens = gr.Slider(
            TOKENS.low, TOKENS.high, self.usual_tokens(), step=16, label="Longest answer (tokens)"
        )
        self.seed = gr.Number(None, precision=0, label="Seed", info="Empty: random", elem_id="seed")
        self.reset = gr.Button("Back to the defaults", size="sm")

    def _drawing(self) -> list[Any]:
        """The inputs that make a `Drawing`; empty ones leave it to the model's card."""
        own = "Empty: the model's own"
        with gr.Accordion("Pictures", open=False, elem_id="drawing"):
            return [
                gr.Textbox(
                    label="Negative prompt",
                    elem_id="negative",
                    info="What a picture should not show.",
                    lines=2,
                    max_length=NEGATIVE_PROMPT.most,
                ),
                gr.Number(None, precision=0, label="Steps", info=own, elem_id="steps"),
                gr.Number(None, step=0.5, label="Guidance", info=own),
                gr.Number(None, precision=0, step=8, label="Width (pixels)", info=own),
                gr.Number(None, precision=0, step=8, label="Height (pixels)", info=own),
            ]

    def _main(self) -> None:
        self.upgrades.build_banner()
        self.chat = chat_pane(self.examples, self.program.media.limits)
        self.studio.build_main()
        self.timer = gr.Timer(TICK_S)
