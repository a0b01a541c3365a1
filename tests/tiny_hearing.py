"""Speech models with random weights in the published layout, a few layers deep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")

WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": len(SPECIAL) + len(LETTERS),
    "pad_token_id": 0,
}


def save_wav2vec2(folder: Path, letters: str = LETTERS, **changes: Any) -> dict[str, Any]:
    """Save a CTC model with its letters and its feature extractor; its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**WAV2VEC2, **changes}
    model = _random(transformers.AutoModelForCTC, config)
    with torch.no_grad():  # as trained ones, mostly silent, and never a sign of control
        model.lm_head.bias[:5] = torch.tensor([2.0, -100.0, -100.0, -100.0, 1.0])
    model.save_pretrained(folder)
    vocabulary = {letter: index for index, letter in enumerate((*SPECIAL, *letters))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return config


def _random(cls: Any, config: dict[str, Any], std: float = 0.2) -> Any:
    """Weights larger than usual, so that the likeliest letter changes with the sound."""
    torch.manual_seed(1)
    model = cls.from_config(transformers.AutoConfig.for_model(**config))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model
