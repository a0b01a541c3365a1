"""Tokenizers of transformers, from a local folder, that split text as the published files say.

transformers 5 builds many tokenizers anew from the vocabulary alone and drops the rest of
tokenizer.json: a Llama 2 then reads other tokens than it was trained on
(https://github.com/huggingface/transformers/pull/47700). Here the published steps are kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer

from multimodal.backends.special_tokens import special_token_texts
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How anything is read from a folder: nothing from the net, no code of the checkpoint's own."""
PUBLISHED, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
WORD_START = "▁"
"""How SentencePiece writes a space."""
SAMPLES = ("a", " a", "  a  b ", "\na", "A b? 12,3 (c)\n\n d.", "é 漢字 🙂")
"""Texts in which ways to treat spaces, new lines and foreign letters differ."""


def load_tokenizer(files: Path) -> Any:
    """The tokenizer of the folder `files`. Raises what transformers raises."""
    tokenizer = AutoTokenizer.from_pretrained(files, **LOCAL)
    restore_published_pipeline(tokenizer, files)
    return tokenizer


def restore_published_pipeline(tokenizer: Any, files: Path) -> None:
    """Make `tokenizer`, which was loaded from `files`, normalize, split and decode as the
    tokenizer.json there says; where there is none, as its SentencePiece model does. Whatever is no
    tokenizer of the `tokenizers` library is left alone."""
    if not getattr(tokenizer, "is_fast", False):
        return
    backend = tokenizer.backend_tokenizer
    if (files / PUBLISHED).is_file():
        published = Tokenizer.from_file(str(files / PUBLISHED))
        backend.model = published.model
        backend.normalizer = published.normalizer
        backend.pre_tokenizer = published.pre_tokenizer
        backend.decoder = published.decoder
    elif (files / SENTENCEPIECE).is_file() and tokenizer.init_kwargs.get("legacy") is not False:
        _split_as_sentencepiece(backend, SentencePieceProcessor(str(files / SENTENCEPIECE)))


def _split_as_sentencepiece(backend: Any, reference: SentencePieceProcessor) -> None:
    """Put a space before every text between special tokens, as the first Llama tokenizers did,
    where only that makes `backend` agree with `reference`."""
    if _agree(backend, reference):
        return
    before = backend.normalizer, backend.pre_tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(WORD_START), normalizers.Replace(" ", WORD_START)]
    )
    backend.pre_tokenizer = None
    if not _agree(backend, reference):
        backend.normalizer, backend.pre_tokenizer = before


def _agree(backend: Any, reference: SentencePieceProcessor) -> bool:
    return all(
        backend.encode(text, add_special_tokens=False).tokens
        == [reference.id_to_piece(piece) for piece in reference.encode(text)]
        for text in SAMPLES
    )


def check_vocabulary(card: ModelCard, tokenizer: Any, model: Any) -> None:
    """Raise BackendError if text can become tokens that `model` has no embedding for.

    Special tokens beyond the embedding are let pass, since what a person types never makes one;
    those that a chat template writes are found by `check_tokens`.
    """
    rows = _rows(model)
    beyond = [t for t, number in tokenizer.get_vocab().items() if number >= rows]
    special = special_token_texts(tokenizer)
    if found := [token for token in beyond if token not in special]:
        raise _too_large(card, found[0], max(tokenizer.get_vocab().values()) + 1, rows)


def check_tokens(card: ModelCard, tokenizer: Any, model: Any, tokens: list[int]) -> None:
    """Raise BackendError if one of a prompt's `tokens` has no embedding in `model`."""
    rows, highest = _rows(model), max(tokens, default=0)
    if highest >= rows:
        raise _too_large(card, tokenizer.convert_ids_to_tokens(highest), highest + 1, rows)


def check_alphabet(card: ModelCard, tokenizer: Any, heads: int) -> None:
    """Raise BackendError unless `tokenizer` knows a letter for each of the `heads` that a CTC model
    chooses from, and no other letters than those."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    beyond = [token for token, at in vocabulary.items() if at >= heads and token not in special]
    unknown = set(range(heads)) - set(vocabulary.values())
    if beyond or unknown:
        raise BackendError(
            f"{card.title}: its tokenizer knows {len(vocabulary):,} letters, and the model chooses "
            f"from {heads:,}. Fetch tokenizer and weights of the same version."
        )


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _too_large(card: ModelCard, token: str, tokens: int, rows: int) -> BackendError:
    return BackendError(
        f"{card.title}: its tokenizer knows {tokens:,} tokens, such as {json.dumps(token)}, and "
        f"the model has embeddings for {rows:,}. Fetch tokenizer and weights of the same version."
    )
