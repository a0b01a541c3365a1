"""The tokenizer of a model that is taught, for its job and for the preview of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multimodal.catalog.cards import ModelCard


def load_model_tokenizer(card: ModelCard, files: Path) -> Any:
    """transformers' tokenizer of `card`, whose weights lie in `files`: with a token to pad with,
    and with the card's chat template where it has one. Takes seconds. Raises BackendError where no
    GGUF file is there, and what transformers raises."""
    from transformers import AutoTokenizer

    from multimodal.backends.llama_cpp.gguf_files import gguf_files
    from multimodal.backends.tokenizer_files import LOCAL, load_tokenizer

    if card.family == "llama_cpp":
        path = gguf_files(card, files).language
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, **LOCAL)
    else:
        tokenizer = load_tokenizer(files)
    if card.chat_template:
        tokenizer.chat_template = card.chat_template
    if tokenizer.pad_token is None:  # as GPT-2; padding is never trained, nor looked at
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer
