"""What a chat model of transformers computes in one turn."""

from __future__ import annotations

from typing import Any

from torch import nn

from multimodal.memory.estimate.activation import ForwardPass, decoder_passes, input_maker


def forward_passes(module: nn.Module, tokens: int, picture_side: int | None) -> list[ForwardPass]:
    """It looks at one picture, of its own size unless `picture_side` says, and reads `tokens`."""
    found = decoder_passes(module, tokens)
    if (vision := _vision(module)) is not None:
        side = picture_side or int(getattr(vision.config, "image_size", 224))
        make = input_maker(module)
        found.append(ForwardPass(lambda: vision(pixel_values=make(1, 3, side, side))))
    return found


def _vision(module: nn.Module) -> Any | None:
    """The vision tower within `module`, or `module` where it is one."""
    for name in ("vision_tower", "vision_model"):
        for path, found in module.named_modules():
            if path.rpartition(".")[2] == name:
                return found
    return module if type(module).__name__.endswith("VisionModel") else None
