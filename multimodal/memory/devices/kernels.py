"""Small layers of each kind that models are made of, so that their kernels are there before a card
is full: bitsandbytes ends the whole process where one cannot be loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

SIDE = 256
KINDS = ("fp16", "nf4", "int8")
MANY = 64
"""Rows that are read at once; a single one is computed by kernels of its own."""


def use_kernels(device: torch.device) -> None:
    """Compute a little with each library that models use: cuDNN, attention, bitsandbytes, cuBLAS,
    random numbers. What fails is logged: the model that needs it will meet it, too."""
    multiply = [partial(_multiply, kind) for kind in KINDS]
    steps: list[Callable[[torch.device], None]] = [_convolve, _attend, *multiply, _draw]
    for step in steps:
        try:
            step(device)
        except (RuntimeError, OSError, ImportError) as error:
            log.warning("%s: a kernel could not be tried: %s", device, error)


def _convolve(device: torch.device) -> None:
    some = torch.ones(1, MANY, MANY, MANY, device=device, dtype=torch.float16)
    nn.functional.conv2d(some, some[0, :, :3, :3].expand(MANY, -1, -1, -1), padding=1)


def _attend(device: torch.device) -> None:
    some = torch.ones(1, 8, MANY, MANY, device=device, dtype=torch.float16)
    nn.functional.scaled_dot_product_attention(some, some, some)


def _multiply(kind: str, device: torch.device) -> None:
    module, _exact = make_probe_layers(kind, device)
    for rows in (1, MANY):
        module(torch.ones(rows, SIDE, device=device, dtype=torch.float16))


def _draw(device: torch.device) -> None:
    torch.multinomial(torch.full((32_000,), 1 / 32_000, device=device), 1)


def make_probe_layers(kind: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Two layers of that kind on `device`, and the same in fp32 with the weights as packed."""
    from bitsandbytes.functional import dequantize_4bit

    made, exact = nn.Sequential(), nn.Sequential()
    for _ in range(2):
        plain = nn.Linear(SIDE, SIDE, bias=False).half()
        weight = plain.weight.detach().clone()
        small: Any = (plain if kind == "fp16" else pack_layer(plain, kind)).to(device)
        if kind == "nf4":
            weight = dequantize_4bit(small.weight.data, small.weight.quant_state)
        twin = nn.Linear(SIDE, SIDE, bias=False, device=device)
        twin.weight.data = weight.float().to(device)
        made.append(small)
        exact.append(twin)
    return made.eval().requires_grad_(False), exact.eval().requires_grad_(False)


def pack_layer(layer: nn.Linear, quantization: str) -> nn.Module:
    """`layer` in 4 or 8 bits of bitsandbytes, which packs its weight once it is moved to a
    device, and computes in the format that it had."""
    bnb: Any = import_module("bitsandbytes.nn")
    shape, weight = (layer.in_features, layer.out_features), layer.weight.data
    has_bias, kind = layer.bias is not None, quantization.removesuffix("-double")
    made: Any
    with torch.device("meta"):
        if kind == "int8":
            made = bnb.Linear8bitLt(*shape, has_bias, has_fp16_weights=False)
        else:
            made = bnb.Linear4bit(*shape, has_bias, compute_dtype=weight.dtype, quant_type=kind)
    if kind == "int8":
        made.weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        made.weight = bnb.Params4bit(
            weight,
            requires_grad=False,
            quant_type=kind,
            compress_statistics=kind != quantization,
            module=made,
        )
    made.bias = layer.bias
    packed: nn.Module = made.eval()
    return packed
