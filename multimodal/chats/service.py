"""Kept conversations: what a person says is stored, answered, redone, edited and taken back.

The page and the command line talk to this; it puts the store, the media folder and the assistant
together. A reply is written to the store when it begins, three times a second while it grows, and
when it ends, so that whatever happens the conversation can be opened again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from multimodal.backends.sampling import MAX_SEED
from multimodal.chats.claims import Claim, Claims
from multimodal.chats.drafts import Draft
from multimodal.chats.store import Store
from multimodal.errors import (
    ConversationNotFoundError,
    MultimodalError,
    PromptError,
    RequestError,
)
from multimodal.media.ingestion import MediaFolder
from multimodal.messages import (
    Controls,
    ImagePart,
    Message,
    Part,
    TextPart,
    new_id,
)
from multimodal.turn.assistant import Assistant

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


def _check_seed(controls: Controls) -> None:
    seed = controls.sampling.seed
    if seed is not None and not 0 <= seed < MAX_SEED:
        raise RequestError(
            f"The seed {seed} cannot be used. Give a whole number from 0 to {MAX_SEED - 1}, or "
            "leave it empty for one by chance."
        )


class Chats:
    """Every call names the owner; the store refuses what is somebody else's.

    Every change of a conversation is made under its claim (`claims.py`): the caller's own, where
    one is given, which the caller releases; else one that is taken for the call. All of them raise
    ConversationBusyError where the conversation is being changed or answered.
    """

    def __init__(self, store: Store, media: MediaFolder, assistant: Assistant) -> None:
        self.store = store
        self._media = media
        self._assistant = assistant
        self._claims = Claims()

    def claim(self, conversation: str) -> Claim:
        """The right to change a conversation, which may be one that is not begun yet."""
        return self._claims.take(conversation)

    def is_busy(self, conversation: str) -> bool:
        return self._claims.is_held(conversation)

    # ------------------------------------------------------------ what the person says

    def say(
        self,
        owner: str,
        conversation: str,
        text: str,
        files: Sequence[tuple[Path, str]] = (),
        stop: threading.Event | None = None,
        claim: Claim | None = None,
        message_id: str | None = None,
    ) -> Message:
        """Store a message of `text` and `files` (path, name). Nothing is stored if any is bad, or
        once `stop` is set.

        Raises PromptError (empty, too long), MediaError, CapacityError (too many files wait to be
        read), TurnStoppedError.
        """
        with self._claims.holding(conversation, claim):
            before = self.store.load(owner, conversation).messages
            self._check_room(before, text, len(files))
            message = self._message(text, files, stop, message_id)
            self.store.put(owner, conversation, message)
        return message

    def begin(
        self,
        owner: str,
        conversation: str,
        controls: Controls,
        text: str,
        files: Sequence[tuple[Path, str]] = (),
        stop: threading.Event | None = None,
        claim: Claim | None = None,
        message_id: str | None = None,
    ) -> Message:
        """Begin a conversation of that id with its first message, both or neither; see `say`."""
        with self._claims.holding(conversation, claim):
            message = self._message(text, files, stop, message_id)
            self.store.create(owner, controls, conversation, message)
        return message

    def edit(
        self,
        owner: str,
        conversation: str,
        message: str,
        text: str,
        claim: Claim | None = None,
    ) -> None:
        """Replace the words of a message and forget what followed; its media stay."""
        with self._claims.holding(conversation, claim):
            old, before = self._find(owner, conversation, message)
            media = tuple(part for part in old.parts if not isinstance(part, TextPart))
            if not text.strip() and not media:
                raise PromptError("The edited message is empty. Type something, or undo the turn.")
            self._media.limits.check_text(text)
            self._check_room(before, text, len(media))
            words = (TextPart(text.strip()),) if text.strip() else ()
            edited = replace(old, parts=(*media, *words), damage=None)
            self.store.replace(owner, conversation, edited)

    def take_back(
        self, owner: str, conversation: str, message: str | None = None
    ) -> Message | None:
        """Remove the person's newest message and its reply; return it, None if none is left.

        Raises RequestError where `message` is given and is not the newest.
        """
        with self._claims.holding(conversation, None):
            messages = self.store.load(owner, conversation).messages
            newest = next((known for known in reversed(messages) if known.role == "user"), None)
            if message is not None and (newest is None or newest.id != message):
                raise RequestError(
                    "Only your newest message can be taken back, and that is another one by now."
                )
            if newest is None:
                return None
            kept = (part.sha256 for part in newest.parts if not isinstance(part, TextPart))
            self.store.record_media(kept)  # they may be sent again, so they stay for a while
            self.store.cut(owner, conversation, newest.id)
        return newest

    def forget_reply(
        self, owner: str, conversation: str, message: str, claim: Claim | None = None
    ) -> None:
        """Remove the reply to `message` (an id of either of the two) and all that followed."""
        with self._claims.holding(conversation, claim):
            messages = self.store.load(owner, conversation).messages
            index = next((i for i, known in enumerate(messages) if known.id == message), None)
            if index is None:
                raise RequestError(GONE)
            first = index if messages[index].role == "assistant" else index + 1
            if first < len(messages):
                self.store.cut(owner, conversation, messages[first].id)

    # ------------------------------------------------------------ what is answered

    def answer(
        self,
        owner: str,
        conversation: str,
        stop: threading.Event,
        controls: Controls | None = None,
        claim: Claim | None = None,
    ) -> Generator[Draft, None, None]:
        """Answer the newest message and store the reply; yields a draft per event.

        `controls` replace the conversation's own for this reply. The last draft is `done`; where
        something failed, its outcome holds the sentence. Closing the stream stops the engine, and
        so does deleting the conversation.
        """
        with self._claims.holding(conversation, claim):
            known = self.store.load(owner, conversation)
            if not known.messages or known.messages[-1].role != "user":
                raise RequestError("There is no message to answer.")
            known = replace(known, controls=controls or known.controls)
            draft = Draft(known, Message("assistant", ()))
            # Who deletes the conversation meanwhile wants no reply: it ends and nothing is told.
            with suppress(ConversationNotFoundError):
                yield from self._stored(owner, conversation, draft, stop)

    def _stored(
        self, owner: str, conversation: str, draft: Draft, stop: threading.Event
    ) -> Generator[Draft, None, None]:
        """The drafts of a reply, which is stored when it begins, while it grows, and at its end."""
        self.store.put(owner, conversation, draft.reply)
        saved_s = time.monotonic()
        try:
            with closing(self._drafts(draft, stop)) as drafts:
                for draft in drafts:
                    if time.monotonic() - saved_s > SAVE_EVERY_S and not draft.done:
                        self.store.put(owner, conversation, draft.reply)
                        saved_s = time.monotonic()
                    yield draft
        finally:
            self._keep(owner, conversation, draft if draft.done else draft.ended())

    def _drafts(self, draft: Draft, stop: threading.Event) -> Generator[Draft, None, None]:
        try:
            _check_seed(draft.conversation.controls)
            with closing(self._assistant.reply(draft.conversation, stop)) as events:
                for event in events:
                    draft = draft.after(event)
                    yield draft
        except MultimodalError as error:
            yield draft.ended(str(error))
        except Exception:
            log.exception("a reply ended with an error that was not expected")
            yield draft.ended(UNEXPECTED)

    def _keep(self, owner: str, conversation: str, draft: Draft) -> None:
        """Store the messages whose pictures or recordings the reply gave words to, and it."""
        before = {message.id: message for message in self.store.load(owner, conversation).messages}
        for message in draft.conversation.messages:
            if before.get(message.id) != message and message.damage is None:
                self.store.put(owner, conversation, message)
        self.store.put(owner, conversation, draft.reply)

    # ------------------------------------------------------------ inside

    def _find(
        self, owner: str, conversation: str, message: str
    ) -> tuple[Message, tuple[Message, ...]]:
        """A message, and those before it."""
        messages = self.store.load(owner, conversation).messages
        for index, known in enumerate(messages):
            if known.id == message:
                return known, messages[:index]
        raise RequestError(GONE)

    def _check_room(self, before: Sequence[Message], text: str, files: int) -> None:
        """Raises PromptError where the conversation has no room for that much more."""
        parts = [part for message in before for part in message.parts]
        characters = len(text) + sum(map(_characters, parts))
        media = sum(not isinstance(part, TextPart) for part in parts)
        self._media.limits.check_chat(characters, media + files)

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
        limits = self._media.limits
        limits.check_files(len(files), len(files))
        limits.check_text(text)
        intake = self._media.intake(stop)
        parts: list[Part] = [self._media.add(path, name, intake) for path, name in files]
        if text.strip():
            parts.append(TextPart(text.strip()))
        return Message("user", tuple(parts), message_id or new_id())
