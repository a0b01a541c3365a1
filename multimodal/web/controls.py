"""What a person sets on the side of the page, between its components and `Controls`."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import gradio as gr

from multimodal.chats.store import Store
from multimodal.errors import ConversationNotFoundError, RequestError
from multimodal.messages import Controls, Drawing, Sampling, TranscriptionSettings
from multimodal.web.control_bounds import (
    GUIDANCE,
    HEIGHT,
    INSTRUCTIONS,
    NEGATIVE_PROMPT,
    PENALTY,
    SEED,
    STEPS,
    TEMPERATURE,
    TOKENS,
    TOP_P,
    WIDTH,
)
from multimodal.web.layout import Layout
from multimodal.web.tab_session import TabSession
from multimodal.web.voice import speed_of


def from_inputs(
    ui: Layout,
    model: str | None,
    kind: str | None,
    system: str | None,
    temperature: float | None,
    top_p: float | None,
    penalty: float | None,
    tokens: float,
    seed: float | None,
    language: str | None = None,
    translate_to: str | None = None,
    speak_in: str | None = None,
    voice: str | None = None,
    speed: float | None = None,
    negative: str | None = None,
    steps: float | None = None,
    guidance: float | None = None,
    width: float | None = None,
    height: float | None = None,
) -> Controls:
    """The values of `ui.controls`, in that order. Raises RequestError for what is out of bounds:
    Gradio's own check would end the event, and nobody would be told what became of the message."""
    return Controls(
        ui.quantization.model_name(model, kind),
        INSTRUCTIONS.checked(system),
        Sampling(
            TEMPERATURE.checked(temperature),
            TOP_P.checked(top_p),
            PENALTY.checked(penalty),
            TOKENS.whole(tokens),
            SEED.whole(seed),
        ),
        Drawing(
            NEGATIVE_PROMPT.checked(negative),
            STEPS.whole(steps),
            GUIDANCE.checked(guidance),
            WIDTH.whole(width),
            HEIGHT.whole(height),
        ),
        TranscriptionSettings(language or None, translate_to or None),
        speak_in or None,
        voice or None,
        speed_of(speed),
    )


def to_inputs(ui: Layout, controls: Controls) -> list[Any]:
    """What `ui.controls` show for a conversation that has these."""
    given = controls.sampling
    model = ui.quantization.menu_entry(controls.model)
    return [
        ui.menu.update(model),
        ui.quantization.update(controls.model),
        controls.system_prompt,
        given.temperature,
        given.top_p,
        given.repeat_penalty,
        ui.usual_tokens() if given.max_tokens is None else given.max_tokens,
        given.seed,
        *ui.voice.updates(
            model, controls.hearing, controls.speak_in, controls.voice, controls.speed
        ),
        *(astuple(controls.drawing) if ui.drawing else ()),
    ]


class ControlEvents:
    """What is set is kept with the conversation at once: whoever looks at another one, or leaves,
    finds it again. `Layout.set_for` says which conversation the values in the browser are of; the
    session may be further on by then."""

    def __init__(self, ui: Layout, store: Store) -> None:
        self._ui = ui
        self._store = store

    def wire(self, quiet: dict[str, Any]) -> None:
        ui = self._ui
        latest = quiet | {"trigger_mode": "always_last"}  # with the values as they are by then
        each = quiet | {"trigger_mode": "multiple"}
        kind, voice = ui.quantization.choice, ui.voice.inputs
        ui.model.input(self._choose, [ui.model, ui.session, *voice], [kind, *voice], **each)
        kept = {"fn": self._keep, "inputs": [ui.set_for, ui.session, *ui.controls]} | latest
        gr.on([_settled(control) for control in ui.controls], outputs=None, **kept)
        reset = ui.reset.click(self._reset, None, ui.controls[2:], **quiet)
        reset.then(outputs=None, **kept)

    def update_sizes_after(self, event: Any, quiet: dict[str, Any]) -> None:
        """After an event that may show another model: what each of its quantizations takes."""
        ui = self._ui
        each = quiet | {"trigger_mode": "multiple"}
        event.then(self._size, [ui.model, ui.session], [ui.quantization.choice], **each)

    def _choose(
        self,
        model: str,
        session: TabSession,
        language: str,
        translate_to: str,
        speak_in: str,
        voice: str,
        speed: float,
    ) -> Any:
        """One choice in the menu comes as several events, and the first may be answered last."""
        if session.model == model:
            return gr.skip()
        session.model = model
        asked = TranscriptionSettings(language or None, translate_to or None)
        # In one piece: Gradio forgets what comes while it puts the choice on the page.
        shown = [
            self._ui.quantization.update(model, has_sizes=True),
            *self._ui.voice.updates(model, asked, speak_in, voice, speed),
        ]
        return shown if session.model == model else gr.skip()

    def _size(self, model: str, session: TabSession) -> Any:
        """What each quantization of the model takes, unless another was chosen meanwhile."""
        sized = self._ui.quantization.update_with_sizes(model)
        return sized if session.model == model else gr.skip()

    def _reset(self) -> list[Any]:
        return to_inputs(self._ui, Controls())[2:]

    def _keep(self, conversation: str, session: TabSession, *values: Any) -> None:
        """A new conversation is begun with what is set by then; what cannot be used is told with
        the message that it is for."""
        if not conversation:
            return
        try:
            self._store.set_controls(session.owner, conversation, from_inputs(self._ui, *values))
        except (RequestError, ConversationNotFoundError):
            return


def _settled(control: Any) -> Any:
    """The event of a component whose value a person has chosen, or finished to type."""
    if isinstance(control, gr.Dropdown):
        return control.input
    return control.release if isinstance(control, gr.Slider) else control.blur
