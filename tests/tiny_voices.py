"""A data folder with models that hear, speak and write, all tiny and random."""

from __future__ import annotations

from pathlib import Path

import tomlkit
from tiny_hearing import save_seamless, save_wav2vec2
from tiny_models import CHATML, add_model, save_causal

TEXT, SPEECH = "text-generation", "automatic-speech-recognition"


def save_voices(data: Path) -> None:
    """A text model, one that hears, translates and speaks, and one that only hears French; the
    profile is called "voices"."""
    models = data / "models"
    add_model(
        models,
        "tiny-mistral",
        TEXT,
        data / "mistral",
        family="causal_lm",
        model="AutoModelForCausalLM",
        config=save_causal(data / "mistral", "mistral", CHATML),
        quantization=["nf4-double", "bf16"],
    )
    add_model(
        models,
        "tiny-seamless",
        SPEECH,
        data / "seamless",
        family="seamless",
        model="SeamlessM4Tv2Model",
        config=save_seamless(data / "seamless"),
        quantization=["bf16"],
        context_tokens=64,
        languages=["en", "fr", "zh"],
        translates=["*"],
        speaks=["en", "fr"],
        engine={"language": "en"},
    )
    add_model(
        models,
        "tiny-wav2vec2",
        SPEECH,
        data / "wav2vec2",
        family="wav2vec2",
        model="AutoModelForCTC",
        config=save_wav2vec2(data / "wav2vec2"),
        languages=["fr"],
        translates=[],
    )
    profile = {
        "name": "voices",
        "title": "Voices",
        "device": "cpu",
        "budget": "400MB",
        "models": {TEXT: ["tiny-mistral"], SPEECH: ["tiny-seamless", "tiny-wav2vec2"]},
    }
    (models / "profiles").mkdir(parents=True)
    (models / "profiles" / "voices.toml").write_text(tomlkit.dumps(profile), "utf-8")
