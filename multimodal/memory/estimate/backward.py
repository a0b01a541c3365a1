"""What one training step holds beside the weights, found without weights.

As `activation.py` does for a forward, the step is computed on PyTorch's meta device and every
storage is counted while it lives: forward, backward and, where layers are recomputed, that. What
grows with the tokens is told apart from what does not (weights in another format, gradients) by
two lengths, and a layer by two depths, so that a model of any size takes a moment.

Layers are stood in for by ones that keep for the backward pass what theirs do: LoRA's (Hu et al.
2021) as PEFT computes it, 4-bit ones as bitsandbytes does, and a product in 16 bits on weights of
32 as autocast computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from multimodal.catalog.architectures import ModelPart
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.memory.estimate.modules import instantiate_layers, quantizable

Precision = Literal["fp32", "bf16", "fp16"]
ATTENTION = "traced"
SHORT, LONG = 1 << 20, 1 << 21
"""Tokens of the two samples that are traced: so many that no weight's gradient outweighs them."""
SHALLOW, DEEP = 1, 2
"""Layers of the two models that are traced."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a model is taught, as far as its activations depend on it. `lora_rank`: 0 for all
    weights; `is_packed`: whether the weights under the adapter are in 4 bits."""

    precision: Precision
    lora_rank: int
    is_packed: bool
    recomputes: bool
    """Gradient checkpointing: of a layer only its input is kept, and the rest computed again."""


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """Bytes a token of a step: what each layer adds, and what there is once: for the model, or for
    the one layer that is computed at the moment."""

    layer: float
    model: float

    def of(self, tokens: int, layers: int, models: int) -> int:
        return int(tokens * (models * self.model + layers * self.layer))


@lru_cache(maxsize=256)
def token_bytes(part_json: str, teaching: TrainingConfig) -> TokenBytes:
    """What a text model of transformers holds for a token while it is taught, its output layer and
    the loss left out."""
    slopes = [
        (_peak(part_json, teaching, layers, LONG) - _peak(part_json, teaching, layers, SHORT))
        / (LONG - SHORT)
        for layers in (SHALLOW, DEEP)
    ]
    layer = (slopes[1] - slopes[0]) / (DEEP - SHALLOW)
    return TokenBytes(layer, slopes[0] - SHALLOW * layer)


def _peak(part_json: str, teaching: TrainingConfig, layers: int, tokens: int) -> int:
    model = _model(part_json, teaching, layers)
    decoder = model.get_decoder()
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    positions = torch.arange(tokens, device="meta")[None]
    live = LiveStorages()
    with live:
        read = decoder(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        read.backward(torch.empty_like(read))
    return live.peak


def _model(part_json: str, teaching: TrainingConfig, layers: int) -> Any:
    """A model on the meta device as it is taught, with so many layers."""
    register_attention()
    part = ModelPart.model_validate_json(part_json)
    with torch.device("meta"):
        model: Any = instantiate_layers(part, layers, ATTENTION)
    packed = set(quantizable(model, part.keeps_fp32)) if teaching.is_packed else set()
    nn.Module.to(model, _weights_type(teaching))
    model.train().requires_grad_(not teaching.lora_rank)
    output = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if _is_linear(layer) and layer is not output:
            holder, _, attribute = name.rpartition(".")
            stand_in = LinearStandIn(layer, teaching, name in packed)
            setattr(model.get_submodule(holder), attribute, stand_in)
    if teaching.recomputes:
        model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        model.enable_input_require_grads()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop_gradient)
    return model


def _weights_type(teaching: TrainingConfig) -> torch.dtype:
    """Of what is neither packed nor an adapter: in 32 bits where all weights are trained."""
    is_wide = teaching.precision == "fp32" or not teaching.lora_rank
    return torch.float32 if is_wide else torch.bfloat16


def drop_gradient(parameter: torch.Tensor) -> None:
    """For `register_post_accumulate_grad_hook`: gradients are counted for all weights at once."""
    parameter.grad = None


def _is_linear(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return type(layer) in (nn.Linear, Conv1D)


class LinearStandIn(nn.Module):
    """Keeps for the backward pass what a linear layer keeps that is taught in that way."""

    def __init__(self, layer: Any, teaching: TrainingConfig, is_packed: bool) -> None:
        super().__init__()
        is_turned = type(layer) is not nn.Linear  # GPT-2's Conv1D
        shape = tuple(layer.weight.shape)[:: -1 if is_turned else 1]
        kind = torch.float32 if teaching.precision == "fp32" else torch.bfloat16
        self._kind, self._is_packed = kind, is_packed
        held = kind if is_packed else layer.weight.dtype
        is_trained = layer.weight.requires_grad
        self.weight = nn.Parameter(torch.empty(shape, dtype=held, device="meta"), is_trained)
        self.bias = layer.bias
        self.down = self.up = None
        if teaching.lora_rank:
            like: dict[str, Any] = {"bias": False, "device": "meta", "dtype": torch.float32}
            self.down = nn.Linear(shape[1], teaching.lora_rank, **like)
            self.up = nn.Linear(teaching.lora_rank, shape[0], **like)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        made = self._product(given, self.weight, self.bias)
        if self._is_packed:  # bitsandbytes gives back the format that it was given
            made = made.to(given.dtype)
        if self.down is None or self.up is None:
            return made
        wide = given.to(self.down.weight.dtype)
        low = self._product(wide, self.down.weight, None)
        return made + self._product(low, self.up.weight, None) * 2.0

    def _product(
        self, given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """As autocast computes it, in the format of the arithmetic."""
        kind = self._kind
        return functional.linear(
            given.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
        )


class _Attention(torch.autograd.Function):
    """Fused attention: keeps its inputs, its output and a number a row (Dao et al. 2022)."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        made = query.new_empty((*query.shape[:-1], value.shape[-1]))
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, made, sums)
        return made

    @staticmethod
    def backward(ctx: Any, *_grads: Any) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attend(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    return attend(query, key, value).transpose(1, 2).contiguous(), None


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Fused attention on the meta device, heads before tokens."""
    apply: Callable[..., torch.Tensor] = _Attention.apply
    return apply(query, key, value)


@lru_cache(maxsize=1)
def register_attention() -> None:
    """Make ATTENTION known to transformers: fused, with nothing computed."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attend)
