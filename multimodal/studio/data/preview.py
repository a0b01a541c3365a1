"""Some samples as they are tokenised and trained, and what all of them come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from multimodal.studio.data.columns import Kind
from multimodal.studio.data.masks import (
    LossOn,
    TokenizedRow,
    tokenize_prompt,
    tokenize_row,
    tokenize_rows,
)
from multimodal.studio.data.packing import padding_shares
from multimodal.studio.data.prepare import PreparedData
from multimodal.studio.settings import JobSettings

MEASURED = 1000
"""Rows of which the totals are computed, so that a preview of many takes seconds."""


@dataclass(frozen=True, slots=True)
class SamplePreview:
    """`tokens`: each one's text, and whether it is trained; joined they are the sample as the chat
    template renders it, up to the cut. `title` tells the two answers of a pair apart, or says how
    an answer is rated."""

    tokens: list[tuple[str, bool]]
    length: int
    trained: int
    is_cut: bool
    title: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """`samples` and `test_samples` count rows. The tokens are those of the first `measured` rows
    to train with; shares are from 0 to 1."""

    kind: Kind
    shown: list[SamplePreview]
    samples: int
    test_samples: int
    measured: int
    tokens: int
    trained_tokens: int
    longest: int
    padding_before: float
    padding_after: float
    notices: list[str]


def preview(
    settings: JobSettings, prepared: PreparedData, tokenizer: Any, count: int = 5
) -> Preview:
    """`tokenizer`: transformers' own, of the model that is taught. Raises DataError that names the
    sample which cannot be trained, and ConfigurationError where TRL is not installed."""
    loss_on: LossOn = settings.loss_on
    measured = prepared.train[:MEASURED]
    shown = [
        _shown(title, _tokenized(row, tokenizer, settings.max_length, loss_on), tokenizer)
        for whole in measured[:count]
        for title, row in _parts(whole)
    ]
    lengths, trained, notices = _measured(measured, tokenizer, settings.max_length, loss_on)
    padding = padding_shares(lengths, settings.batch, settings.max_length)
    return Preview(
        kind=prepared.kind,
        shown=shown,
        samples=len(prepared.train),
        test_samples=len(prepared.test),
        measured=len(measured),
        tokens=sum(lengths),
        trained_tokens=trained,
        longest=max(lengths),
        padding_before=padding.before,
        padding_after=padding.after,
        notices=[*prepared.notices, *notices],
    )


def _parts(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What the model computes of one row: two samples of a pair, one of any other."""
    if "chosen" in row:
        for part in ("chosen", "rejected"):
            yield part, {"prompt": row["prompt"], "completion": row[part]}
    elif "label" in row:
        yield "good" if row["label"] else "bad", row
    else:
        yield "", row


def _tokenized(
    row: Mapping[str, Any], tokenizer: Any, max_length: int, loss_on: LossOn
) -> TokenizedRow:
    if not {"text", "messages", "completion"} & set(row):
        ids = tokenize_prompt(row["prompt"], tokenizer)
        kept = ids[:max_length]
        return TokenizedRow(kept, [False] * len(kept), len(ids) > max_length)
    return tokenize_row(row, tokenizer, max_length, loss_on)


def _measured(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int, loss_on: LossOn
) -> tuple[list[int], int, tuple[str, ...]]:
    """The length of each sample, the number of trained tokens, and the notices."""
    parts = [part for row in rows for _, part in _parts(row)]
    if not {"text", "messages", "completion"} & set(parts[0]):
        made = [_tokenized(part, tokenizer, max_length, loss_on) for part in parts]
        return [len(one.input_ids) for one in made], 0, ()
    all_rows = tokenize_rows(parts, tokenizer, max_length, loss_on)
    lengths = [len(one.input_ids) for one in all_rows.rows]
    return lengths, sum(sum(one.is_trained) for one in all_rows.rows), all_rows.notices


def _shown(title: str, row: TokenizedRow, tokenizer: Any) -> SamplePreview:
    return SamplePreview(
        list(token_texts(row, tokenizer)),
        len(row.input_ids),
        sum(row.is_trained),
        row.is_cut,
        title,
    )


def token_texts(row: TokenizedRow, tokenizer: Any) -> Iterator[tuple[str, bool]]:
    """The text of each token; tokens that are pieces of one character come together, and are
    trained if one of them is."""
    stream = DecodeStream(skip_special_tokens=False)
    pending: list[int] = []
    is_any_trained = False
    for token, is_trained in zip(row.input_ids, row.is_trained, strict=True):
        pending.append(token)
        is_any_trained |= is_trained
        text = stream.step(tokenizer.backend_tokenizer, token)
        if text is not None:
            yield text, is_any_trained
            pending, is_any_trained = [], False
    if pending:
        yield tokenizer.decode(pending), is_any_trained
