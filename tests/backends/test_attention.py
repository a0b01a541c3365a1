"""Attention without grouped heads: the same results, and a kernel that needs little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from text_requests import Turn, ask
from tiny_models import causal_card, load_causal, save_causal
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from multimodal.backends.attention import SDPA, ungroup_attention, ungrouped_attention
from multimodal.backends.base import Backend, load
from multimodal.errors import BackendError
from multimodal.messages import Sampling


class Kernels(TorchFunctionMode):
    """Notes what is asked of PyTorch's attention: whether heads are grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, key, *_ = args
            assert (kwargs or {}).get("enable_gqa", False) or query.shape[1] == key.shape[1]
            self.grouped.append(bool((kwargs or {}).get("enable_gqa", False)))
        return func(*args, **(kwargs or {}))


def heads(count: int, length: int, seed: int) -> torch.Tensor:
    return torch.randn(2, count, length, 16, generator=torch.Generator().manual_seed(seed))


class Attention(nn.Module):
    """What transformers' function reads of a model's attention."""

    def __init__(self, groups: int, is_causal: bool = True) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = is_causal


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 9), (7, 7), (5, 9)])
@pytest.mark.parametrize("given", [None, True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_results_are_those_of_grouped_heads(
    groups: int, length: int, keys: int, given: bool | None, masked: bool
) -> None:
    query = heads(8, length, 1)
    key, value = (heads(8 // groups, keys, seed) for seed in (2, 3))
    mask = torch.rand(2, 1, length, keys) > 0.3 if masked else None
    if mask is not None:
        mask[..., 0] = True
    for module in (Attention(groups), Attention(groups, is_causal=False)):
        inputs = (module, query, key, value, mask)
        more = {"dropout": 0.0, "scaling": 0.2, "is_causal": given}
        expected, _ = sdpa_attention_forward(*inputs, **more)
        with Kernels() as kernels:
            found, _ = ungrouped_attention(*inputs, **more)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert kernels.grouped == [False]


@contextmanager
def watched(attention: Callable[..., Any]) -> Iterator[Kernels]:
    """Let every model compute its attention by that function, and note what it asks for."""
    kernels = Kernels()

    def attend(*inputs: Any, **more: Any) -> Any:
        with kernels:
            return attention(*inputs, **more)

    AttentionInterface.register(SDPA, attend)
    try:
        yield kernels
    finally:
        AttentionInterface.register(SDPA, sdpa_attention_forward)


def two_turns(model: Backend) -> list[tuple[str, int]]:
    sampling = Sampling(temperature=0, max_tokens=12)
    question: Turn = ("user", "What colour is the car? " * 60)
    first = ask(model, question, sampling=sampling)
    turns = (question, ("assistant", first.text), ("user", "Is it red?"))
    second = ask(model, *turns, sampling=sampling)
    return [(reply.text, reply.usage.cached_tokens) for reply in (first, second)]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma"])
def test_a_conversation_goes_on_as_with_grouped_heads(family: str, tmp_path: Path) -> None:
    checkpoint = tmp_path, save_causal(tmp_path, family)
    found = []
    for attention in (sdpa_attention_forward, ungrouped_attention):
        model = load_causal(checkpoint)
        with watched(attention) as kernels:
            found.append((two_turns(model), any(kernels.grouped)))
        model.close()
    (expected, is_grouped), (answers, is_still_grouped) = found
    assert answers == expected
    assert expected[1][1] > 0, "the prefix cache was used"
    assert is_grouped
    assert not is_still_grouped


@pytest.mark.skipif(torch.cuda.is_available(), reason="the card here may have the kernel")
def test_models_on_a_card_without_the_kernel_ask_for_no_grouped_heads(tmp_path: Path) -> None:
    card = causal_card(save_causal(tmp_path, "llama"))
    with watched(sdpa_attention_forward):
        with pytest.raises(BackendError):  # there is no card
            load(card, tmp_path, "cuda")
        assert AttentionInterface()[SDPA] is ungrouped_attention


@pytest.mark.parametrize(("device", "has_flash"), [("cpu", False), ("cuda", True)])
def test_nothing_changes_where_it_need_not(device: str, has_flash: bool) -> None:
    ungroup_attention(device, lambda: has_flash)
    assert AttentionInterface()[SDPA] is sdpa_attention_forward
