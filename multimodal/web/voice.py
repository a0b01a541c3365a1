"""“Voice” on the page: how recordings are heard, and whether answers are spoken. It offers what
the cards of the profile say their models can, nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import gradio as gr

from multimodal.backends.engine_options import default_language
from multimodal.backends.speech.speakers import languages_of, offered_voices, speaking_cards
from multimodal.build import Program
from multimodal.catalog.cards import AUTO, ModelCard
from multimodal.languages import language_name
from multimodal.messages import Task, TranscriptionSettings

Choices = list[tuple[str, str]]
SPEEDS = [("Slow (0.75 ×)", 0.75), ("Usual", 1.0), ("Faster (1.25 ×)", 1.25), ("Fast (1.5 ×)", 1.5)]


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
            self.translate_to = _menu(
                written,
                "Translate to",
                "A recording alone is then answered with its translation.",
                "translate-to",
            )
            self.speak_in = _menu(
                aloud, "Speak the answer", "Choose the language of the answers.", "speak-in"
            )
            self.voice = _menu(
                self._voices(),
                "Speaking voice",
                "Of answers that are spoken or read aloud.",
                "speaking-voice",
            )
            self.speed = gr.Dropdown(
                SPEEDS,
                value=1.0,
                label="Speaking speed",
                visible=len(aloud) > 1,
                elem_id="speaking-speed",
            )

    @property
    def inputs(self) -> list[gr.Dropdown]:
        return [self.language, self.translate_to, self.speak_in, self.voice, self.speed]

    def updates(
        self,
        model: str,
        asked: TranscriptionSettings,
        speak_in: str | None,
        voice: str | None = None,
        speed: float = 1.0,
    ) -> list[gr.Dropdown]:
        """The inputs as they are for a model of the menu; what it cannot do is left to it."""
        voices = self._voices()
        spoken, written, aloud = self._offered(model)
        return [
            gr.Dropdown(spoken, value=_known(asked.language, spoken)),
            gr.Dropdown(
                written, value=_known(asked.translate_to, written), visible=len(written) > 1
            ),
            gr.Dropdown(aloud, value=_known(speak_in, aloud), visible=len(aloud) > 1),
            gr.Dropdown(voices, value=_known(voice, voices), visible=len(voices) > 1),
            gr.Dropdown(SPEEDS, value=speed_of(speed), visible=len(aloud) > 1),
        ]

    def _voices(self) -> Choices:
        """“Joe (English)”: those that the cards of the profile name, with what each speaks."""
        named = [
            (f"{title} ({', '.join(map(language_name, languages))})", name)
            for card, name, title, languages in offered_voices(self._program.cards)
            if card.voices
        ]
        return [("Usual of the language", ""), *named]

    def _offered(self, model: str) -> tuple[Choices, Choices, Choices]:
        """Languages that may be heard, translated to and spoken where `model` is chosen."""
        catalog = self._program.catalog
        chosen = None if model == AUTO else catalog.card(model)
        usual = self._program.defaults.name(Task.SPEECH)
        hears = chosen if chosen is not None and chosen.task is Task.SPEECH else None
        if hears is None and usual is not None:
            hears = catalog.card(usual)
        cards = (chosen, *self._program.cards) if chosen else self._program.cards
        spoken = dict.fromkeys(
            code for card in speaking_cards(cards) for code in languages_of(card)
        )
        return (
            _spoken(hears),
            [("No", ""), *(_named(hears.translates_to) if hears else [])],
            [("No", ""), *_named(spoken, "In ")],
        )


def _menu(choices: Choices, label: str, info: str, elem_id: str) -> gr.Dropdown:
    """A menu that is hidden where there is nothing to choose."""
    return gr.Dropdown(
        choices, value="", label=label, info=info, visible=len(choices) > 1, elem_id=elem_id
    )


def speed_of(value: float | None) -> float:
    """The nearest speed of the menu; the usual one where there is none."""
    return min((speed for _, speed in SPEEDS), key=lambda speed: abs(speed - (value or 1.0)))


def _spoken(card: ModelCard | None) -> Choices:
    """A model that knows one language hears that; one that is told what to write finds out none."""
    if card is None:
        return [("Auto-detect", "")]
    if len(card.languages) == 1:
        return [(language_name(card.languages[0]), "")]
    told = default_language(card)
    first = f"Any (as {language_name(told)})" if told else "Auto-detect"
    return [(first, ""), *_named(card.languages)]


def _named(codes: Iterable[str], before: str = "") -> Choices:
    return sorted((f"{before}{language_name(code)}", code) for code in codes)


def _known(value: str | None, choices: Choices) -> str:
    return value if value and any(value == code for _, code in choices) else ""
