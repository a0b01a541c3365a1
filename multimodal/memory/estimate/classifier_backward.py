"""What training a picture classifier, or a denoiser of pixels, holds beside its weights, traced on
the meta device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from multimodal.catalog.architectures import ModelPart
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.memory.estimate.backward import ATTENTION, drop_gradient, register_attention
from multimodal.memory.estimate.modules import instantiate_module


@lru_cache(maxsize=64)
def picture_bytes(part_json: str, side: int) -> tuple[int, int]:
    """Bytes beside weights and gradients, of pictures of `side` pixels on a side: once, and for
    each picture. Raises CardError where the model cannot be built."""
    one, two = (_peak(part_json, side, pictures) for pictures in (1, 2))
    each = max(0, two - one)
    return max(0, one - each), each


def _peak(part_json: str, side: int, pictures: int) -> int:
    register_attention()
    with torch.device("meta"):
        model: Any = instantiate_module(ModelPart.model_validate_json(part_json))
        labels = torch.zeros(pictures, dtype=torch.long)
        if is_denoiser := not hasattr(model.config, "num_labels"):
            pixels = torch.empty(pictures, model.config.in_channels, side, side)
        else:
            channels = int(getattr(model.config, "num_channels", 3))
            pixels = torch.empty(pictures, channels, side, side)
    if hasattr(model.config, "num_attention_heads"):
        model.set_attn_implementation(ATTENTION)
    model.train()
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(drop_gradient)
    live = LiveStorages()
    with live:
        if is_denoiser:
            (model(pixels, labels, labels).sample - pixels).square().mean().backward()
        else:
            model(pixel_values=pixels, labels=labels).loss.backward()
    return live.peak
