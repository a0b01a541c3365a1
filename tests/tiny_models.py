"""Checkpoints with random weights in the published layout: the real architectures, a few layers
deep, and a tokenizer trained on a few sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomlkit
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from multimodal.catalog.cards import ModelCard

WORDS = (
    "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm sun. "
    "What colour is the car? Is it red, green or blue? The river runs to the sea. "
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "<|im_start|>", "<|im_end|>"]

# Wide enough for the blocks of bitsandbytes' kernels.
_LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
CAUSAL: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": 4096},
    "phi": {**_LLAMA, "num_key_value_heads": 2},
    "gemma": {**_LLAMA, "head_dim": 32},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 4096},
}
"""The text families that the mission names."""


def tokenizer(template: str | None = CHATML, more: tuple[str, ...] = ()) -> Any:
    """Byte-level BPE of at most 400 tokens; every text comes back as it was."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*SPECIAL, *more],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([WORDS], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        chat_template=template,
    )


def causal_config(family: str, **changes: Any) -> dict[str, Any]:
    """As a card states it."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3, "vocab_size": 400}
    return {"model_type": family, **CAUSAL[family], **special, **changes}


def every_causal(factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """A checkpoint and its configuration of every family."""
    found = {}
    for family in CAUSAL:
        folder = factory.mktemp(family)
        found[family] = (folder, save_causal(folder, family))
    return found


def save_causal(
    folder: Path, family: str, template: str | None = CHATML, **changes: Any
) -> dict[str, Any]:
    """Save a model of that family with its tokenizer; its configuration."""
    config = causal_config(family, **changes)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config)
    )
    for parameter in model.parameters():
        # Larger than usual, so that the most likely token is so by far.
        torch.nn.init.normal_(parameter, std=0.4) if parameter.dim() > 1 else None
    model.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return config


KEEPS_FP32 = {"blip-2": ["query_tokens", "qformer"], "instructblip": ["query_tokens"]}


def hub_card(family: str, model: str, config: dict[str, Any], **more: Any) -> ModelCard:
    """A card of one transformers module in that configuration."""
    part = {"library": "transformers", "model": model, "config": config}
    part["keeps_fp32"] = KEEPS_FP32.get(config.get("model_type", ""), [])
    facts = {
        "name": "tiny",
        "title": "Tiny",
        "task": "text-generation",
        "family": family,
        "license": "MIT",
        "source": {"kind": "hub", "repo": "tiny/tiny"},
        "architecture": {"kind": "modules", "parts": {"model": part}},
        "quantization": ["fp32"],
        "context_tokens": 512,
        "sampling": {"temperature": 0, "repeat_penalty": 1, "max_tokens": 24},
    }
    return ModelCard.model_validate({**facts, **more})


def add_model(models: Path, name: str, task: str, folder: Path, **facts: Any) -> None:
    """Write the card of the checkpoint in `folder`: all it takes to add a model."""
    card = hub_card(
        name=name,
        title=name.capitalize(),
        task=task,
        source={"kind": "folder", "path": str(folder)},
        **facts,
    )
    path = models / "cards" / task / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = card.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    path.write_text(tomlkit.dumps(told), "utf-8")
