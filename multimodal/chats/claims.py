"""The exclusive right to change one conversation.

A claim is taken before work on a change begins (decoding takes seconds) and is held until the
reply that follows is stored, so that no two changes of a conversation ever overlap.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from multimodal.errors import RequestError


class ConversationBusyError(RequestError):
    """The conversation is being changed or answered."""

    def __init__(self) -> None:
        super().__init__("This conversation is still being answered. Wait, or press stop.")


@dataclass(frozen=True, eq=False)
class Claim:
    """Held until `release`, which may be called again and then does nothing."""

    conversation: str
    claims: Claims

    def release(self) -> None:
        self.claims.release(self)


class Claims:
    """At most one claim a conversation. Thread-safe; nothing here waits."""

    def __init__(self) -> None:
        self._held: dict[str, Claim] = {}
        self._lock = threading.Lock()

    def take(self, conversation: str) -> Claim:
        """Raises ConversationBusyError where somebody else holds it."""
        claim = Claim(conversation, self)
        with self._lock:
            if conversation in self._held:
                raise ConversationBusyError
            self._held[conversation] = claim
        return claim

    def release(self, claim: Claim) -> None:
        with self._lock:
            if self._held.get(claim.conversation) is claim:
                del self._held[claim.conversation]

    def is_held(self, conversation: str) -> bool:
        with self._lock:
            return conversation in self._held

    @contextmanager
    def holding(self, conversation: str, claim: Claim | None) -> Iterator[None]:
        """Hold the conversation for the block: by the caller's `claim`, which the caller releases,
        else by one of the block's own."""
        if claim is None:
            own = self.take(conversation)
            try:
                yield
            finally:
                own.release()
            return
        with self._lock:
            if self._held.get(conversation) is not claim:
                raise ConversationBusyError
        yield
