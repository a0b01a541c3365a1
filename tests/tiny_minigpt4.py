"""Checkpoints of MiniGPT-4 with random weights, in the three parts that are published: BLIP-2 and
a text model in folders, and the trained layer in a file of PyTorch beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import ROOT
from tiny_models import causal_config, hub_card, save_causal, tokenizer
from tiny_seeing import VISION, spread
from tokenizers.processors import TemplateProcessing

from multimodal.catalog.cards import ModelCard, read_card

VARIANTS = {"qformer": "minigpt-4-vicuna-7b", "neighbours": "minigpt-4-llama-2-7b"}
"""The variants, with the card that is shipped for each."""
WIDTH, QUERIES, NEIGHBOURS = 64, 4, 4
QFORMER = {
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "encoder_hidden_size": WIDTH,
    "vocab_size": 400,
}


def read_width(variant: str) -> int:
    """Numbers of a token that the trained layer reads."""
    return WIDTH if variant == "qformer" else NEIGHBOURS * WIDTH


def save_blip2(folder: Path) -> None:
    """With a language model that nobody is to read."""
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=causal_config("llama"),
        num_query_tokens=QUERIES,
    )
    torch.manual_seed(3)
    model = transformers.Blip2ForConditionalGeneration(config)
    spread(model)
    torch.nn.init.normal_(model.vision_model.post_layernorm.weight, mean=1, std=0.5)
    torch.nn.init.normal_(model.vision_model.post_layernorm.bias, std=0.5)
    model.save_pretrained(folder)


def projection(variant: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    weight = 0.1 * torch.randn(WIDTH, read_width(variant))
    return {"llama_proj.weight": weight, "llama_proj.bias": 0.1 * torch.randn(WIDTH)}


def save_minigpt4(folder: Path, variant: str) -> None:
    """The authors' training saves more beside the layer; Llama's tokenizer opens every text."""
    save_blip2(folder / "vision")
    save_causal(folder / "llm", "llama", template=None)
    spoken = tokenizer(None)
    opening = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", spoken.bos_token_id)])
    spoken.backend_tokenizer.post_processor = opening
    spoken.save_pretrained(folder / "llm")
    state = projection(variant)
    left = {"optimizer": {"state": {0: {"step": torch.tensor(7.0)}}}, "epoch": 4, "config": {}}
    torch.save({"model": state, **left}, folder / f"pretrained_{variant}.pth")


def architecture(variant: str) -> dict[str, Any]:
    """As a card states it."""
    layer = {"in_features": read_width(variant), "out_features": WIDTH}
    qformer = {"library": "transformers", "model": "Blip2QFormerModel", "quantized": False}
    asked = {"num_embeddings": QUERIES, "embedding_dim": WIDTH}
    parts: dict[str, Any] = {
        "vision": {
            "library": "transformers",
            "model": "Blip2VisionModel",
            "config": VISION,
            "quantized": False,
        },
        "projection": {"library": "torch", "model": "Linear", "config": layer, "quantized": False},
        "llm": {
            "library": "transformers",
            "model": "AutoModelForCausalLM",
            "config": causal_config("llama"),
        },
    }
    if variant == "qformer":
        parts["qformer"] = {**qformer, "config": QFORMER}
        parts["queries"] = {"library": "torch", "model": "Embedding", "config": asked}
    return {"kind": "modules", "parts": parts}


def facts(variant: str, **more: Any) -> dict[str, Any]:
    """Of a tiny model that is spoken to as the shipped card of its variant says."""
    shipped = read_card(ROOT / f"models/cards/image-to-text/{VARIANTS[variant]}.toml")
    told = {
        "converses": True,
        "architecture": architecture(variant),
        "system_prompt": shipped.system_prompt,
        "chat_template": shipped.chat_template,
    }
    return {**told, **more}


def card(variant: str, **more: Any) -> ModelCard:
    return hub_card("minigpt4", "", {}, task="image-to-text", **facts(variant, **more))
