"""What a card of the picture describer may say under `engine`."""

from __future__ import annotations

from pydantic import Field

from multimodal.backends.engine_options import EngineOptions


class DescriberOptions(EngineOptions):
    threads: int = Field(0, ge=0)
    """0: two, where there are as many cores."""
