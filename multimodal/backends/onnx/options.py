"""What a card of a model in ONNX may say under `engine`."""

from __future__ import annotations

from pydantic import Field

from multimodal.backends.classifier.options import ClassifierOptions
from multimodal.backends.engine_options import EngineOptions


class OnnxOptions(EngineOptions):
    threads: int = Field(0, ge=0)
    """0: one for each physical core."""


class OnnxTextOptions(OnnxOptions):
    prompt_cache_mib: int = Field(512, ge=0)
    """Of host memory, for what was computed of this model's conversations."""


class OnnxClassifierOptions(ClassifierOptions, OnnxOptions):
    pass
