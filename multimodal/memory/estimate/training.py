"""What fine-tuning a text model takes, by method, computed from its card.

Weights, gradients and optimizer state follow Rajbhandari et al. 2020 (ZeRO, section 3.1): 16 bytes
a trained parameter with AdamW in mixed precision; 2 + 2 + 2 with 8-bit AdamW on 16-bit weights
(Dettmers et al. 2022). Activations follow Korthikanti et al. 2022 (equation 2, flash attention, so
without its score terms): 34 bytes a token and hidden unit for the one layer that is recomputed, and
2 for the input of each layer that gradient checkpointing keeps. A token and vocabulary entry takes
12 bytes in the loss: what the head gives, and its logarithm and gradient in fp32. PEFT's
`prepare_model_for_kbit_training` keeps in fp32 whatever bitsandbytes did not pack, the embedding
and the head above all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from multimodal.catalog.architectures import ModelPart, ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.memory.estimate.quantization import ELEMENT_BYTES, torch_bytes

ADAMW_BYTES, ADAMW_8BIT_BYTES = 16, 6
LORA_RANK = 16
LOGIT_BYTES = 4 + 4 + 4
LENGTHS = (8192, 4096, 2048, 1024, 512, 256)
"""Tokens of an example that are tried, as far as the model reads so many."""


@dataclass(frozen=True, slots=True)
class Training:
    """One way of fine-tuning, at a batch of one. All sizes in bytes; `tokens` is the length of an
    example that `total` is for, the longest tried that fits, or the shortest where none does."""

    method: str
    weights: int
    states: int
    activations: int
    tokens: int
    fits: bool

    @property
    def total(self) -> int:
        return self.weights + self.states + self.activations


@dataclass(frozen=True, slots=True)
class _Method:
    name: str
    quantization: str
    lora: bool
    state_bytes: int
    """A trained parameter, beside the weights that the model runs on."""


METHODS = (
    _Method("QLoRA", "nf4-double", True, ADAMW_BYTES),
    _Method("LoRA", "bf16", True, ADAMW_BYTES),
    _Method("full, 8-bit AdamW", "bf16", False, ADAMW_8BIT_BYTES - 2),
    _Method("full, AdamW", "bf16", False, ADAMW_BYTES - 2),
)


def plan_training(card: ModelCard, budget_bytes: int) -> Iterator[Training]:
    """Every method for `card` under a budget for the model alone; none for what is no text model
    of PyTorch's."""
    from multimodal.memory.estimate.modules import text_config

    if not isinstance(card.architecture, ModulesArchitecture):
        return
    for part in card.architecture.parts.values():
        if (config := text_config(part)) is not None:
            yield from (_tried(method, part, config, budget_bytes) for method in METHODS)


def _tried(method: _Method, part: ModelPart, config: Any, budget_bytes: int) -> Training:
    weights, states = _held(method, part)
    positions = int(getattr(config, "max_position_embeddings", None) or LENGTHS[0])
    lengths = [tokens for tokens in LENGTHS if tokens <= positions] or [positions]
    for tokens in lengths:
        needed = _activations(config, tokens)
        fits = weights + states + needed <= budget_bytes
        if fits or tokens == lengths[-1]:
            break
    return Training(method.name, weights, states, needed, tokens, fits)


def _held(method: _Method, part: ModelPart) -> tuple[int, int]:
    """Bytes of the weights, and of gradients and optimizer state. LoRA trains rank x (in + out)
    parameters beside every linear layer."""
    from multimodal.memory.estimate.modules import tensors

    found = tensors(ModulesArchitecture(kind="modules", parts={"model": part}))
    packs = method.quantization not in ELEMENT_BYTES
    weights = 0
    for tensor in found:
        is_wide = packs and tensor.parameter and not tensor.linear
        kind = "fp32" if is_wide else method.quantization
        weights += torch_bytes(tensor.shape, kind, tensor.linear)
    if method.lora:
        trained = sum(LORA_RANK * sum(t.shape) for t in found if t.linear)
    else:
        trained = sum(math.prod(t.shape) for t in found if t.parameter)
    return weights, trained * method.state_bytes


def _activations(config: Any, tokens: int) -> int:
    kept = 2 * int(config.num_hidden_layers) * int(config.hidden_size)
    recomputed = 34 * int(config.hidden_size)
    return tokens * (kept + recomputed + LOGIT_BYTES * int(config.vocab_size))
