"""The fixed text that shows what a model forgot of everything else: plain English, some French and
some code (forgetting.txt beside this file, written for it), one piece between two empty lines."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from multimodal.studio.data.masks import TokenizedRow
from multimodal.studio.evaluation.perplexity import SampleLoss, sample_losses

MAX_LENGTH = 256
"""Tokens that are read at once; a longer piece is read in several."""


@cache
def plain_text() -> tuple[str, ...]:
    """The pieces of the fixed text."""
    text = files("multimodal.studio.evaluation").joinpath("forgetting.txt").read_text("utf-8")
    return tuple(piece.strip("\n") for piece in text.split("\n\n"))


def plain_text_bytes() -> int:
    return sum(len(piece.encode()) for piece in plain_text())


def forgetting_losses(model: Any, tokenizer: Any, batch: int = 8) -> list[SampleLoss]:
    """The loss of each window of the fixed text, always the same ones for one tokenizer."""
    window = min(MAX_LENGTH, getattr(model.config, "max_position_embeddings", MAX_LENGTH))
    windows = [
        ids[start : start + window]
        for ids in tokenizer(list(plain_text()), verbose=False)["input_ids"]
        for start in range(0, len(ids), window)
    ]
    rows = [TokenizedRow(ids, [True] * len(ids), is_cut=False) for ids in windows]
    return sample_losses(model, rows, batch)
