"""Replies that are written in threads of their own, so that they outlive the page that asked.

A page only follows a `RunningReply`: it may be reloaded, or look at another conversation, and
come back. A reply is prepared before the message that it answers is read, which locks the
conversation for both; it ends when it is whole, when the person stops it, and when nobody has had
the page open for a while (`Presence`).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from multimodal.chats.locks import ConversationBusyError
from multimodal.chats.service import UNEXPECTED, Chat, Chats
from multimodal.errors import CapacityError, MultimodalError, RequestError
from multimodal.messages import Controls, Conversation
from multimodal.turn.draft import Draft

CLOSE_S = 10.0
MOST_OF_ONE, MOST_IN_ALL = 8, 64
"""Replies that are prepared or written at once, each in a thread of its own."""
MOST_WAITING = 8
"""Of one message that is sent again and again while it is read: the page does so once a minute."""

log = logging.getLogger(__name__)


@dataclass
class RunningReply:
    """One reply, from before the message that it answers is stored. `draft` is None until the
    engine's first event; `message` is the id that the message is to have, where that is known."""

    chat: Chat
    message: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    draft: Draft | None = None
    error: str | None = None
    is_started: bool = False
    is_done: bool = False
    version: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    thread: threading.Thread | None = None
    waiting: int = 0
    """How many wait for the message."""

    @property
    def owner(self) -> str:
        return self.chat.owner

    @property
    def conversation(self) -> str:
        return self.chat.id

    def wait(self, seen: int, timeout_s: float, is_wanted: Callable[[], bool]) -> int:
        """Wait until there is a version newer than `seen`, or `is_wanted` is False and `wake` was
        called; return the newest version."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.version > seen or self.is_done or not is_wanted(), timeout_s
            )
            return self.version

    def wait_for_message(self) -> None:
        """Wait until the message that it answers is stored, or refused. Each that waits holds a
        thread, so ConversationBusyError is raised where some do already."""
        with self.changed:
            if self.waiting >= MOST_WAITING:
                raise ConversationBusyError
            self.waiting += 1
            try:
                self.changed.wait_for(lambda: self.is_started or self.is_done)
            finally:
                self.waiting -= 1

    def wake(self) -> None:
        """Let those who wait look whether they still want to."""
        with self.changed:
            self.changed.notify_all()

    def mark_started(self) -> None:
        with self.changed:
            self.is_started = True
            self.changed.notify_all()

    def set_draft(self, draft: Draft) -> None:
        with self.changed:
            self.draft = draft
            self.version += 1
            self.changed.notify_all()

    def end(self, error: str | None = None) -> None:
        with self.changed:
            self.error, self.is_done = error, True
            self.version += 1
            self.changed.notify_all()


class ReplyRunner:
    """Prepares and starts replies, at most one a conversation, and knows them all. Thread-safe."""

    def __init__(self, chats: Chats) -> None:
        self._chats = chats
        self._running: dict[str, RunningReply] = {}
        self._lock = threading.Lock()

    def prepare(self, owner: str, conversation: str, message: str = "") -> RunningReply:
        """Lock a conversation for a change and the reply to it; `start` or `discard` it then.

        Raises ConversationBusyError, RequestError where the owner has too many replies under way,
        and CapacityError where everybody together has.
        """
        with self._lock:
            if conversation in self._running:
                raise ConversationBusyError
            self._check_places(owner)
            chat = self._chats.open(owner, conversation).locked()
            reply = RunningReply(chat, message)
            self._running[conversation] = reply
        return reply

    def start(self, reply: RunningReply, controls: Controls | None = None) -> None:
        """Answer the newest message of its conversation. What fails later is in
        `RunningReply.error`, or in the reply's outcome."""
        reply.thread = threading.Thread(
            target=self._run,
            args=(reply, controls),
            name=f"reply {reply.conversation}",
            daemon=True,
        )
        reply.mark_started()
        reply.thread.start()

    def discard(self, reply: RunningReply) -> None:
        """Give the conversation back; nothing is to be answered."""
        self._finish(reply, None)

    def get(self, conversation: str) -> RunningReply | None:
        with self._lock:
            return self._running.get(conversation)

    def load_with_reply(
        self, owner: str, conversation: str
    ) -> tuple[Conversation, RunningReply | None]:
        """A conversation as it is stored, and the reply under way in it: what is in neither was
        never said. Raises the errors of `Store.load`."""
        while True:
            reply = self.get(conversation)
            stored = self._chats.open(owner, conversation).load()
            # One that began while the store was read answers what may not have been read.
            if reply is not None or self.get(conversation) is None:
                return stored, reply

    def replies_of(self, owner: str) -> list[RunningReply]:
        """Those of one owner."""
        with self._lock:
            return [reply for reply in self._running.values() if reply.owner == owner]

    def abandon(self, owner: str) -> None:
        """Stop every reply of an owner who no longer waits for it."""
        for reply in self.replies_of(owner):
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

    def _check_places(self, owner: str) -> None:
        of_one = Counter(reply.owner for reply in self._running.values())[owner]
        if of_one >= MOST_OF_ONE:
            raise RequestError(
                f"{of_one} of your chats are being answered. Wait for one of them, or stop it."
            )
        if len(self._running) >= MOST_IN_ALL:
            raise CapacityError(
                "Too many chats are being answered at the moment. Send it again in a moment."
            )

    def _run(self, reply: RunningReply, controls: Controls | None) -> None:
        error = None
        try:
            with closing(reply.chat.answer(reply.stop, controls)) as drafts:
                for draft in drafts:
                    reply.set_draft(draft)
        except MultimodalError as fault:
            error = str(fault)
        except Exception:
            log.exception("a reply could not be kept")
            error = UNEXPECTED
        finally:
            self._finish(reply, error)

    def _finish(self, reply: RunningReply, error: str | None) -> None:
        with self._lock:
            self._running.pop(reply.conversation, None)
            reply.chat.release()
        reply.end(error)
