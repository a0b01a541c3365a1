"""Attention of models with grouped heads on a card for which PyTorch has no flash kernel.

Where a group of query heads shares one head of keys, transformers leaves the grouping to PyTorch
(`enable_gqa`) if there is no mask. Only the flash and cuDNN kernels take it, and cuDNN's comes
behind the one of plain arithmetic, which keeps the whole score matrix: without a flash kernel
(PyTorch's wheels for Windows, cards before Ampere) 3,000 tokens of 32 heads take 2.88 GB instead of
25 MB (measured on an H200, torch 2.11). With keys repeated for each head, the memory-efficient
kernel takes them, in 25 MB beside the repeated keys.

cuDNN's kernel could be put first instead (`torch.nn.attention.sdpa_kernel`), but that is a setting
of the whole process, and it makes a plan for each length, so for each word that is written.
transformers' own switch only works the other way round (`TRANSFORMERS_SDPA_FORCE_GQA`). So its
function for "sdpa" is wrapped, by the means that it offers for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

SDPA = "sdpa"
FLASH_CAPABILITY = (8, 0)
"""Ampere, the oldest that PyTorch's flash kernel runs on."""

_UNGROUPED = nn.Identity()
"""Stands for a module that says nothing of groups."""


def has_flash_attention() -> bool:
    """Whether PyTorch was built with a flash kernel, and the card can run it."""
    available = torch.backends.cuda.is_flash_attention_available()
    return available and torch.cuda.get_device_capability() >= FLASH_CAPABILITY


def ungroup_attention(device: str, has_flash: Callable[[], bool] = has_flash_attention) -> None:
    """Let the models of transformers on `device` ("cpu", "cuda") ask for no grouped heads where
    that would cost much memory. Holds for the whole process."""
    if device != "cpu" and not has_flash():
        AttentionInterface.register(SDPA, ungrouped_attention)


def ungrouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """What `sdpa_attention_forward` of transformers computes, and as its signature says, without
    `enable_gqa`. `query`: (batch, heads, length, size); `key` and `value`: (batch, key heads, key
    length, size), where heads are a multiple of key heads. Returns (batch, length, heads, size)."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1 or attention_mask is not None:  # a mask makes transformers repeat the keys
        return _sdpa(module, query, key, value, attention_mask, is_causal=is_causal, **more)
    if query.shape[2] > 1:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        return _sdpa(_UNGROUPED, query, key, value, None, is_causal=causal, **more)
    # One word, which sees all of the others: the heads of a group are computed as so many words.
    packed = query.reshape(query.shape[0], key.shape[1], groups, query.shape[3])
    made, _ = _sdpa(_UNGROUPED, packed, key, value, None, is_causal=False, **more)
    return made.transpose(1, 2).reshape(query.shape[0], 1, query.shape[1], value.shape[3]), None


_sdpa: Callable[..., tuple[torch.Tensor, None]] = sdpa_attention_forward
