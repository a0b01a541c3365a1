"""Speech models with random weights in the published layout, a few layers deep."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tiny_models import WORDS

from multimodal.backends.base import Backend, TranscriptionRequest
from multimodal.events import Transcript
from multimodal.messages import AudioPart

LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")

WAV2VEC2: dict[str, Any] = {
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


PIECES = 120
LANGUAGES = ("eng", "fra", "cmn")
"""The last one is written and not spoken."""
SEAMLESS: dict[str, Any] = {
    "model_type": "seamless_m4t_v2",
    "vocab_size": PIECES + 1 + len(LANGUAGES),
    "t2u_vocab_size": 60,
    "char_vocab_size": 120,
    "hidden_size": 64,
    "encoder_layers": 2,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_ffn_dim": 128,
    "decoder_attention_heads": 4,
    "max_new_tokens": 24,
    "speech_encoder_layers": 2,
    "speech_encoder_attention_heads": 4,
    "speech_encoder_intermediate_size": 128,
    "conv_depthwise_kernel_size": 3,
    "t2u_encoder_layers": 1,
    "t2u_encoder_ffn_dim": 128,
    "t2u_encoder_attention_heads": 4,
    "t2u_decoder_layers": 1,
    "t2u_decoder_ffn_dim": 128,
    "t2u_decoder_attention_heads": 4,
    "t2u_variance_predictor_embed_dim": 64,
    "t2u_variance_predictor_hidden_dim": 32,
    "upsample_initial_channel": 64,
    "unit_hifi_gan_vocab_size": 64,
    "unit_embed_dim": 64,
    "lang_embed_dim": 16,
    "spkr_embed_dim": 16,
    "vocoder_num_langs": 4,
    "vocoder_num_spkrs": 8,
}


def save_wav2vec2(folder: Path, letters: str = LETTERS, **changes: Any) -> dict[str, Any]:
    """Save a CTC model with its letters and its feature extractor; its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**WAV2VEC2, **changes}
    model = _random(transformers.AutoModelForCTC, config)
    with torch.no_grad():  # as trained ones, mostly silent, and never a sign of control
        model.lm_head.bias[:5] = torch.tensor([3.0, -100.0, -100.0, -100.0, 3.0])
    model.save_pretrained(folder)
    vocabulary = {letter: index for index, letter in enumerate((*SPECIAL, *letters))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return config


def save_seamless(folder: Path, **changes: Any) -> dict[str, Any]:
    """Save a model that hears and speaks English, French and Chinese; its configuration."""
    config = {**SEAMLESS, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _save_tokenizer(folder)
    model = _random(_Seamless, config, std=0.3)
    with torch.no_grad():  # as a trained one, it writes and speaks no sign of control
        model.shared.weight[[*range(4), *range(PIECES + 1, config["vocab_size"])]] *= 0.3
        model.t2u_model.lm_head.weight[: config.get("vocoder_offset", 4)] = 0
    model.generation_config = _languages(model, tokenizer)
    model.save_pretrained(folder)
    transformers.SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return config


def _languages(model: Any, tokenizer: Any) -> Any:
    """What the published generation_config.json says beside the signs of control."""
    vocabulary = tokenizer.get_vocab()
    letters = sorted({letter for piece in vocabulary for letter in piece})
    signs = {code: vocabulary[f"__{code}__"] for code in LANGUAGES}
    control = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    return transformers.GenerationConfig(
        **{name: getattr(model.config, name) for name in (*control, "max_new_tokens")},
        text_decoder_lang_to_code_id=signs,
        t2u_lang_code_to_id={code: index for index, code in enumerate(LANGUAGES[:2])},
        vocoder_lang_code_to_id={code: index for index, code in enumerate(LANGUAGES[:2])},
        id_to_text={str(index): piece for piece, index in vocabulary.items()},
        char_to_id={letter: index + 2 for index, letter in enumerate(letters)},
    )


class _Seamless:
    """The one class of its kind that no automatic class of transformers makes."""

    from_config = transformers.SeamlessM4Tv2Model


def _save_tokenizer(folder: Path) -> Any:
    """SeamlessM4T's own, from SentencePiece's file as it is published."""
    sentences = folder / "sentences.txt"
    sentences.write_text((WORDS + "\n") * 20, "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(sentences),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=PIECES,
        model_type="bpe",
        minloglevel=2,
    )
    sentences.unlink()
    signs = [f"__{code}__" for code in LANGUAGES]
    # SentencePiece counts from <unk>; the published ids begin with a <pad> of their own.
    special = {0: "<pad>", 1: "<unk>", 2: "<s>", 3: "</s>", **dict(enumerate(signs, PIECES + 1))}
    facts = {
        "tokenizer_class": "SeamlessM4TTokenizer",
        "additional_special_tokens": signs,
        "added_tokens_decoder": {
            str(index): {"content": token, "special": True} for index, token in special.items()
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts), "utf-8")
    return transformers.SeamlessM4TTokenizer.from_pretrained(folder)


def _random(cls: Any, config: dict[str, Any], std: float = 0.2) -> Any:
    """Weights larger than usual, so that the likeliest letter changes with the sound."""
    torch.manual_seed(1)
    model = cls.from_config(transformers.AutoConfig.for_model(**config))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model


def heard(model: Backend, waveform: Any, **more: Any) -> Transcript:
    """What the model makes of a recording."""
    part = AudioPart("0" * 64, "audio/flac", len(waveform) / 16_000)
    *_, last = model.run(TranscriptionRequest(part, waveform, **more), threading.Event())
    assert isinstance(last, Transcript)
    return last
