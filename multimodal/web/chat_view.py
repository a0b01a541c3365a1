"""What a tab of the page looks at, as frames: plain values, a whole transcript where it opens a
conversation, only what grows while an answer is written.

Events of one tab are served at once, and reading a conversation takes time. So each frame names
its conversation and is given its version where it is ready: of two frames, the one with the greater
version is never the older.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from multimodal.build import Program
from multimodal.errors import ConversationNotFoundError, MultimodalError
from multimodal.messages import Conversation, Route, Task
from multimodal.web.chat_list import ChatList
from multimodal.web.chat_pane import draft_storage_key
from multimodal.web.replies import ReplyRunner, RunningReply
from multimodal.web.tab_session import TabSession
from multimodal.web.transcript import Transcript

Frame = dict[str, Any]
FRAME_EVERY_S = 0.07
"""The browser redraws on every frame; faster than this nobody can read."""
MAX_ALTERNATIVES = 4
QUESTION_AGAIN_S = 1.0
"""A browser may see only the last of two frames, so what changed is told once more, later."""


class ChatView:
    """Serves every person."""

    def __init__(
        self, program: Program, replies: ReplyRunner, transcript: Transcript, chats: ChatList
    ) -> None:
        self._program = program
        self._replies = replies
        self._transcript = transcript
        self._list = chats

    def open(self, session: TabSession, conversation: str, pressed: float | None = None) -> Frame:
        """Look at another conversation; "" is a new one. One that was deleted counts as new.

        `pressed` is when it was chosen: where another was chosen later, that is shown, since two
        that come close together arrive in any order. Raises StoreError where it cannot be read; the
        tab then looks at what it did before.
        """
        before = session.conversation
        with session.lock:
            if pressed is None or pressed >= session.pressed:
                session.pressed = session.pressed if pressed is None else pressed
                before, session.conversation = session.conversation, conversation
        try:
            return self.show(session)
        except BaseException:
            session.switch(conversation, before)
            raise

    def show(self, session: TabSession) -> Frame:
        """The whole conversation that the tab looks at, as it is now. Raises StoreError."""
        while True:
            chat = session.conversation
            try:
                shown = self._whole(session, chat)
            except ConversationNotFoundError:
                session.switch(chat, "")
                continue
            with session.lock:
                if session.conversation == chat:  # else the person has gone on meanwhile
                    session.epoch += 1
                    session.is_busy = shown["busy"]
                    return self._frame(session, chat) | {"whole": True} | shown

    def refresh(self, session: TabSession) -> Frame:
        """The same; where it cannot be read, a frame that says so and changes nothing else."""
        try:
            return self.show(session)
        except MultimodalError as error:
            session.add_error(str(error))
            with session.lock:
                return self._frame(session, session.conversation) | {"busy": session.is_busy}

    def follow(self, session: TabSession) -> Iterator[Frame]:
        """Frames of the reply under way in the conversation that the tab looks at, until it ends or
        the tab looks elsewhere. A newer call takes over from an older one."""
        with session.lock:
            session.follower += 1
            token, chat = session.follower, session.conversation
        for running in self._replies.replies_of(session.owner):
            running.wake()  # an older call that waits for it
        reply = self._replies.get(chat)
        if reply is None:
            if session.is_busy:  # it ended before this began
                yield self.refresh(session)
            return

        def is_ours() -> bool:
            return session.follower == token and session.conversation == chat

        told, seen = _Question(), -1
        while not reply.is_done and is_ours():
            newest = reply.wait(seen, 1.0, is_ours)
            if newest > seen and not reply.is_done:
                with session.lock:
                    frame = self._growing(session, chat, reply, told) if is_ours() else None
                if frame is not None:
                    yield frame
                    time.sleep(FRAME_EVERY_S)
            seen = newest
        if is_ours():
            if reply.error is not None:
                session.add_error(reply.error)
            yield self.refresh(session)

    def _whole(self, session: TabSession, chat: str) -> Frame:
        """The messages of a conversation, and whether it is being answered."""
        if not chat:
            return {"messages": [], "busy": False}
        self._list.check_kept(session.owner, chat)
        conversation, reply = self._replies.load_with_reply(session.owner, chat)
        if reply is None:
            redo = alternative_models(self._program, conversation)
            return {"messages": self._transcript.conversation(conversation, redo), "busy": False}
        draft = reply.draft
        messages = [
            self._transcript.message(message, conversation)
            for message in conversation.messages
            if message.role == "user" or message.outcome is not None
            if draft is None or message.id != draft.reply.id
        ]
        if draft is not None:
            messages.append(self._transcript.growing(draft))
        return {"messages": messages, "busy": True}

    def _growing(
        self, session: TabSession, chat: str, reply: RunningReply, told: _Question
    ) -> Frame | None:
        """The message that grows; where it changed, the question that it answers, too: hearing and
        looking give that words."""
        if (draft := reply.draft) is None:
            return None
        messages = [self._transcript.growing(draft)]
        question = self._transcript.message(draft.conversation.messages[-1], draft.conversation)
        if told.is_due(question):
            messages.insert(0, question)
        return self._frame(session, chat) | {"messages": messages, "busy": True}

    def _frame(self, session: TabSession, chat: str) -> Frame:
        session.version += 1
        return {
            "chat": chat,
            "epoch": session.epoch,
            "version": session.version,
            "whole": False,
            "busy": False,
            "scope": draft_storage_key(session.owner),
            "receipts": list(session.receipts),
            "messages": [],
        }


class _Question:
    """Which question a follower has told, and when."""

    def __init__(self) -> None:
        self._shown: dict[str, Any] | None = None
        self._again_s = float("inf")

    def is_due(self, shown: dict[str, Any]) -> bool:
        now_s = time.monotonic()
        if shown != self._shown:
            self._shown, self._again_s = shown, now_s + QUESTION_AGAIN_S
            return True
        if now_s < self._again_s:
            return False
        self._again_s = float("inf")
        return True


def alternative_models(program: Program, conversation: Conversation) -> list[str]:
    """Which models could answer the newest message instead of those that did: the names of the
    cards worth offering, those that answer by themselves first; the model menu has all. A model is
    only offered where its answer could be of the same kind."""
    last = conversation.messages[-1] if conversation.messages else None
    if last is None or last.outcome is None or not last.outcome.routes:
        return []
    routes = last.outcome.routes
    used = {step.card for route in routes for step in route.steps[-1:]}
    tasks = _tasks(routes)
    able = [card.name for card in program.cards if card.task in tasks and card.name not in used]
    usual = program.defaults.names
    return sorted(able, key=lambda name: name not in usual)[:MAX_ALTERNATIVES]


def _tasks(routes: tuple[Route, ...]) -> set[Task]:
    """What a model would have to do to give another answer."""
    steps = [step for route in routes for step in route.steps]
    if not steps:
        return set()
    if routes[-1].answer is not None:  # the words of a recording are the answer
        return {Task.SPEECH} if steps[-1].task is Task.SPEECH else set()
    if steps[-1].task in {Task.DRAW, Task.SPEECH}:
        return {steps[-1].task}
    has_looked = any(step.task is Task.IMAGE for step in steps)
    return {Task.TEXT, Task.IMAGE} if has_looked else {Task.TEXT}
