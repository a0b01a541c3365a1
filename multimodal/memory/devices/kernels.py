"""Small layers of each kind that models are made of, so that their kernels are there before a card
is full: bitsandbytes ends the whole process where one cannot be loaded."""

from __future__ import annotations

import logging
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
    for step in (_convolve, _attend, *(_multiplied(kind) for kind in KINDS), _draw):
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


def _multiplied(kind: str) -> Any:
    def step(device: torch.device) -> None:
        module, _exact = layers(kind, device)
        for rows in (1, MANY):
            module(torch.ones(rows, SIDE, device=device, dtype=torch.float16))

    return step


def _draw(device: torch.device) -> None:
    torch.multinomial(torch.full((32_000,), 1 / 32_000, device=device), 1)


def layers(kind: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Two layers of that kind on `device`, and the same in fp32 with the weights as packed."""
    import bitsandbytes as bnb

    plain = [nn.Linear(SIDE, SIDE, bias=False) for _ in range(2)]
    made: list[nn.Module] = []
    exact: list[nn.Module] = []
    for layer in plain:
        small, weight = pack_layer(bnb, kind, layer.weight.detach(), device)
        twin = nn.Linear(SIDE, SIDE, bias=False, device=device)
        twin.weight.data = weight.float().to(device)
        made.append(small)
        exact.append(twin)
    modules = nn.Sequential(*made), nn.Sequential(*exact)
    for module in modules:
        module.eval().requires_grad_(False)
    return modules


def pack_layer(
    bnb: Any, kind: str, weight: torch.Tensor, device: torch.device
) -> tuple[nn.Module, torch.Tensor]:
    """A layer with `weight` in that kind, and the weight that it then stands for."""
    outputs, inputs = weight.shape
    if kind == "nf4":
        layer = bnb.nn.Linear4bit(
            inputs, outputs, bias=False, compute_dtype=torch.float16, quant_type="nf4"
        )
        layer.weight = bnb.nn.Params4bit(weight.half(), requires_grad=False, quant_type="nf4")
        layer = layer.to(device)
        stored = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return layer, stored
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(weight.half(), requires_grad=False, has_fp16_weights=False)
        return layer.to(device), weight.half()
    layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float16, device=device)
    layer.weight.data = weight.half().to(device)
    return layer, weight.half()
