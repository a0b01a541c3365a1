"""What training an adapter of a pipeline's U-Net holds beside its weights, traced on the meta
device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from multimodal.catalog.architectures import ModelPart
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.memory.estimate.backward import (
    LinearStandIn,
    TrainingConfig,
    attend,
    drop_gradient,
)
from multimodal.memory.estimate.modules import instantiate_module

ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers of attention, as diffusers names them and its own script for LoRA adapts them."""
PIXELS_PER_LATENT, WORDS = 8, 77
NARROW = (functional.linear, functional.conv2d)
WIDE = (functional.group_norm, functional.layer_norm)
"""What autocast computes in 16 and in 32 bits, of what a U-Net consists of."""


@lru_cache(maxsize=64)
def latent_bytes(
    part_json: str, side: int, rank: int, is_wide: bool, recomputes: bool
) -> tuple[int, int]:
    """Bytes beside weights and gradients, of pictures of `side` pixels on a side: once, and for
    each picture. Raises CardError where the U-Net cannot be built."""
    how = TrainingConfig("fp32" if is_wide else "bf16", rank, False, recomputes)
    one, two = (_peak(part_json, side, how, pictures) for pictures in (1, 2))
    each = max(0, two - one)
    return max(0, one - each), each


@lru_cache(maxsize=64)
def weight_sizes(part_json: str, rank: int) -> tuple[int, int]:
    """How many numbers a part of the pipeline has, and how many an adapter beside its attention."""
    with torch.device("meta"):
        model = instantiate_module(ModelPart.model_validate_json(part_json))
    total = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    return total, sum(rank * sum(layer.weight.shape) for _, layer in _adapted(model))


def _adapted(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(tuple(f".{it}" for it in ADAPTED)):
            yield name, layer


def _peak(part_json: str, side: int, how: TrainingConfig, pictures: int) -> int:
    with torch.device("meta"):
        model: Any = instantiate_module(ModelPart.model_validate_json(part_json))
    held = torch.float32 if how.precision == "fp32" else torch.bfloat16
    nn.Module.to(model, held).train().requires_grad_(False)
    for name, layer in list(_adapted(model)):
        model.set_submodule(name, LinearStandIn(layer, how, False))
    if how.recomputes:
        model.enable_gradient_checkpointing(partial(_recompute, held))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop_gradient)
    latents, inputs = _inputs(model, side, pictures)
    live = LiveStorages()
    with live, _Autocast(held):
        found = model(latents, torch.zeros(pictures, device="meta"), **inputs).sample
        (found.float() - latents).square().mean().backward()
    return live.peak


def _recompute(narrow: torch.dtype, module: nn.Module, *inputs: Any) -> Any:
    """Backward passes run outside of modes, so the one of the forward is entered again."""
    return checkpoint(
        module.__call__,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _Autocast(narrow)),
    )


def _inputs(model: Any, side: int, pictures: int) -> tuple[torch.Tensor, dict[str, Any]]:
    config, width = model.config, side // PIXELS_PER_LATENT
    made: dict[str, Any] = {}
    with torch.device("meta"):
        if config.addition_embed_type == "text_time":
            pooled = (
                config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            )
            made["added_cond_kwargs"] = {
                "text_embeds": torch.empty(pictures, pooled),
                "time_ids": torch.empty(pictures, 6),
            }
        made["encoder_hidden_states"] = torch.empty(pictures, WORDS, config.cross_attention_dim)
        return torch.empty(pictures, config.in_channels, width, width), made


class _Autocast(TorchFunctionMode):
    """Computes in 16 bits what autocast does, where weights are kept so, and attention fused."""

    def __init__(self, narrow: torch.dtype) -> None:
        super().__init__()
        self._narrow = narrow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, key, value, *_ = args
            return attend(*(it.to(self._narrow) for it in (query, key, value)))
        if func in NARROW or func in WIDE:
            kind = self._narrow if func in NARROW else torch.float32
            args, kwargs = _cast(args, kind), _cast(kwargs or {}, kind)
        return func(*args, **(kwargs or {}))


def _cast(value: Any, kind: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(kind) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _cast(it, kind) for name, it in value.items()}
    return tuple(_cast(it, kind) for it in value) if isinstance(value, tuple) else value
