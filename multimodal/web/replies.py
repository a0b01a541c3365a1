"""Replies that are written in threads of their own, so that they outlive the page that asked.

A page only follows a `RunningReply`: it may be reloaded, or look at another conversation, and
come back. A reply ends when it is whole, when the person stops it, and when nobody has had the
page open for a while (`Presence`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from multimodal.chats import Chats, Draft
from multimodal.errors import MultimodalError, RequestError
from multimodal.messages import Controls, Conversation

CLOSE_S = 10.0


@dataclass
class RunningReply:
    """One reply under way. `draft` is None until the engine's first event."""

    owner: str
    conversation: str
    stop: threading.Event = field(default_factory=threading.Event)
    draft: Draft | None = None
    error: str | None = None
    is_done: bool = False
    version: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    thread: threading.Thread | None = None

    def wait(self, seen: int, timeout_s: float) -> int:
        """Wait until there is a version newer than `seen`; return the newest."""
        with self.changed:
            self.changed.wait_for(lambda: self.version > seen or self.is_done, timeout_s)
            return self.version

    def advance(self, draft: Draft) -> None:
        with self.changed:
            self.draft = draft
            self.version += 1
            self.changed.notify_all()

    def end(self, error: str | None) -> None:
        with self.changed:
            self.error, self.is_done = error, True
            self.version += 1
            self.changed.notify_all()


class ReplyRunner:
    """Starts replies, at most one a conversation, and knows those under way. Thread-safe."""

    def __init__(self, chats: Chats) -> None:
        self._chats = chats
        self._running: dict[str, RunningReply] = {}
        self._lock = threading.Lock()

    def start(
        self, owner: str, conversation: str, controls: Controls | None = None
    ) -> RunningReply:
        """Answer the newest message of a conversation. Raises RequestError where that is already
        under way; what fails later is in `RunningReply.error`, or in the reply's outcome."""
        reply = RunningReply(owner, conversation)
        with self._lock:
            if conversation in self._running or self._chats.is_busy(conversation):
                raise RequestError(
                    "This conversation is still being answered. Wait, or press stop."
                )
            self._running[conversation] = reply
        reply.thread = threading.Thread(
            target=self._run, args=(reply, controls), name=f"reply {conversation}", daemon=True
        )
        reply.thread.start()
        return reply

    def get(self, conversation: str) -> RunningReply | None:
        with self._lock:
            return self._running.get(conversation)

    def read(self, owner: str, conversation: str) -> tuple[Conversation, RunningReply | None]:
        """A conversation as it is stored, and the reply under way in it: what is in neither was
        never said. Raises the errors of `Store.load`."""
        while True:
            reply = self.get(conversation)
            stored = self._chats.store.load(owner, conversation)
            # One that began while the store was read answers what may not have been read.
            if reply is not None or self.get(conversation) is None:
                return stored, reply

    def abandon(self, owner: str) -> None:
        """Stop every reply of an owner who no longer waits for it."""
        for reply in self._all():
            if reply.owner == owner:
                reply.stop.set()

    def stop(self, conversation: str, wait_s: float = 0.0) -> None:
        """Stop the reply of a conversation, and wait at most `wait_s` for its end."""
        if (reply := self.get(conversation)) is None:
            return
        reply.stop.set()
        if wait_s and reply.thread is not None:
            reply.thread.join(wait_s)

    def close(self) -> None:
        """Stop every reply and wait for its end, so that the store may be closed."""
        for reply in self._all():
            reply.stop.set()
        for reply in self._all():
            if reply.thread is not None:
                reply.thread.join(CLOSE_S)

    def _all(self) -> Iterator[RunningReply]:
        with self._lock:
            return iter(tuple(self._running.values()))

    def _run(self, reply: RunningReply, controls: Controls | None) -> None:
        error = None
        try:
            drafts = self._chats.answer(reply.owner, reply.conversation, reply.stop, controls)
            with closing(drafts):
                for draft in drafts:
                    reply.advance(draft)
        except MultimodalError as fault:
            error = str(fault)
        finally:
            with self._lock:
                self._running.pop(reply.conversation, None)
            reply.end(error)
