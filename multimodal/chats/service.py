"""Kept conversations: what a person says is stored, answered, redone, edited and taken back.

The page and the command line talk to this; it puts the store, the media folder and the assistant
together. A reply is written to the store when it begins, three times a second while it grows, and
when it ends, so that whatever happens the conversation can be opened again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from multimodal.backends.sampling import MAX_SEED
from multimodal.chats.locks import ConversationBusyError, ConversationLock, ConversationLocks
from multimodal.chats.store import Store
from multimodal.errors import ConversationNotFoundError, MultimodalError, PromptError, RequestError
from multimodal.media.ingestion import MediaFolder
from multimodal.messages import (
    Controls,
    Conversation,
    ImagePart,
    Message,
    Part,
    Rating,
    TextPart,
    new_id,
)
from multimodal.turn.assistant import Assistant
from multimodal.turn.draft import Draft

SAVE_EVERY_S = 0.3
UNEXPECTED = (
    "Something went wrong that this program did not expect; its log says what. Send it again, or "
    "choose another model."
)
GONE = "That message is no longer part of this conversation."

log = logging.getLogger(__name__)


def _characters(part: Part) -> int:
    """Of all words that are kept of it."""
    if isinstance(part, TextPart):
        return len(part.text)
    if isinstance(part, ImagePart):
        return len(part.description or "")
    return sum(len(words or "") for words in (part.transcript, part.english, part.translation))


def _is_empty_answer(message: Message) -> bool:
    """Whether it is one that failed, was stopped or ended before it had anything to show."""
    return message.role == "assistant" and not message.parts and message.damage is None


def _check_seed(controls: Controls) -> None:
    seed = controls.sampling.seed
    if seed is not None and not 0 <= seed < MAX_SEED:
        raise RequestError(
            f"The seed {seed} cannot be used. Give a whole number from 0 to {MAX_SEED - 1}, or "
            "leave it empty for one by chance."
        )


class Chats:
    """All conversations; each is opened for an owner, and the store refuses what is somebody
    else's."""

    def __init__(self, store: Store, media: MediaFolder, assistant: Assistant) -> None:
        self.store = store
        self.media = media
        self.assistant = assistant
        self.locks = ConversationLocks()

    def open(self, owner: str, conversation: str) -> Chat:
        """A conversation that is there, or that is to be begun under that id; nothing is read."""
        return Chat(self, owner, conversation)

    def is_busy(self, conversation: str) -> bool:
        return self.locks.is_busy(conversation)


@dataclass(frozen=True)
class Chat:
    """One conversation of one owner.

    Every change is made under its lock: this one's own, where it was `locked()`, else one that is
    taken for the call. All changes raise ConversationBusyError where the conversation is being
    changed or answered by somebody else.
    """

    chats: Chats
    owner: str
    id: str
    lock: ConversationLock | None = None

    def locked(self) -> Chat:
        """This conversation with its lock held, until `release()`."""
        return replace(self, lock=self.chats.locks.acquire(self.id))

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock for the block."""
        if self.lock is None:
            lock = self.chats.locks.acquire(self.id)
            try:
                yield
            finally:
                lock.release()
        elif self.lock.is_held:
            yield
        else:
            raise ConversationBusyError

    def load(self) -> Conversation:
        """Raises ConversationNotFoundError."""
        return self.chats.store.load(self.owner, self.id)

    def has_message(self, message: str) -> bool:
        """Whether the message of that id is stored in it."""
        return self.chats.store.has_message(self.owner, self.id, message)

    def set_controls(self, controls: Controls) -> None:
        self.chats.store.set_controls(self.owner, self.id, controls)

    # ------------------------------------------------------------ what the person says

    def say(
        self,
        text: str,
        files: Sequence[tuple[Path, str]] = (),
        stop: threading.Event | None = None,
        message_id: str | None = None,
        begin_with: Controls | None = None,
    ) -> Message:
        """Store a message of `text` and `files` (path, name); the first one of a conversation that
        is begun with these controls, both or neither, where `begin_with` is given. Nothing is
        stored if any is bad, or once `stop` is set.

        Raises PromptError (empty, too long), MediaError, CapacityError (too many files wait to be
        read), TurnStoppedError.
        """
        store = self.chats.store
        with self._changing():
            before = self.load().messages if begin_with is None else ()
            if begin_with is None:
                self._check_room(before, text, len(files))
            message = self._message(text, files, stop, message_id)
            if before and _is_empty_answer(before[-1]):  # one goes on with what there is
                store.restore_former(self.owner, self.id, before[-1].id)
            if begin_with is None:
                store.put_message(self.owner, self.id, message)
            else:
                store.create(self.owner, begin_with, self.id, message)
        return message

    def edit(self, message: str, text: str) -> None:
        """Replace the words of a message and forget what followed; its media stay."""
        with self._changing():
            old, before = self._find(message)
            media = tuple(part for part in old.parts if not isinstance(part, TextPart))
            if not text.strip() and not media:
                raise PromptError("The edited message is empty. Type something, or undo the turn.")
            self.chats.media.limits.check_text(text)
            self._check_room(before, text, len(media))
            words = (TextPart(text.strip()),) if text.strip() else ()
            edited = replace(old, parts=(*media, *words), damage=None)
            self.chats.store.replace_message(self.owner, self.id, edited)

    def take_back(self, message: str | None = None) -> Message | None:
        """Remove the person's newest message and its reply; return it, None if none is left.

        Raises RequestError where `message` is given and is not the newest.
        """
        with self._changing():
            messages = self.load().messages
            newest = next((known for known in reversed(messages) if known.role == "user"), None)
            if message is not None and (newest is None or newest.id != message):
                raise RequestError(
                    "Only your newest message can be taken back, and that is another one by now."
                )
            if newest is None:
                return None
            kept = (part.sha256 for part in newest.parts if not isinstance(part, TextPart))
            self.chats.store.record_media(kept)  # they may be sent again, so they stay for a while
            self.chats.store.truncate(self.owner, self.id, newest.id)
        return newest

    def archive_reply(self, message: str) -> None:
        """Keep the reply to `message` (an id of either of the two) as a former one, so that another
        takes its place, and remove all that followed."""
        with self._changing():
            messages = self.load().messages
            index = next((i for i, known in enumerate(messages) if known.id == message), None)
            if index is None:
                raise RequestError(GONE)
            first = index if messages[index].role == "assistant" else index + 1
            if first < len(messages):
                self.chats.store.archive_answer(self.owner, self.id, messages[first].id)

    def choose_version(self, version: str) -> None:
        """Have this answer, by its id, stand in the place of another one to the same question, for
        the person and for what later turns read. What followed stays."""
        with self._changing():
            self.chats.store.choose_version(self.owner, self.id, version)

    def rate(self, answer: str, rating: Rating | None) -> None:
        """Note what the person thinks of an answer; at any time, since nothing that is said
        changes by it."""
        self.chats.store.rate(self.owner, self.id, answer, rating)

    # ------------------------------------------------------------ what is answered

    def answer(
        self, stop: threading.Event, controls: Controls | None = None
    ) -> Generator[Draft, None, None]:
        """Answer the newest message and store the reply; yields a draft per event.

        `controls` replace the conversation's own for this reply. The last draft is `done`; where
        something failed, its outcome holds the sentence. Closing the stream stops the engine, and
        so does deleting the conversation.
        """
        with self._changing():
            known = self.load()
            if not known.messages or known.messages[-1].role != "user":
                raise RequestError("There is no message to answer.")
            known = replace(known, controls=controls or known.controls)
            draft = Draft(known)
            # Who deletes the conversation meanwhile wants no reply: it ends and nothing is told.
            with suppress(ConversationNotFoundError):
                yield from self._stored(draft, stop)

    def _stored(self, draft: Draft, stop: threading.Event) -> Generator[Draft, None, None]:
        """The drafts of a reply, which is stored when it begins, while it grows, and at its end."""
        self._put(draft.reply)
        saved_s = time.monotonic()
        try:
            with closing(self._drafts(draft, stop)) as drafts:
                for draft in drafts:
                    if time.monotonic() - saved_s > SAVE_EVERY_S and not draft.done:
                        self._put(draft.reply)
                        saved_s = time.monotonic()
                    yield draft
        finally:
            self._keep(draft if draft.done else draft.cut_short())

    def _drafts(self, draft: Draft, stop: threading.Event) -> Generator[Draft, None, None]:
        try:
            _check_seed(draft.conversation.controls)
            with closing(self.chats.assistant.reply(draft.conversation, stop)) as events:
                for event in events:
                    draft = draft.apply(event)
                    yield draft
        except MultimodalError as error:
            yield draft.cut_short(str(error))
        except Exception:
            log.exception("a reply ended with an error that was not expected")
            yield draft.cut_short(UNEXPECTED)

    def _keep(self, draft: Draft) -> None:
        """Store the messages whose pictures or recordings the reply gave words to, and it."""
        before = {message.id: message for message in self.load().messages}
        for message in draft.conversation.messages:
            if before.get(message.id) != message and message.damage is None:
                self._put(message)
        self._put(draft.reply)
        if draft.outcome.finish == "stopped" and _is_empty_answer(draft.reply):
            self.chats.store.restore_former(self.owner, self.id, draft.reply.id)

    # ------------------------------------------------------------ inside

    def _put(self, message: Message) -> None:
        self.chats.store.put_message(self.owner, self.id, message)

    def _find(self, message: str) -> tuple[Message, tuple[Message, ...]]:
        """A message, and those before it."""
        messages = self.load().messages
        for index, known in enumerate(messages):
            if known.id == message:
                return known, messages[:index]
        raise RequestError(GONE)

    def _check_room(self, before: Sequence[Message], text: str, files: int) -> None:
        """Raises PromptError where the conversation has no room for that much more."""
        parts = [part for message in before for part in message.parts]
        characters = len(text) + sum(map(_characters, parts))
        media = sum(not isinstance(part, TextPart) for part in parts)
        self.chats.media.limits.check_chat(characters, media + files)

    def _message(
        self,
        text: str,
        files: Sequence[tuple[Path, str]],
        stop: threading.Event | None,
        message_id: str | None,
    ) -> Message:
        """What a person says, its files decoded and kept."""
        if not text.strip() and not files:
            raise PromptError("The message is empty. Type something, or add a picture or voice.")
        limits = self.chats.media.limits
        limits.check_files(len(files), len(files))
        limits.check_text(text)
        intake = self.chats.media.intake(stop)
        parts: list[Part] = [self.chats.media.add(path, name, intake) for path, name in files]
        if text.strip():
            parts.append(TextPart(text.strip()))
        return Message("user", tuple(parts), message_id or new_id())
