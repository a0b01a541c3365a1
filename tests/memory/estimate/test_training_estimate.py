"""What fine-tuning is said to take, against a figure measured elsewhere and against a small model
that is really prepared by PEFT and trained for one step here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tiny_models import hub_card, save_causal

from multimodal.catalog.cards import Catalog
from multimodal.memory.devices.storages import storage_bytes
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.memory.estimate.training import LENGTHS, plan_training

GB = 10**9
VOCABULARY, TOKENS = 8000, 256


def test_no_model_is_trained_beyond_what_it_reads(catalog: Catalog) -> None:
    longest = {
        name: max(way.tokens for way in plan_training(catalog.card(name), 1000 * GB))
        for name in ("gpt2", "phi-2", "llama-2-7b-chat", "llama-3-8b-instruct")
    }
    assert longest == {
        "gpt2": 1024,
        "phi-2": 2048,
        "llama-2-7b-chat": 4096,
        "llama-3-8b-instruct": 8192,
    }


def test_a_model_that_reads_less_than_any_length_tried_is_trained_on_that() -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1}
    card = hub_card("causal_lm", "AutoModelForCausalLM", {**config, "max_position_embeddings": 100})
    assert {way.tokens for way in plan_training(card, 1000 * GB)} == {100} < {*LENGTHS, 100}


def test_llama_3_with_qlora_takes_what_was_measured(catalog: Catalog) -> None:
    """12.4 GB at 2,048 tokens; tokens are halved until they fit, so a budget of that size, with 2 %
    for rounding, reaches them and one of 98 % does not."""
    card = catalog.card("llama-3-8b-instruct")
    measured = 12.4 * GB
    way = next(way for way in plan_training(card, int(1.02 * measured)) if way.method == "QLoRA")
    assert (way.tokens, way.fits) == (2048, True)
    assert way.total == pytest.approx(measured, rel=0.02)
    less = next(way for way in plan_training(card, int(0.98 * measured)) if way.method == "QLoRA")
    assert less.tokens == 1024


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A small Llama in 4 bits, as PEFT prepares it for QLoRA, and its configuration."""
    folder: Path = tmp_path_factory.mktemp("llama")
    config = save_causal(folder, "llama", vocab_size=VOCABULARY)
    packed = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=packed, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    kept = {"use_reentrant": False}
    return peft.prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs=kept), config


def estimate(config: dict[str, Any]) -> Any:
    """For an example of `TOKENS`: the model is said to read no more."""
    card = hub_card(
        "causal_lm", "AutoModelForCausalLM", {**config, "max_position_embeddings": TOKENS}
    )
    (way,) = (way for way in plan_training(card, GB) if way.method == "QLoRA")
    assert way.tokens == TOKENS
    return way


def test_the_weights_are_what_peft_keeps(prepared: tuple[Any, dict[str, Any]]) -> None:
    model, config = prepared
    assert estimate(config).weights == pytest.approx(storage_bytes(model), rel=0.02)


def test_a_step_takes_what_is_said_beside_the_weights(
    prepared: tuple[Any, dict[str, Any]],
) -> None:
    model, config = prepared
    found = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules="all-linear"))
    found.train()
    ids = torch.arange(TOKENS)[None] % VOCABULARY
    live = LiveStorages()
    with live:
        found(input_ids=ids, labels=ids).loss.backward()
    assert live.peak == pytest.approx(estimate(config).activations, rel=0.15)
