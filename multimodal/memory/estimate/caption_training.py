"""Bytes of one step of teaching a model that sees by an adapter of its language model.

The language model is planned for as a text model is (`training.py`), with the tokens of one picture
added to each sample. All else lies beside it as it was loaded and is computed without a backward
pass, before the language model, so that its activations are gone by then. Logits are of all
tokens, and those of the captions are there in 32 bits, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from multimodal.catalog.architectures import ModelPart, ModulesArchitecture, causal_lm
from multimodal.memory.estimate.training import (
    TrainingBytes,
    TrainingStep,
    held_bytes,
    training_bytes,
)

TILES = 17
"""Of a picture at most, as Idefics3 and SmolVLM cut it: four by four, and the whole."""
LOGARITHM_BYTES = 8
"""Of a logit of a caption: in 32 bits, and its logarithm."""


def caption_bytes(part: ModelPart, step: TrainingStep) -> TrainingBytes:
    """What one step takes of `part`, a model of transformers that sees and talks; `step.tokens`
    without those of the picture. Raises CardError where it cannot be built."""
    language = language_part(part)
    words = int(_config(part).get_text_config(decoder=True).vocab_size)
    whole = replace(step, tokens=step.tokens + picture_tokens(part))
    loss = step.batch * words * _loss_bytes(whole.tokens, step)
    found = training_bytes(language, whole, loss)
    beside = _held(part, step) - _held(language, step)
    return replace(found, weights=found.weights + beside)


def _loss_bytes(tokens: int, step: TrainingStep) -> int:
    """Of a word of the vocabulary: at the end of the forward pass, or in the backward pass, where
    gradients of all logits are there twice."""
    numbers = 4 if step.precision == "fp32" else 2
    narrow = 0 if step.precision == "fp32" else numbers
    forward = tokens * numbers + step.tokens * (LOGARITHM_BYTES + narrow)
    return max(forward, 2 * tokens * numbers)


def language_part(part: ModelPart) -> ModelPart:
    """The language model of `part` by itself."""
    return causal_lm(json.loads(_config(part).get_text_config(decoder=True).to_json_string()))


def picture_tokens(part: ModelPart) -> int:
    """How many tokens a picture takes at most."""
    config = _config(part)
    if queries := getattr(config, "num_query_tokens", None):  # BLIP-2
        return int(queries)
    side = int(config.vision_config.image_size // config.vision_config.patch_size)
    if scale := getattr(config, "scale_factor", None):  # Idefics3
        return TILES * side**2 // int(scale) ** 2
    grid: Sequence[Sequence[int]] | None = getattr(config, "image_grid_pinpoints", None)
    if grid is None:  # LLaVA, with a token for the whole picture at most
        return side**2 + 1
    patch = int(config.vision_config.patch_size)
    tiles = max((height // patch) * (width // patch + 1) for height, width in grid)  # LLaVA-NeXT
    return side**2 + tiles


def _config(part: ModelPart) -> Any:
    from multimodal.memory.estimate.modules import build_meta_module

    return build_meta_module(part).config


def _held(part: ModelPart, step: TrainingStep) -> int:
    from multimodal.memory.estimate.modules import tensors

    return held_bytes(tensors(ModulesArchitecture(kind="modules", parts={"model": part})), step)
