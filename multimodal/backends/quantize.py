"""Linear layers packed into 4 or 8 bits by bitsandbytes, for modules whose library does not pack
them itself on every device. Which layers, `memory.modules.quantizable` says, so that what is loaded
is what the footprint counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from multimodal.memory.estimate.modules import quantizable
from multimodal.memory.estimate.quantization import BLOCK, EIGHT_BIT, FOUR_BIT


def quantize_linear_layers(
    module: nn.Module, quantization: str, device: str, keeps_fp32: Sequence[str] = ()
) -> None:
    """Replace the linear layers of `module`, but for those within `keeps_fp32`, by packed ones on
    `device`, one after another, so that host memory never holds two copies. Other quantizations
    change nothing."""
    if quantization not in (*FOUR_BIT, *EIGHT_BIT):
        return
    for name in list(quantizable(module, keeps_fp32)):
        layer = module.get_submodule(name)
        if isinstance(layer, nn.Linear) and not _is_odd(layer, quantization, device):
            module.set_submodule(name, _packed(layer, quantization).to(torch.device(device)))


def _is_odd(layer: nn.Linear, quantization: str, device: str) -> bool:
    """On a CPU bitsandbytes repacks 4-bit weights row by row, and a row must be whole blocks."""
    return device == "cpu" and quantization in FOUR_BIT and layer.in_features % BLOCK != 0


def _packed(layer: nn.Linear, quantization: str) -> nn.Module:
    shape = layer.in_features, layer.out_features, layer.bias is not None
    bnb: Any = import_module("bitsandbytes")
    made: Any
    with torch.device("meta"):
        if quantization in EIGHT_BIT:
            made = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
        else:
            made = bnb.nn.Linear4bit(*shape, compute_dtype=layer.weight.dtype)
    if quantization in EIGHT_BIT:
        made.weight = bnb.nn.Int8Params(
            layer.weight.data, requires_grad=False, has_fp16_weights=False
        )
    else:
        made.weight = bnb.nn.Params4bit(
            layer.weight.data,
            requires_grad=False,
            quant_type=quantization.removesuffix("-double"),
            compress_statistics=quantization.endswith("-double"),
            module=made,
        )
    made.bias = layer.bias
    packed: nn.Module = made.eval()
    return packed
