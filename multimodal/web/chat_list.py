"""The list of chats of a person: its component, what it shows, and deleting with undo.

The component is one of our own, made with `gr.HTML` like the chat pane. The server gives it rows;
it answers with three events that name a conversation: `select` opens it, `delete` deletes it and
`undo` brings it back; a fourth, `expand`, asks for older ones. Its value goes out only, never in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from multimodal.build import Program
from multimodal.errors import ConversationNotFoundError, MultimodalError
from multimodal.web.replies import ReplyRunner
from multimodal.web.tab_session import TabSession

HERE = Path(__file__).parent
PAGE = 200
"""Chats that the list shows at first, and with each press more."""
UNDO_S = 10.0
LATE_S = 2.0
"""An undo that was pressed in the last moment is still on its way."""
EMPTY: dict[str, Any] = {"stamp": 0, "current": "", "rows": [], "has_older": False}
TEMPLATE = """<nav class="list" aria-labelledby="list-name">
  <h2 id="list-name" class="unseen">Chats</h2>
  <div class="groups"></div>
  <p class="unseen status" role="status"></p>
</nav>"""

log = logging.getLogger(__name__)


def conversation_list() -> gr.HTML:
    """The component, inside the Blocks that is open."""
    return gr.HTML(
        EMPTY,
        elem_id="conversations",
        html_template=TEMPLATE,
        js_on_load=(HERE / "conversation_list.js").read_text("utf-8"),
        apply_default_css=False,
    )


@dataclass(frozen=True, slots=True)
class Deletion:
    owner: str
    timer: threading.Timer
    ends_s: float
    """By the monotonic clock."""


class Deletions:
    """Calls `delete` with an owner and a conversation once the time to undo is over, or when this
    is closed. Until then the conversation is whole in the store, so a crash loses nothing.
    Thread-safe."""

    def __init__(self, delete: Callable[[str, str], None], undo_s: float = UNDO_S) -> None:
        self._delete = delete
        self._undo_s = undo_s
        self._pending: dict[str, Deletion] = {}
        self._lock = threading.Lock()

    def begin(self, owner: str, conversation: str) -> None:
        timer = threading.Timer(self._undo_s + LATE_S, self._finish, [conversation])
        timer.daemon = True
        with self._lock:
            if conversation in self._pending:
                return
            ends_s = time.monotonic() + self._undo_s
            self._pending[conversation] = Deletion(owner, timer, ends_s)
        timer.start()

    def undo(self, owner: str, conversation: str) -> bool:
        """Whether it was not too late."""
        with self._lock:
            if not self._is_pending(owner, conversation):
                return False
            self._pending.pop(conversation).timer.cancel()
        return True

    def left_s(self, owner: str, conversation: str) -> float | None:
        """For how long an undo is offered; None for a conversation that nobody deleted."""
        with self._lock:
            if not self._is_pending(owner, conversation):
                return None
            return max(0.0, self._pending[conversation].ends_s - time.monotonic())

    def close(self) -> None:
        """Delete at once what waits."""
        with self._lock:
            waiting = list(self._pending)
        for conversation in waiting:
            self._finish(conversation)

    def _is_pending(self, owner: str, conversation: str) -> bool:
        found = self._pending.get(conversation)
        return found is not None and found.owner == owner

    def _finish(self, conversation: str) -> None:
        with self._lock:
            deletion = self._pending.pop(conversation, None)
        if deletion is None:
            return
        deletion.timer.cancel()
        try:
            self._delete(deletion.owner, conversation)
        except MultimodalError as error:
            log.warning("a conversation could not be deleted: %s", error)


class ChatList:
    """Serves every person; a chat that was deleted a moment ago is in the list, and in no tab."""

    def __init__(self, program: Program, replies: ReplyRunner, undo_s: float) -> None:
        self.deletions = Deletions(self._delete, undo_s)
        self._program = program
        self._store = program.store
        self._replies = replies
        self._listing = threading.Lock()
        self._stamp = 0

    def frame(self, session: TabSession) -> dict[str, Any]:
        """The newest chats, as many as the tab asked for; `undo_s` is for how long a deleted one
        may still be had back. Of two frames the one with the greater `stamp` is the newer."""
        with self._listing:
            most = PAGE * session.pages
            headings = self._store.headings(session.owner, most + 1)
            self._stamp = max(self._stamp + 1, time.time_ns() // 1000)
            rows = [
                {
                    "id": row.id,
                    "title": row.title,
                    "updated": row.updated_at.isoformat(),
                    "undo_s": self.deletions.left_s(session.owner, row.id),
                }
                for row in headings[:most]
            ]
            return {
                "stamp": self._stamp,
                "current": session.conversation,
                "rows": rows,
                "has_older": len(headings) > most,
            }

    def show_older(self, session: TabSession) -> dict[str, Any]:
        """The list with one page more, from now on."""
        with session.lock:
            session.pages += 1
        return self.frame(session)

    def delete(self, session: TabSession, conversation: str) -> bool:
        """Delete a chat of the list; for a while it can be restored. Its reply is stopped now.

        Returns whether the tab looked at it; it then looks at a new one. Raises
        ConversationNotFoundError.
        """
        self._store.load(session.owner, conversation)  # it is the owner's
        self.deletions.begin(session.owner, conversation)
        self._replies.stop(conversation)
        if session.conversation != conversation:
            return False
        session.conversation, session.left = "", conversation
        return True

    def restore(self, session: TabSession, conversation: str) -> bool:
        """Undo a deletion; returns whether the tab left the chat for it and may go back.

        Raises ConversationNotFoundError when it is too late.
        """
        if not self.deletions.undo(session.owner, conversation):
            raise ConversationNotFoundError("That chat is deleted for good by now.")
        return not session.conversation and session.left == conversation

    def close(self) -> None:
        self.deletions.close()

    def check_kept(self, owner: str, conversation: str) -> None:
        """Raises ConversationNotFoundError for a chat that was deleted, in this tab or another."""
        if self.deletions.left_s(owner, conversation) is not None:
            raise ConversationNotFoundError(
                "This chat was deleted. Undo that in the list, or send it again in a new chat."
            )

    def _delete(self, owner: str, conversation: str) -> None:
        self._replies.stop(conversation, wait_s=5.0)
        self._store.delete(owner, conversation)
        self._program.sweep()
