"""The vocabulary of openai-whisper as transformers and CTranslate2 read one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from tokenizers import AddedToken
from transformers import WhisperTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from whisper.tokenizer import get_tokenizer

MULTILINGUAL, OTHERS = 51865, 51765
"""Words of the smallest vocabulary with languages, and of one without counting those
(`whisper/model.py`)."""


def openai_tokenizer(words: int) -> tuple[Any, Mapping[str, Any]]:
    """The tokenizer of a model with so many `words`, and what CTranslate2's configuration says of
    it: languages, and what is never written (`whisper/decoding.py`)."""
    is_multilingual = words >= MULTILINGUAL
    languages = words - OTHERS - is_multilingual
    own: Any = get_tokenizer(is_multilingual, num_languages=languages)
    path = files("whisper") / "assets" / f"{'multilingual' if is_multilingual else 'gpt2'}.tiktoken"
    converter: Any = TikTokenConverter()  # type: ignore[no-untyped-call]
    vocabulary, merges = converter.extract_vocab_merges_from_model(str(path))
    tokenizer: Any = WhisperTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_tokens([_added(token, number, own) for token, number in _special(own)])
    begin = [*own.encoding.encode(" "), own.eot]
    control = (own.transcribe, own.translate, own.sot, own.sot_prev, own.sot_lm, own.no_speech)
    return tokenizer, {
        "lang_ids": sorted(own.all_language_tokens) if is_multilingual else [],
        "suppress_ids": sorted({*own.non_speech_tokens, *control}),
        "suppress_ids_begin": begin,
    }


def _special(own: Any) -> list[tuple[str, int]]:
    return sorted(own.special_tokens.items(), key=lambda item: item[1])


def _added(token: str, number: int, own: Any) -> AddedToken:
    """Timestamps are text, as in the published tokenizers."""
    is_control = number < own.timestamp_begin
    return AddedToken(token, special=is_control, normalized=not is_control)
