"""What a person sets on the side of the page, between its components and `Controls`."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from multimodal.messages import Controls, Drawing, Sampling
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
from multimodal.web.voice import speed_of, transcription_settings


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
        ui.quantization.asked_for(model, kind),
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
        transcription_settings(language, translate_to),
        speak_in or None,
        voice or None,
        speed_of(speed),
    )


def to_inputs(ui: Layout, controls: Controls) -> list[Any]:
    """What `ui.controls` show for a conversation that has these."""
    default, given = ui.defaults(), controls.sampling
    model = ui.quantization.listed(controls.model)
    return [
        model,
        ui.quantization.shown(controls.model),
        controls.system_prompt,
        given.temperature,
        given.top_p,
        given.repeat_penalty,
        default.max_tokens if given.max_tokens is None else given.max_tokens,
        given.seed,
        *ui.voice.shown(model, controls.hearing, controls.speak_in, controls.voice, controls.speed),
        *(astuple(controls.drawing) if ui.drawing else ()),
    ]
