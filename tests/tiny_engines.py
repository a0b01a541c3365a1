"""A tiny checkpoint of every engine that runs on PyTorch, and what it is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_diffusion
import tiny_minigpt4
import torch
from PIL import Image
from tiny_hearing import save_seamless, save_wav2vec2
from tiny_models import CAUSAL, hub_card, save_causal
from tiny_seeing import SEEING, TEMPLATES
from torch import nn
from whisper.model import ModelDimensions, Whisper

from multimodal.backends.base import (
    Backend,
    ImageGenerationRequest,
    TextRequest,
    TranscriptionRequest,
)
from multimodal.catalog.cards import ModelCard
from multimodal.memory.devices.cuda import Movable
from multimodal.messages import AudioPart

HEARING = {"task": "automatic-speech-recognition", "languages": ["en"]}
SEEN = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8))
WHISPER = ModelDimensions(
    n_mels=80,
    n_audio_ctx=1500,
    n_audio_state=64,
    n_audio_head=2,
    n_audio_layer=2,
    n_vocab=51_865,
    n_text_ctx=448,
    n_text_state=64,
    n_text_head=2,
    n_text_layer=2,
)


@dataclass(frozen=True)
class Engine:
    """`make` saves a tiny checkpoint into a folder and returns its card; `asks`: what kind of
    request the model answers."""

    make: Callable[[Path, str], ModelCard]
    asks: str
    kinds: tuple[str, ...] = ("fp32", "bf16", "int8", "nf4-double")


def causal(family: str) -> Engine:
    def make(folder: Path, kind: str) -> ModelCard:
        config = save_causal(folder, family)
        return hub_card("causal_lm", "AutoModelForCausalLM", config, quantization=[kind])

    return Engine(make, "text")


def seeing(name: str) -> Engine:
    def make(folder: Path, kind: str) -> ModelCard:
        more = {
            "task": "image-to-text",
            "chat_template": TEMPLATES.get(name, ""),
            "quantization": [kind],
        }
        config = SEEING[name](folder)
        return hub_card("image_text", "AutoModelForImageTextToText", config, **more)

    return Engine(make, "picture")


def minigpt4(variant: str) -> Engine:
    def make(folder: Path, kind: str) -> ModelCard:
        tiny_minigpt4.save_minigpt4(folder, variant)
        return tiny_minigpt4.card(variant, quantization=[kind])

    return Engine(make, "picture")


def _wav2vec2(folder: Path, kind: str) -> ModelCard:
    config = save_wav2vec2(folder)
    return hub_card("wav2vec2", "AutoModelForCTC", config, quantization=[kind], **HEARING)


def _seamless(folder: Path, kind: str) -> ModelCard:
    config = save_seamless(folder)
    return hub_card("seamless", "SeamlessM4Tv2Model", config, quantization=[kind], **HEARING)


def _whisper(folder: Path, kind: str) -> ModelCard:
    torch.manual_seed(0)
    model = Whisper(WHISPER)
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)  # else whatever lay there
    made = {"dims": vars(WHISPER), "model_state_dict": model.state_dict()}
    torch.save(made, folder / "tiny.pt")
    part = {"library": "whisper", "model": "Whisper", "config": vars(WHISPER)}
    architecture = {"kind": "modules", "parts": {"model": part}}
    more = {"architecture": architecture, "quantization": [kind], **HEARING}
    return hub_card("openai_whisper", "Whisper", {}, **more)


def drawing(kind: tiny_diffusion.Kind) -> Engine:
    def make(folder: Path, quantization: str) -> ModelCard:
        tiny_diffusion.saved(folder, tiny_diffusion.pipeline(kind))
        return tiny_diffusion.card(folder, (quantization,))

    return Engine(make, "drawing", ("fp32", "int8", "nf4-double"))


ENGINES: dict[str, Engine] = {
    **{f"causal_lm {family}": causal(family) for family in CAUSAL},
    **{f"image_text {name}": seeing(name) for name in SEEING},
    **{f"minigpt4 {variant}": minigpt4(variant) for variant in tiny_minigpt4.VARIANTS},
    "wav2vec2": Engine(_wav2vec2, "speech"),
    "seamless": Engine(_seamless, "speech"),
    "openai_whisper": Engine(_whisper, "speech", ("fp32",)),
    **{f"diffusion {kind}": drawing(kind) for kind in ("sd", "sdxl", "ldm")},
}
CASES = [(name, kind) for name, engine in ENGINES.items() for kind in engine.kinds]


def modules_of(backend: Backend) -> list[nn.Module]:
    assert isinstance(backend, Movable)
    found = list(backend.modules())
    assert found, "an engine on PyTorch shows its modules"
    return found


def answer(backend: Backend, asks: str, speech: Any) -> list[str]:
    """Everything that the model makes of one request, times aside."""
    question = ("user", "What colour is the car?")
    requests = {
        "text": TextRequest((question,)),
        "picture": TextRequest((question,), pictures=((0, SEEN),)),
        "speech": TranscriptionRequest(
            AudioPart("0" * 64, "audio/flac", 3.0), speech, language="en"
        ),
        "drawing": ImageGenerationRequest("a cat", seed=7, preview_every_s=None),
    }
    events = backend.run(requests[asks], threading.Event())
    made = [getattr(event, name, None) for event in events for name in ("text", "png", "part")]
    return [str(thing) for thing in made if thing is not None]
