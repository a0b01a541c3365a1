"""What a class-conditional diffusion model computes for one picture."""

from __future__ import annotations

from typing import Any

import torch

from multimodal.memory.estimate.activation import ForwardPass, input_maker


def forward_passes(module: Any, tokens: int, picture_side: int | None) -> list[ForwardPass]:
    """A step towards two pictures at once: with and without the class, as classifier-free guidance
    asks. `picture_side`: pixels on a side, the model's own unless given."""
    make, config = input_maker(module), module.config
    side = picture_side or config.sample_size

    def step() -> None:
        pictures = make(2, config.in_channels, side, side)
        module(pictures, 0, torch.zeros(2, dtype=torch.long, device=pictures.device))

    return [ForwardPass(step, "convolution")]
