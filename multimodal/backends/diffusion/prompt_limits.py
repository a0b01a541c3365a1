"""How much of a prompt a diffusion pipeline reads. diffusers cuts the rest off silently."""

from __future__ import annotations

from typing import Any

ENCODERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "bert": "tokenizer"}
FAR = 1_000_000
"""Tokens: more than any message has, so that a tokenizer cuts nothing off and does not warn."""


def tokens(pipeline: Any, words: str) -> int:
    """How many tokens of `words` are read, the signs at both ends counted."""
    return max(
        (len(t(words, truncation=True, max_length=n).input_ids) for t, n in _readers(pipeline)),
        default=0,
    )


def truncation_notice(pipeline: Any, title: str, name: str, words: str) -> str | None:
    """A sentence about what of `words` no encoder of the model `title` reads; None if all is."""
    ends = []
    for tokenizer, most in _readers(pipeline):
        read = tokenizer(words, return_offsets_mapping=True, truncation=True, max_length=FAR)
        if len(read.input_ids) <= most:
            return None
        ends.append((read.offset_mapping[most - 2][1], most - 2))
    if not ends:
        return None
    end, most = max(ends)
    return f"{title} reads {most} tokens of a {name}. Left out: “{words[end:].strip()}”."


def _readers(pipeline: Any) -> list[tuple[Any, int]]:
    """Each tokenizer, and how many tokens its encoder reads, the signs at both ends counted."""
    found = []
    for encoder, name in ENCODERS.items():
        reads, tokenizer = getattr(pipeline, encoder, None), getattr(pipeline, name, None)
        if reads is not None and tokenizer is not None:
            most = getattr(reads.config, "max_position_embeddings", tokenizer.model_max_length)
            found.append((tokenizer, min(tokenizer.model_max_length, int(most))))
    return found
