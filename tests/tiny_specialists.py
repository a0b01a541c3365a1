"""A data folder with several specialists and a profile of them, all tiny and random."""

from __future__ import annotations

from pathlib import Path

import tomlkit
from tiny_gguf import save_gguf
from tiny_minigpt4 import VARIANTS, facts, save_minigpt4
from tiny_models import CHATML, add_model, save_causal
from tiny_seeing import save_llava

BUDGET = "1.5MB"
"""Room for one of them at a time."""


def save_specialists(data: Path) -> None:
    """Two text models and four that see; the profile is called "tiny"."""
    models = data / "models"
    text = {"family": "causal_lm", "model": "AutoModelForCausalLM"}
    for family, kind in (("mistral", "nf4-double"), ("gpt2", "int8")):
        config = save_causal(data / family, family, CHATML)
        add_model(
            models,
            f"tiny-{family}",
            "text-generation",
            data / family,
            config=config,
            quantization=[kind, "bf16"],
            context_tokens=128 if family == "gpt2" else 512,
            **text,
        )
    config = save_llava(data / "llava")
    add_model(
        models,
        "tiny-llava",
        "image-to-text",
        data / "llava",
        family="image_text",
        model="AutoModelForImageTextToText",
        config=config,
        quantization=["nf4"],
        converses=True,
    )
    save_gguf(data / "llava", data / "gguf")
    add_model(
        models,
        "tiny-gguf",
        "image-to-text",
        data / "gguf",
        family="llama_cpp",
        model="",
        config={},
        architecture={
            "kind": "gguf",
            "config": config,
            "projector": "f32",
            "runtime_bytes": 300_000,  # no room for another model
        },
        quantization=["f32"],
        engine={"threads": 1, "after_picture": "\n", "picture_tokens": 16},
        converses=True,
    )
    for variant in VARIANTS:
        save_minigpt4(data / variant, variant)
        add_model(
            models,
            f"tiny-minigpt4-{variant}",
            "image-to-text",
            data / variant,
            family="minigpt4",
            model="",
            config={},
            quantization=["nf4-double"],
            context_tokens=384 if variant == "qformer" else 448,  # no room for another model
            **facts(variant),
        )
    profile = {
        "name": "tiny",
        "title": "Tiny",
        "device": "cpu",
        "budget": BUDGET,
        "models": {
            "text-generation": ["tiny-mistral", "tiny-gpt2"],
            "image-to-text": ["tiny-llava", "tiny-gguf", *(f"tiny-minigpt4-{v}" for v in VARIANTS)],
        },
    }
    (models / "profiles").mkdir(parents=True)
    (models / "profiles" / "tiny.toml").write_text(tomlkit.dumps(profile), "utf-8")
