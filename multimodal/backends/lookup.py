"""Guesses of what a reply says next: where it repeats what was said, the words that followed there.

Prompt lookup decoding (A. Saxena, 2023). The model checks all guesses in one pass and keeps those
that it would have said itself, so nothing but the time changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SHORTEST = 2
"""So many tokens must be the same before what followed them is guessed again."""
MOST = 10
"""Guesses at a time. More cost little on a CPU, and win little."""


class Lookup:
    """The conversation and the reply so far."""

    def __init__(self, tokens: Iterable[int]) -> None:
        self._tokens: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}
        self.said(tokens)

    def said(self, tokens: Iterable[int]) -> None:
        """`tokens` were said next."""
        for token in tokens:
            if len(self._tokens) >= SHORTEST:
                self._follows[tuple(self._tokens[-SHORTEST:])] = len(self._tokens)
            self._tokens.append(token)

    def guesses(self, room: int) -> Sequence[int]:
        """What may come next, at most `room` tokens; nothing where nothing was repeated."""
        at = self._follows.get(tuple(self._tokens[-SHORTEST:]))
        return [] if at is None else self._tokens[at : at + min(MOST, max(room, 0))]
