"""What the chat pane's actions do, without its layout: one `ChatController` serves every person.

The owner of a conversation is kept on the server (`TabSession`, in a gr.State), never taken from
an action. What a tab shows goes to it as frames: plain values, a whole transcript when it opens a
conversation, only the growing message while an answer is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from multimodal.build import Program
from multimodal.cards import AUTO
from multimodal.chats import Chats, Draft
from multimodal.errors import (
    ConversationNotFoundError,
    MediaError,
    MultimodalError,
    RequestError,
)
from multimodal.messages import Controls, TextPart
from multimodal.web.actions import (
    Action,
    CheckUploads,
    Edit,
    Retry,
    Send,
    SendExample,
    Stop,
    Sync,
    TakeBack,
    nonce_of,
    read_action,
)
from multimodal.web.alternatives import alternatives
from multimodal.web.attachments import Attachments
from multimodal.web.chat_list import ChatList
from multimodal.web.chat_pane import ExampleMessage, draft_scope
from multimodal.web.deletions import UNDO_S
from multimodal.web.media_addresses import MediaAddresses
from multimodal.web.presence import Presence
from multimodal.web.replies import ReplyRunner, RunningReply
from multimodal.web.tab_session import TabSession
from multimodal.web.transcript import Transcript

Frame = dict[str, Any]
FRAME_EVERY_S = 0.07
"""The browser redraws on every frame; faster than this nobody can read."""


class ChatController:
    def __init__(
        self,
        program: Program,
        secret: str,
        examples: Sequence[ExampleMessage] = (),
        grace_s: float = 0.0,
        undo_s: float = UNDO_S,
    ) -> None:
        self.program = program
        self.examples = tuple(examples)
        self.chats = Chats(program.store, program.media, program.assistant)
        self.replies = ReplyRunner(self.chats)
        self.addresses = MediaAddresses(program.media, secret)
        self.transcript = Transcript(program.catalog, program.media, self.addresses)
        uploads = program.settings.page_cache
        self.attachments = Attachments(program.media, self.addresses, uploads)
        self.presence = Presence(grace_s, self.replies.abandon)
        self.list = ChatList(program, self.replies, undo_s)

    # ------------------------------------------------------------ looking

    def open(self, session: TabSession, conversation: str) -> Frame:
        """Look at another conversation; "" is a new one. One that was deleted counts as new.

        Raises StoreError where it cannot be read; the tab then looks at what it did before.
        """
        before, session.conversation = session.conversation, conversation
        try:
            return self.show(session)
        except ConversationNotFoundError:
            session.conversation = ""
            return self.show(session)
        except BaseException:
            session.conversation = before
            raise

    def show(self, session: TabSession) -> Frame:
        """The whole conversation that the tab looks at, as it is now."""
        session.epoch += 1
        session.is_busy = False
        frame = self._frame(session, is_whole=True)
        if not session.conversation:
            return frame | {"messages": []}
        self.list.check_kept(session)
        conversation, reply = self.replies.read(session.owner, session.conversation)
        if reply is None:
            redo = alternatives(self.program, conversation)
            return frame | {"messages": self.transcript.conversation(conversation, redo)}
        session.is_busy, draft = True, reply.draft
        messages = [
            self.transcript.message(message, conversation)
            for message in conversation.messages
            if message.role == "user" or message.outcome is not None
            if draft is None or message.id != draft.reply.id
        ]
        if draft is not None:
            messages.append(self.transcript.growing(draft))
        return frame | {"messages": messages, "busy": True}

    def controls(self, session: TabSession) -> Controls:
        if not session.conversation:
            return Controls()
        return self.chats.store.load(session.owner, session.conversation).controls

    def is_busy(self, session: TabSession) -> bool:
        return self.replies.get(session.conversation) is not None

    def follow(self, session: TabSession) -> Iterator[Frame]:
        """Frames of the reply under way in the conversation that the tab looks at, until it ends or
        the tab looks elsewhere. A newer call takes over from an older one."""
        session.follower += 1
        token, conversation = session.follower, session.conversation
        reply = self.replies.get(conversation)
        if reply is None:
            if session.is_busy:  # it ended before this began
                yield self.open(session, session.conversation)
            return
        seen = -1

        def is_ours() -> bool:
            return session.follower == token and session.conversation == conversation

        while not reply.is_done and is_ours():
            newest = reply.wait(seen, timeout_s=1.0)
            if newest > seen and not reply.is_done and reply.draft is not None and is_ours():
                yield self._growing(session, reply.draft)
                time.sleep(FRAME_EVERY_S)
            seen = newest
        if is_ours():
            yield self._ended(session, reply)

    def _growing(self, session: TabSession, draft: Draft) -> Frame:
        """The message that grows, and the question it answers: hearing and looking give that
        words."""
        asked = draft.conversation.messages[-1]
        messages = [
            self.transcript.message(asked, draft.conversation),
            self.transcript.growing(draft),
        ]
        return self._frame(session) | {"messages": messages, "busy": True}

    def _ended(self, session: TabSession, reply: RunningReply) -> Frame:
        if reply.error is not None:
            session.receipts.append({"nonce": f"reply-{session.version}", "error": reply.error})
        return self.open(session, session.conversation)

    def _frame(self, session: TabSession, is_whole: bool = False) -> Frame:
        session.version += 1
        return {
            "chat": session.conversation,
            "epoch": session.epoch,
            "version": session.version,
            "whole": is_whole,
            "busy": False,
            "scope": draft_scope(session.owner),
            "receipts": list(session.receipts),
        }

    # ------------------------------------------------------------ acting

    def act(self, session: TabSession, data: object, controls: Controls) -> Frame:
        """Do what the pane asks, and show what came of it. What is refused is answered with a
        receipt that says why, so that the pane can give back what was typed."""
        receipt: dict[str, Any] = {"nonce": nonce_of(data)}
        try:
            receipt |= self._act(session, read_action(data), controls)
        except MultimodalError as error:
            receipt["error"] = str(error)
        session.receipts.append(receipt)
        try:
            return self.open(session, session.conversation)
        except MultimodalError as error:
            receipt["error"] = str(error)
            return self._frame(session) | {"messages": []}

    def _act(self, session: TabSession, action: Action, controls: Controls) -> dict[str, Any]:
        self.list.check_kept(session)
        match action:
            case Send():
                self.send(session, action, controls)
            case SendExample():
                self.send_example(session, action, controls)
            case Retry():
                self.retry(session, action, controls)
            case Edit():
                self.edit(session, action)
            case TakeBack():
                return self.take_back(session)
            case CheckUploads():
                return {"missing": self.attachments.missing(action.paths)}
            case Stop():
                self.stop(session)
            case Sync():
                pass
        return {}

    def send_example(self, session: TabSession, action: SendExample, controls: Controls) -> None:
        if action.index >= len(self.examples):
            raise RequestError("There is no such example. Reload the page.")
        text, paths = self.examples[action.index]
        self.say(session, text, [(path, path.name) for path in paths], controls)

    def send(self, session: TabSession, action: Send, controls: Controls) -> None:
        """Store what the person says, in a new conversation if none is open, and begin to answer.

        Raises the errors of `Chats.say`, and RequestError for a file that is not the session's."""
        if action.chat != session.conversation:
            raise RequestError("Another conversation was opened meanwhile. Send it again here.")
        files = [self.attachments.find(file) for file in action.files]
        self.say(session, action.text, files, controls)

    def say(
        self,
        session: TabSession,
        text: str,
        files: Sequence[tuple[Path, str]],
        controls: Controls,
    ) -> None:
        if not session.owner:
            raise RequestError("The page is still loading. Send it again in a moment.")
        self._check_idle(session)
        self._check_model(controls)
        begun = session.conversation or self.chats.store.create(session.owner, controls)
        self.chats.say(session.owner, begun, text, files)
        self.chats.store.set_controls(session.owner, begun, controls)
        session.conversation = begun
        self.replies.start(session.owner, begun)

    def retry(self, session: TabSession, action: Retry, controls: Controls) -> None:
        """Answer a message again: with the controls as they are now, or with another model as they
        were."""
        self._check_idle(session)
        if action.model is not None:
            controls = replace(self.controls(session), model=action.model)
        self._check_model(controls)
        if action.model is None:
            self.chats.store.set_controls(session.owner, session.conversation, controls)
        self.chats.forget_reply(session.owner, session.conversation, action.message)
        self.replies.start(session.owner, session.conversation, controls)

    def edit(self, session: TabSession, action: Edit) -> None:
        self._check_idle(session)
        self._check_model(self.controls(session))
        self.chats.edit(session.owner, session.conversation, action.message, action.text)
        self.replies.start(session.owner, session.conversation)

    def take_back(self, session: TabSession) -> dict[str, Any]:
        """Take the newest turn back; return its words, and those of its files that are still
        there, for the message box."""
        self._check_idle(session)
        message = self.chats.take_back(session.owner, session.conversation)
        if message is None:
            return {"text": "", "files": []}
        files = []
        for part in message.parts:
            if isinstance(part, TextPart):
                continue
            with suppress(MediaError):
                files.append(self.attachments.kept(part))
        return {"text": message.text, "files": files}

    def stop(self, session: TabSession) -> None:
        """Stop the reply that the tab looks at."""
        reply = self.replies.get(session.conversation)
        if reply is not None and reply.owner == session.owner:
            reply.stop.set()

    def close(self) -> None:
        self.list.close()
        self.replies.close()

    # ------------------------------------------------------------ inside

    def _check_model(self, controls: Controls) -> None:
        """Raises UnknownModelError for a model of another profile, which would be fetched."""
        if controls.model != AUTO:
            self.program.card(controls.model)

    def _check_idle(self, session: TabSession) -> None:
        if self.is_busy(session):
            raise RequestError("This conversation is still being answered. Wait, or press stop.")
