"""“Voice” on the page: how recordings are heard, and whether answers are spoken. It offers what
the cards of the profile say their models can, nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import gradio as gr

from multimodal.backends.speech.speakers import languages_of, speakers
from multimodal.build import Program
from multimodal.cards import AUTO, ModelCard
from multimodal.languages import language_name
from multimodal.messages import Hearing, Task

Choices = list[tuple[str, str]]


class VoicePanel:
    """Builds its components inside the Blocks that is open. "" leaves it to the model."""

    def __init__(self, program: Program) -> None:
        self._program = program
        hears = program.defaults.name(Task.SPEECH) is not None
        with gr.Accordion("Voice", open=False, elem_id="voice", visible=hears):
            spoken, written, aloud = self._offered(AUTO)
            self.language = gr.Dropdown(
                spoken, value="", label="Spoken language", elem_id="spoken-language"
            )
            self.translate_to = gr.Dropdown(
                written,
                value="",
                label="Translate to",
                info="A recording alone is then answered with its translation.",
                visible=len(written) > 1,
                elem_id="translate-to",
            )
            self.speak_in = gr.Dropdown(
                aloud,
                value="",
                label="Speak the answer",
                info="Choose the language of the answers.",
                visible=len(aloud) > 1,
                elem_id="speak-in",
            )

    @property
    def inputs(self) -> list[gr.Dropdown]:
        return [self.language, self.translate_to, self.speak_in]

    def shown(self, model: str, asked: Hearing, speak_in: str | None) -> list[gr.Dropdown]:
        """The inputs as they are for a model of the menu; what it cannot do is left to it."""
        spoken, written, aloud = self._offered(model)
        return [
            gr.Dropdown(spoken, value=_known(asked.language, spoken)),
            gr.Dropdown(
                written, value=_known(asked.translate_to, written), visible=len(written) > 1
            ),
            gr.Dropdown(aloud, value=_known(speak_in, aloud), visible=len(aloud) > 1),
        ]

    def _offered(self, model: str) -> tuple[Choices, Choices, Choices]:
        """Languages that may be heard, translated to and spoken where `model` is chosen."""
        catalog = self._program.catalog
        chosen = None if model == AUTO else catalog.card(model)
        usual = self._program.defaults.name(Task.SPEECH)
        hears = chosen if chosen is not None and chosen.task is Task.SPEECH else None
        if hears is None and usual is not None:
            hears = catalog.card(usual)
        cards = (chosen, *self._program.cards) if chosen else self._program.cards
        spoken = dict.fromkeys(code for card in speakers(cards) for code in languages_of(card))
        return (
            _spoken(hears),
            [("No", ""), *(_named(hears.translates_to) if hears else [])],
            [("No", ""), *_named(spoken, "In ")],
        )


def hearing_of(language: str | None, translate_to: str | None) -> Hearing:
    return Hearing(language or None, translate_to or None)


def _spoken(card: ModelCard | None) -> Choices:
    """A model that knows one language hears that; one that is told what to write finds out none."""
    if card is None:
        return [("Auto-detect", "")]
    if len(card.languages) == 1:
        return [(language_name(card.languages[0]), "")]
    told = str(card.engine.get("language", ""))
    first = f"Any (as {language_name(told)})" if told else "Auto-detect"
    return [(first, ""), *_named(card.languages)]


def _named(codes: Iterable[str], before: str = "") -> Choices:
    return sorted((f"{before}{language_name(code)}", code) for code in codes)


def _known(value: str | None, choices: Choices) -> str:
    return value if value and any(value == code for _, code in choices) else ""
