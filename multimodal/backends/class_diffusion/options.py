"""What the card of a class-conditional diffusion model may say under `engine`."""

from __future__ import annotations

from pydantic import Field

from multimodal.backends.engine_options import EngineOptions


class ClassDiffusionOptions(EngineOptions):
    shown_side: int = Field(256, ge=8)
    """Pixels on the shorter side, to which a smaller picture is enlarged so that one can see it."""
