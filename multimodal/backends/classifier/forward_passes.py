"""What a picture classifier computes of one picture."""

from __future__ import annotations

from typing import Any

from torch import nn

from multimodal.memory.estimate.activation import ForwardPass, input_maker
from multimodal.memory.estimate.factors import Kernels

USUAL_SIDE = 224
"""Pixels on a side of models whose configuration does not say, such as ResNet's."""


def forward_passes(module: Any, tokens: int, picture_side: int | None) -> list[ForwardPass]:
    """One square picture, of the model's own size unless `picture_side` says."""
    side = picture_side or int(getattr(module.config, "image_size", None) or USUAL_SIDE)
    make, channels = input_maker(module), int(getattr(module.config, "num_channels", 3))
    kernels: Kernels | None = "convolution" if _convolves(module) else None
    return [ForwardPass(lambda: module(pixel_values=make(1, channels, side, side)), kernels)]


def _convolves(module: nn.Module) -> bool:
    """Whether there is more of it than what cuts a picture into patches, as a ViT does."""
    found = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    return any(layer.kernel_size != layer.stride for layer in found)
