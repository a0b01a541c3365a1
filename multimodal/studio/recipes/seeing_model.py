"""A model that sees, as it is taught: its language model with an adapter, all else as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForImageTextToText

from multimodal.backends.hf.picture_processor import fill_missing_settings
from multimodal.backends.hf.picture_prompts import PicturePrompts, load_chat_processor
from multimodal.errors import RequestError
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.base_model import load_base
from multimodal.studio.settings import JobSettings


@dataclass(frozen=True, slots=True)
class SeeingModel:
    """`model` of transformers, on the job's device; `prompts`: how the chat asks it; `dtype`: what
    is computed in."""

    model: Any
    prompts: PicturePrompts
    dtype: torch.dtype


def load_seeing_model(job: JobContext) -> SeeingModel:
    """The model of `job.start`, an earlier adapter merged. What is not taught stays in evaluation
    mode. Raises what `load_base` raises, CardError without a chat template, and RequestError for a
    language model that reads in one part and writes in another."""
    card, files = job.start.card, job.start.files
    processor = load_chat_processor(card, files)
    base = load_base(job, AutoModelForImageTextToText)
    if base.model.config.get_text_config(decoder=True).is_encoder_decoder:
        raise RequestError(
            f"{card.title} writes by an encoder and a decoder, which cannot be taught here; choose "
            "one whose language model is a decoder alone, such as LLaVA, SmolVLM or BLIP-2 OPT."
        )
    fill_missing_settings(processor, base.model, files)
    for module in _beside_language(base.model, language_model(base.model)[1]):
        module.register_forward_pre_hook(_evaluate)
    return SeeingModel(base.model, PicturePrompts(card, base.model, processor), base.dtype)


def language_model(model: Any) -> tuple[str, nn.Module]:
    """The language model within `model`, and its name there."""
    decoder = model.get_decoder()
    return next((name, one) for name, one in model.named_modules() if one is decoder)


def causal_model(model: Any) -> Any:
    """What of `model`, or of PEFT's model of it, reads text without a picture: the language model
    where that has an output layer of its own, as in BLIP-2, else all of it."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    output = whole.get_output_embeddings()
    path = next(name for name, layer in whole.named_modules() if layer is output)
    holder = path.rpartition(".")[0]
    return whole.get_submodule(holder) if holder else model


def language_adapter(settings: JobSettings, model: Any) -> LoraConfig:
    """An adapter of every linear layer of the language model of `model` but its output."""
    name, language = language_model(model)
    output = model.get_output_embeddings()
    layers = {
        path.rpartition(".")[2]
        for path, layer in language.named_modules()
        if isinstance(layer, nn.Linear) and layer is not output
    }
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=rf"{re.escape(name)}\.(.*\.)?({'|'.join(sorted(layers))})",
        bias="none",
    )


def _beside_language(module: nn.Module, language: nn.Module) -> Iterator[nn.Module]:
    """The largest modules that have no part of `language`."""
    for child in module.children():
        if child is language:
            continue
        if any(one is language for one in child.modules()):
            yield from _beside_language(child, language)
        else:
            yield child


def _evaluate(module: nn.Module, _inputs: Any) -> None:
    """A trainer puts the whole model into training mode, in which a frozen Q-Former would drop some
    of what it sees."""
    if module.training:
        module.eval()
