"""What the card of a picture classifier may say under `engine`."""

from __future__ import annotations

from pydantic import Field

from multimodal.backends.engine_options import EngineOptions


class ClassifierOptions(EngineOptions):
    threshold: float = Field(0.5, ge=0, le=1)
    """How likely the first class must be for the answer to name it without doubt."""
    candidates: int = Field(3, ge=1)
    """How many classes an answer names at most."""
