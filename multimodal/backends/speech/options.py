"""What a card of a speech model may say under `engine`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multimodal.backends.engine_options import EngineOptions


class WhisperOptions(EngineOptions):
    beam_size: int = Field(5, ge=1)
    """Guesses that are followed at once."""


class FasterWhisperOptions(WhisperOptions):
    threads: int = Field(0, ge=0)
    """0: one for each physical core."""
    compute_type: Literal[
        "default",
        "auto",
        "int8",
        "int8_float32",
        "int8_float16",
        "int8_bfloat16",
        "int16",
        "float16",
        "bfloat16",
        "float32",
    ] = "default"
    """Of CTranslate2; "default" is what the weights were saved in."""


class SeamlessOptions(EngineOptions):
    beam_size: int = Field(1, ge=1)
    """Guesses that are followed at once."""
    language: str = "en"
    """The one to write in, and to speak, where nobody asks for another (ISO 639-1 or -3)."""
