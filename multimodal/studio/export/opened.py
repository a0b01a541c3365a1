"""An export that was loaded back, whatever the program that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Some tokens that may come next, and `log_probabilities` of them, in nats, of shape
    (tokens,)."""

    tokens: torch.Tensor
    log_probabilities: torch.Tensor


class OpenedModel(Protocol):
    """Token ids in, token ids out. Every method may raise BackendError."""

    @property
    def near_tie(self) -> float:
        """In nats: between two tokens that the source holds for so nearly as likely, the order in
        which this engine adds up numbers may choose."""

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The `count` most likely tokens that follow, whatever would end them."""

    def log_probabilities(self, tokens: Sequence[int]) -> list[Prediction]:
        """What follows at each position of `tokens`: the most likely next tokens, or all."""

    def tokenize(self, text: str) -> list[int]:
        """With what the tokenizer puts before a text; control tokens in it count as such."""

    def render(self, messages: Messages) -> str | None:
        """A conversation up to where the answer begins; None where there is no chat template.
        Raises RequestError where the template refuses it."""

    def end_ids(self) -> set[int]:
        """The tokens that the export says an answer ends with."""

    def ends_with(self, token: int) -> bool:
        """Whether an answer ends with that token."""

    def is_tied(self) -> bool | None:
        """Whether the output layer is the embedding itself, in the file and in memory; None for a
        format that knows no such tie."""

    def close(self) -> None: ...
