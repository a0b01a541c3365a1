"""Samples of one row are packed only where attention keeps them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import CAUSAL
from tiny_recipes import save_untaught

from multimodal.studio.recipes.packing import keeps_samples_apart


class Blind(torch.nn.Module):
    """Gives its model no positions, so that a row is one text for it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config, self.device = model, model.config, model.device

    def forward(self, input_ids: torch.Tensor, position_ids: Any = None, **more: Any) -> Any:
        return self.model(input_ids=input_ids, **more)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", CAUSAL)
def test_attention_of_every_family_keeps_packed_samples_apart(
    tmp_path: Path, family: str, attention: str
) -> None:
    folder = save_untaught(tmp_path, family).folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    assert keeps_samples_apart(model)
    assert not keeps_samples_apart(Blind(model))


def test_rounding_to_16_bits_is_no_sight_of_other_samples(tmp_path: Path) -> None:
    folder = save_untaught(tmp_path).folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert keeps_samples_apart(model)
