"""What the chat pane's actions do, without its layout: one `ChatController` serves every person.

The owner of a conversation is kept on the server (`TabSession`, in a gr.State), never taken from
an action. What a tab then sees is in `ChatView`.

An action names the conversation that it is for, and a message that is sent is stored under an id
made from its nonce: sent again, since nobody knows whether it arrived, it is stored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from multimodal.backends.speech.speakers import missing_voice_error
from multimodal.build import Program
from multimodal.catalog.cards import AUTO
from multimodal.chats.locks import ConversationBusyError
from multimodal.chats.service import Chats
from multimodal.errors import MediaError, MultimodalError, RequestError
from multimodal.messages import Controls, TextPart
from multimodal.web.actions import (
    Action,
    CheckUploads,
    ChooseVersion,
    Dictate,
    Edit,
    HandsFree,
    Rate,
    ReadAloud,
    Retry,
    Send,
    SendExample,
    SpokenTurn,
    Stop,
    Sync,
    TakeBack,
    nonce_of,
    read_action,
)
from multimodal.web.attachments import Attachments
from multimodal.web.chat_list import UNDO_S, ChatList
from multimodal.web.chat_pane import ExampleMessage
from multimodal.web.chat_view import ChatView, Frame
from multimodal.web.dictation import Dictation
from multimodal.web.hands_free import HandsFreeService
from multimodal.web.media_addresses import MediaAddresses
from multimodal.web.presence import Presence
from multimodal.web.reading_aloud import AnswerReader
from multimodal.web.replies import ReplyRunner, RunningReply
from multimodal.web.spoken_reply import SpokenReply, speaking_card, usual_language
from multimodal.web.tab_session import TabSession
from multimodal.web.transcript import Transcript

NAMELESS = "The page is still loading. Send it again in a moment."


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
        self.reader = AnswerReader(program)
        uploads = program.settings.page_cache
        self.attachments = Attachments(program.media, self.addresses, uploads)
        self.dictation = Dictation(program, self.attachments)
        self.talk = HandsFreeService(program)
        self.presence = Presence(grace_s, self.replies.abandon)
        self.list = ChatList(program, self.replies, undo_s)
        transcript = Transcript(program.catalog, program.media, self.addresses)
        self.view = ChatView(program, self.replies, transcript, self.list)

    def controls(self, session: TabSession, chat: str) -> Controls:
        """What was set for a conversation. Raises StoreError."""
        return self.chats.open(session.owner, chat).load().controls if chat else Controls()

    def close(self) -> None:
        self.list.close()
        self.dictation.close()
        self.talk.close()
        self.replies.close()

    # ------------------------------------------------------------ acting

    def act(
        self, session: TabSession, data: object, read_controls: Callable[[], Controls]
    ) -> Frame:
        """Do what the pane asks, and show what came of it. What is refused is answered with a
        receipt that says why, so that the pane can give back what was typed.

        `read_controls` may raise RequestError, too; it is called where the action needs them.
        """
        try:
            action = read_action(data)
            session.acknowledge(action.seen)
            receipt = self._act(session, action, read_controls)
        except MultimodalError as error:
            receipt = {"error": str(error)}
        session.add_receipt(nonce_of(data), receipt)
        return self.view.refresh(session)

    def _act(
        self, session: TabSession, action: Action, read_controls: Callable[[], Controls]
    ) -> dict[str, Any]:
        match action:
            case Send() | SendExample():
                chat = self.send(session, action, read_controls)
                spoken = action.spoken if isinstance(action, Send) else None
                return {"chat": chat, "sound": spoken and self._sound(session, chat, spoken)}
            case Retry():
                self.retry(session, action, read_controls)
            case Edit():
                self.edit(session, action)
            case ChooseVersion() | Rate():
                self.judge(session, action)
            case TakeBack():
                return self.take_back(session, action)
            case CheckUploads():
                return {"missing": self.attachments.missing(action.paths)}
            case ReadAloud() | Dictate() | HandsFree():
                return self._speech(session, action)
            case Stop():
                self.stop(session, action)
            case Sync():
                pass
        return {}

    def _speech(
        self, session: TabSession, action: ReadAloud | Dictate | HandsFree
    ) -> dict[str, Any]:
        match action:
            case ReadAloud():
                return self.reader.prepare(session.owner, action.chat, action.message)
            case Dictate():
                hearing = self.controls(session, action.chat).hearing
                return {"words": self.dictation.words(session, action.file, hearing)}
            case HandsFree():
                return self.talk.begin(session.owner, self.controls(session, action.chat))

    def send(
        self, session: TabSession, action: Send | SendExample, read_controls: Callable[[], Controls]
    ) -> str:
        """Store what the person says and begin to answer; return the conversation, which is begun
        where none is open. What is stored already, or on its way, is not stored again.

        Raises the errors of `Chat.say`, and RequestError for a file that is not the session's.
        """
        if not session.owner:
            raise RequestError(NAMELESS)
        chat = action.chat or _id(session.owner, "conversation", action.nonce)
        message = _id(session.owner, chat, action.nonce)
        reply = self._prepared(session.owner, chat, message)
        if reply is not None:
            with self._turn(reply):
                if not action.chat and session.conversation:
                    raise RequestError("Another conversation was opened meanwhile. Send it again.")
                self._say(reply, action, read_controls())
        session.switch(action.chat, chat)
        return chat

    def _prepared(self, owner: str, chat: str, message: str) -> RunningReply | None:
        """The reply to a message that is to be stored; None where it is stored already."""
        while True:
            try:
                reply = self.replies.prepare(owner, chat, message)
            except ConversationBusyError:
                other = self.replies.get(chat)
                if other is not None and other.message == message:
                    other.wait_for_message()
                if self.chats.open(owner, chat).has_message(message):
                    return None
                if other is None or other.message != message or other.is_started:
                    raise
            else:
                if not reply.chat.has_message(message):
                    return reply
                self.replies.discard(reply)
                return None

    @contextmanager
    def _turn(self, reply: RunningReply, controls: Controls | None = None) -> Iterator[None]:
        """The block changes the conversation, and the reply follows; on an error none does."""
        try:
            yield
            self.replies.start(reply, controls)
        except BaseException:
            self.replies.discard(reply)
            raise

    def _say(self, reply: RunningReply, action: Send | SendExample, controls: Controls) -> None:
        controls = self._offered(controls)
        text, files = self._words(action)
        if action.chat:
            self.list.check_kept(reply.owner, reply.conversation)
            reply.chat.set_controls(controls)
        begin_with = None if action.chat else controls
        reply.chat.say(text, files, reply.stop, reply.message, begin_with)

    def _words(self, action: Send | SendExample) -> tuple[str, list[tuple[Path, str]]]:
        if isinstance(action, Send):
            return action.text, [self.attachments.find(file) for file in action.files]
        if action.index >= len(self.examples):
            raise RequestError("There is no such example. Reload the page.")
        text, paths = self.examples[action.index]
        return text, [(path, path.name) for path in paths]

    def retry(
        self, session: TabSession, action: Retry, read_controls: Callable[[], Controls]
    ) -> None:
        """Answer a message again: with the controls as they are now, or with another model as they
        were. The answer there is stays beside the new one."""
        if action.model is None:
            controls = read_controls()
        else:
            controls = replace(self.controls(session, action.chat), model=action.model)
        controls = self._offered(controls)
        reply = self._changing(session, action.chat)
        with self._turn(reply, controls):
            if action.model is None:
                reply.chat.set_controls(controls)
            reply.chat.archive_reply(action.message)

    def judge(self, session: TabSession, action: ChooseVersion | Rate) -> None:
        """Choose among the answers to one question, or note what the person thinks of one."""
        self.list.check_kept(session.owner, action.chat)
        chat = self.chats.open(session.owner, action.chat)
        if isinstance(action, ChooseVersion):
            chat.choose_version(action.message)
        else:
            chat.rate(action.message, action.rating)

    def edit(self, session: TabSession, action: Edit) -> None:
        self._offered(self.controls(session, action.chat))
        reply = self._changing(session, action.chat)
        with self._turn(reply):
            reply.chat.edit(action.message, action.text)

    def take_back(self, session: TabSession, action: TakeBack) -> dict[str, Any]:
        """Take the newest turn back; return its words, and those of its files that are still
        there, for the message box."""
        self.list.check_kept(session.owner, action.chat)
        message = self.chats.open(session.owner, action.chat).take_back(action.message)
        files = []
        for part in message.parts if message else ():
            if isinstance(part, TextPart):
                continue
            with suppress(MediaError):
                files.append(self.attachments.describe(part))
        return {"text": message.text if message else "", "files": files}

    def stop(self, session: TabSession, action: Stop) -> None:
        """Stop the reply of the conversation that it was pressed under."""
        reply = self.replies.get(action.chat)
        if reply is not None and reply.owner == session.owner:
            reply.stop.set()

    # ------------------------------------------------------------ inside

    def _sound(self, session: TabSession, chat: str, spoken: SpokenTurn) -> dict[str, Any]:
        """The `address` where the newest answer is heard, while it is written or after that; or
        `why` nothing here speaks its language. Raises the errors of `Store.load`."""
        stored, under_way = self.replies.load_with_reply(session.owner, chat)
        reply = under_way or stored.messages[-1].text
        controls = stored.controls
        language = controls.speak_in or spoken.language or usual_language(self.program)
        if speaking_card(self.program, language, controls) is None:
            return {"address": "", "why": str(missing_voice_error(self.program.cards, language))}
        said = SpokenReply(self.program, reply, controls, language)
        said = self.talk.link_reply(spoken.address, session.owner, said)
        return {"address": self.reader.address(said.sentences)}

    def _changing(self, session: TabSession, chat: str) -> RunningReply:
        self.list.check_kept(session.owner, chat)
        return self.replies.prepare(session.owner, chat)

    def _offered(self, controls: Controls) -> Controls:
        """The same with the model as the profile offers it. Raises UnknownModelError for a model of
        another profile, which would be fetched."""
        if controls.model == AUTO:
            return controls
        return replace(controls, model=self.program.card(controls.model).name)


def _id(*of: str) -> str:
    """An id of a conversation or a message: the same for the same, and as hard to guess as what it
    is made from."""
    return hashlib.sha256("\0".join(of).encode()).hexdigest()[:32]
