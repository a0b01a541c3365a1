"""What training a speech recognizer of transformers holds beside its weights, traced on the meta
device with recordings of the longest kind."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from multimodal.catalog.architectures import ModelPart
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.memory.estimate.backward import ATTENTION, drop_gradient, register_attention
from multimodal.memory.estimate.modules import instantiate_module
from multimodal.memory.estimate.training import TrainedWeights

SOUND_S, SAMPLE_RATE = 30, 16_000
TOKENS = 128
"""Of the text of such a recording; a quick speaker says some four words a second."""
OTHERS = re.compile(r"(text_encoder|t2u_model|vocoder)\.")
"""Of a model that does more than hear, what is not trained."""


@lru_cache(maxsize=64)
def recording_bytes(part_json: str, weights: TrainedWeights) -> tuple[int, int]:
    """Bytes beside weights and gradients: once, and for each recording of a batch. Raises CardError
    where the model cannot be built."""
    one, two = (_peak(part_json, weights, recordings) for recordings in (1, 2))
    each = max(0, two - one)
    return max(0, one - each), each


@lru_cache(maxsize=64)
def trained_sizes(part_json: str, weights: TrainedWeights, rank: int) -> tuple[int, int]:
    """How many parameters there are, and how many are trained: of an adapter, its own."""
    with torch.device("meta"):
        model: Any = instantiate_module(ModelPart.model_validate_json(part_json))
    total = sum(parameter.numel() for parameter in model.parameters())
    if weights == "adapter":
        linear = (
            it
            for name, it in model.named_modules()
            if isinstance(it, nn.Linear) and not OTHERS.match(name)
        )
        return total, sum(rank * (it.in_features + it.out_features) for it in linear)
    _freeze(model, weights)
    return total, sum(it.numel() for it in model.parameters() if it.requires_grad)


def _peak(part_json: str, weights: TrainedWeights, recordings: int) -> int:
    register_attention()
    with torch.device("meta"):
        model: Any = instantiate_module(ModelPart.model_validate_json(part_json))
        inputs = _inputs(model, recordings)
    config = model.config
    # Chance, and masks that are drawn, need values.
    for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop", "speech_encoder_layerdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    config.apply_spec_augment = False
    if weights != "adapter":  # an adapter's gradients go through every layer
        _freeze(model, weights)
    # Dropout in attention keeps a number for each pair of frames, as where nothing is fused.
    is_fused = not getattr(config, "attention_dropout", 0.0)
    model.set_attn_implementation(ATTENTION if is_fused else "eager")
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop_gradient)
    live = LiveStorages()
    with live:
        logits = model(**inputs).logits
        losses: Any = torch.log_softmax(logits.float(), dim=-1)
        losses.backward(torch.empty_like(losses))
    return live.peak


def _inputs(model: Any, recordings: int) -> dict[str, torch.Tensor]:
    """Samples, or spectra with what the decoder reads."""
    config = model.config
    if not config.is_encoder_decoder:
        return {"input_values": torch.empty(recordings, SOUND_S * SAMPLE_RATE)}
    if hasattr(config, "num_mel_bins"):
        shape = (recordings, config.num_mel_bins, 2 * config.max_source_positions)
    else:  # two frames of 10 ms are read as one
        model.set_modality("speech")
        shape = (recordings, SOUND_S * 50, config.feature_projection_input_dim)
    tokens = torch.zeros(recordings, TOKENS, dtype=torch.long)
    return {"input_features": torch.empty(shape), "decoder_input_ids": tokens}


def _freeze(model: Any, weights: TrainedWeights) -> None:
    if weights == "decoder" and model.config.is_encoder_decoder:
        model.get_encoder().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if OTHERS.match(name):
            parameter.requires_grad_(False)
