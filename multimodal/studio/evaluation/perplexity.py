"""How well a causal model predicts samples, in nats, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from multimodal.backends.hf.prefix_cache import CACHE_ARGUMENT
from multimodal.studio.data.masks import IGNORED, TokenizedRow

if TYPE_CHECKING:
    from torch import Tensor, nn

LOGITS = 2**25
"""At most so many logits are computed at once: 128 MiB in fp32, whatever the vocabulary."""


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """`total`: sum of the negative log-likelihoods in nats of `tokens` tokens of one sample.
    The first token of a sample is not predicted and never counted."""

    total: float
    tokens: int


def sample_losses(
    model: Any, rows: Sequence[TokenizedRow], batch: int = 8, logits: int = LOGITS
) -> list[SampleLoss]:
    """The loss of each row over the tokens that `is_trained` marks, in the order of `rows`; `model`
    is a causal one of transformers, or PEFT's of one.

    Batches are of rows of like length, the longest first, padded on the right. A batch is read in
    pieces that continue in the attention cache, so that at most `logits` logits (and those of one
    position) exist at once. Logarithms are taken in fp32 and summed in fp64. Without dropout and
    gradients; every module's mode is restored.
    """
    order = sorted(range(len(rows)), key=lambda at: -len(rows[at].input_ids))
    losses: dict[int, SampleLoss] = {}
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            found = _batch_losses(model, [rows[at] for at in chosen], logits)
            losses.update(zip(chosen, found, strict=True))
    return [losses[at] for at in range(len(rows))]


def _batch_losses(model: Any, rows: Sequence[TokenizedRow], logits: int) -> list[SampleLoss]:
    tokens, labels, attended = (each.to(model.device) for each in _padded(rows))
    size, length = tokens.shape
    piece = max(1, logits // (size * model.config.get_text_config().vocab_size))
    totals = torch.zeros(size, dtype=torch.float64)
    cache = {CACHE_ARGUMENT: DynamicCache(config=model.config)} if piece < length else {}
    for start in range(0, length, piece):
        end = min(start + piece, length)
        output = model(
            input_ids=tokens[:, start:end],
            attention_mask=attended[:, :end],
            use_cache=bool(cache),
            **cache,
        )
        totals += row_losses(output.logits, labels[:, start:end])
    counts = (labels != IGNORED).sum(dim=1).tolist()
    return [SampleLoss(*pair) for pair in zip(totals.tolist(), counts, strict=True)]


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss of each row, in fp64 on the CPU. `logits`: (batch, positions, vocabulary);
    `labels`: (batch, positions), what comes after each position, or IGNORED."""
    each = functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return each.view(labels.shape).double().sum(dim=1).cpu()


def _padded(rows: Sequence[TokenizedRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels (what comes after each token) and attention mask, each (batch, length)."""
    length = max(1, max(len(row.input_ids) for row in rows))
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full_like(tokens, IGNORED)
    attended = torch.zeros_like(tokens)
    for at, row in enumerate(rows):
        size = len(row.input_ids)
        tokens[at, :size] = torch.tensor(row.input_ids, dtype=torch.long)
        attended[at, :size] = 1
        following = tokens[at, 1:size]
        is_trained = torch.tensor(row.is_trained[1:], dtype=torch.bool)
        labels[at, : max(0, size - 1)] = following.masked_fill(~is_trained, IGNORED)
    return tokens, labels, attended


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout, until the mode of every module is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
