"""What fine-tuning is said to take, against live storages of TRL's trainer on small models."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import hub_card

from benchmarks.training_memory import measure
from multimodal.catalog.architectures import ModelPart
from multimodal.catalog.cards import Catalog
from multimodal.memory.estimate.training import (
    LENGTHS,
    TrainingStep,
    plan_training,
    training_bytes,
)

GB = 10**9
TOKENS, BATCH = 128, 2
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 256, "n_layer": 4, "n_head": 4, "vocab_size": 20000},
    "llama": {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 8000,
    },
    "qwen2": {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 20000,
        "tie_word_embeddings": True,
    },
}
WAYS = [
    ("llama", TrainingStep("full", BATCH, TOKENS, "fp32", on_cpu=True)),
    (
        "llama",
        TrainingStep(
            "lora",
            BATCH,
            TOKENS,
            "fp32",
            gradient_checkpointing=False,
            accumulates=False,
            on_cpu=True,
        ),
    ),
    pytest.param(
        "gpt2",
        TrainingStep("full", BATCH, TOKENS, "bf16", gradient_checkpointing=False, on_cpu=True),
        marks=pytest.mark.thorough,
    ),
    ("gpt2", TrainingStep("lora", BATCH, TOKENS, "bf16", accumulates=False, on_cpu=True)),
    ("qwen2", TrainingStep("qlora", BATCH, TOKENS, "bf16", on_cpu=True)),
    pytest.param(
        "qwen2",
        TrainingStep(
            "full",
            BATCH,
            TOKENS,
            "fp32",
            gradient_checkpointing=False,
            accumulates=False,
            on_cpu=True,
        ),
        marks=pytest.mark.thorough,
    ),
]


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


def test_the_longest_example_that_fits_is_told(catalog: Catalog) -> None:
    card = catalog.card("llama-3-8b-instruct")
    roomy = next(way for way in plan_training(card, 24 * GB) if way.method == "QLoRA")
    exact = next(way for way in plan_training(card, roomy.total) if way.method == "QLoRA")
    less = next(way for way in plan_training(card, roomy.total - 1) if way.method == "QLoRA")
    assert (exact.tokens, less.tokens) == (roomy.tokens, roomy.tokens // 2)


@pytest.mark.parametrize(("shape", "step"), WAYS, ids=lambda it: getattr(it, "method", it))
def test_a_step_of_the_trainer_takes_what_is_said(shape: str, step: TrainingStep) -> None:
    config = {"model_type": shape, **SHAPES[shape]}
    part = ModelPart(library="transformers", model="AutoModelForCausalLM", config=config)
    assert training_bytes(part, step).total == pytest.approx(measure(part, step), rel=0.1)
