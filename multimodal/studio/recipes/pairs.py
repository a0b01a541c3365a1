"""Pairs of a chosen and a rejected answer, as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal.studio.data.masks import TokenizedRow, tokenize_row
from multimodal.studio.evaluation.perplexity import SampleLoss, sample_losses


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """Of both the prompt and the answer; trained are the tokens of the answer."""

    chosen: TokenizedRow
    rejected: TokenizedRow

    @property
    def tokens(self) -> int:
        """Of the longer one."""
        return max(len(self.chosen.input_ids), len(self.rejected.input_ids))

    @property
    def is_cut(self) -> bool:
        return self.chosen.is_cut or self.rejected.is_cut

    @property
    def has_answers(self) -> bool:
        """Whether something is left of both answers."""
        return any(self.chosen.is_trained) and any(self.rejected.is_trained)


def tokenize_pair(row: Mapping[str, Any], tokenizer: Any, max_length: int) -> TokenizedPair:
    """Raises DataError."""
    chosen, rejected = (
        tokenize_row(
            {"prompt": row["prompt"], "completion": row[answer]}, tokenizer, max_length, "answers"
        )
        for answer in ("chosen", "rejected")
    )
    return TokenizedPair(chosen, rejected)


def log_probability(loss: SampleLoss) -> float:
    """Of one token of the answer, on average, in nats; otherwise the longer of two answers would
    be the less likely one whatever it says."""
    return -loss.total / loss.tokens


def margins(model: Any, pairs: Sequence[TokenizedPair]) -> list[float]:
    """How much more likely the chosen answer of each pair is than the rejected one, in nats a
    token."""
    rows = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    found = [log_probability(loss) for loss in sample_losses(model, rows)]
    chosen, rejected = found[: len(pairs)], found[len(pairs) :]
    return [one - other for one, other in zip(chosen, rejected, strict=True)]
