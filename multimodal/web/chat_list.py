"""The list of chats of a person: what it shows, and deleting with undo."""

from __future__ import annotations

import threading
import time
from typing import Any

from multimodal.build import Program
from multimodal.errors import ConversationNotFoundError
from multimodal.web.deletions import Deletions
from multimodal.web.replies import ReplyRunner
from multimodal.web.tab_session import TabSession

PAGE = 200
"""Chats that the list shows at first, and with each press more."""


class ChatList:
    """Serves every person; a chat that was deleted a moment ago is in the list, and in no tab."""

    def __init__(self, program: Program, replies: ReplyRunner, undo_s: float) -> None:
        self.deletions = Deletions(self._delete, undo_s)
        self._program = program
        self._store = program.store
        self._replies = replies
        self._listing = threading.Lock()
        self._stamp = 0

    def shown(self, session: TabSession) -> dict[str, Any]:
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
        return self.shown(session)

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
