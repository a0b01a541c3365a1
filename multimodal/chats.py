"""Kept conversations: what a person says is stored, answered, redone, edited and taken back.

The page and the command line talk to this; it puts the store, the media folder and the assistant
together. A reply is written to the store when it begins, three times a second while it grows, and
when it ends, so that whatever happens the conversation can be opened again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from multimodal.assistant import Assistant
from multimodal.backends.sampling import MAX_SEED
from multimodal.errors import (
    ConversationNotFoundError,
    MultimodalError,
    PromptError,
    RequestError,
)
from multimodal.events import (
    Description,
    Done,
    Event,
    ImageMade,
    Notice,
    Preview,
    Progress,
    RouteChosen,
    Spoken,
    TextDelta,
    Transcript,
)
from multimodal.media import MediaFolder
from multimodal.messages import Controls, Conversation, Message, Outcome, Part, TextPart
from multimodal.store import Store

SAVE_EVERY_S = 0.3


@dataclass(frozen=True, slots=True)
class Draft:
    """A reply as it stands: the conversation up to it, its message, and what is under way."""

    conversation: Conversation
    reply: Message
    progress: Progress | None = None
    done: bool = False
    preview: Preview | None = None

    def after(self, event: Event) -> Draft:
        """This draft with one more event folded in."""
        outcome = self.reply.outcome or Outcome()
        match event:
            case RouteChosen(route):
                return self._with(replace(outcome, routes=(*outcome.routes, route)))
            case Notice(text):
                return self._with(replace(outcome, notices=(*outcome.notices, text)))
            case Transcript(part) | Description(part):
                return replace(self, conversation=self.conversation.with_part(part), progress=None)
            case TextDelta(text):
                words = TextPart(self.reply.text + text)
                media: tuple[Part, ...] = (*self.reply.images, *self.reply.recordings)
                reply = replace(self.reply, parts=(words, *media))
                return replace(self, reply=reply, progress=None)
            case ImageMade(part) | Spoken(part):
                reply = replace(self.reply, parts=(*self.reply.parts, part))
                return replace(self, reply=reply, progress=None, preview=None)
            case Progress():
                return replace(self, progress=event)
            case Preview():
                return replace(self, preview=event)
            case Done(finished):
                return replace(self._with(finished), progress=None, preview=None, done=True)
        return self

    def ended(self, error: str | None = None) -> Draft:
        """This draft cut short: failed with the sentence `error`, or stopped by the person."""
        outcome = self.reply.outcome or Outcome()
        cut = replace(outcome, finish="failed" if error else "stopped", error=error)
        return replace(self._with(cut), progress=None, preview=None, done=True)

    def _with(self, outcome: Outcome) -> Draft:
        return replace(self, reply=replace(self.reply, outcome=outcome))


def _check_seed(controls: Controls) -> None:
    seed = controls.sampling.seed
    if seed is not None and not 0 <= seed < MAX_SEED:
        raise RequestError(
            f"The seed {seed} cannot be used. Give a whole number from 0 to {MAX_SEED - 1}, or "
            "leave it empty for one by chance."
        )


class Chats:
    """Every call names the owner; the store refuses what is somebody else's."""

    def __init__(self, store: Store, media: MediaFolder, assistant: Assistant) -> None:
        self.store = store
        self._media = media
        self._assistant = assistant
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    # ------------------------------------------------------------ what the person says

    def say(
        self,
        owner: str,
        conversation: str,
        text: str,
        files: Sequence[tuple[Path, str]] = (),
        stop: threading.Event | None = None,
    ) -> Message:
        """Store a message of `text` and `files` (path, name). Nothing is stored if any is bad, or
        once `stop` is set.

        Raises PromptError (empty, too long), MediaError, RequestError (an answer is under way),
        CapacityError (too many files wait to be read), TurnStoppedError.
        """
        self._check(conversation, text, len(files))
        intake = self._media.intake(stop)
        parts: list[Part] = [self._media.add(path, name, intake) for path, name in files]
        if text.strip():
            parts.append(TextPart(text.strip()))
        message = Message("user", tuple(parts))
        self.store.put(owner, conversation, message)
        return message

    def edit(self, owner: str, conversation: str, message: str, text: str) -> None:
        """Replace the words of a message and forget what followed; its media stay."""
        self._check_idle(conversation)
        old = self._find(owner, conversation, message)
        media = tuple(part for part in old.parts if not isinstance(part, TextPart))
        if not text.strip() and not media:
            raise PromptError("The edited message is empty. Type something, or undo the turn.")
        self._media.limits.check_text(text)
        words = (TextPart(text.strip()),) if text.strip() else ()
        edited = replace(old, parts=(*media, *words), damage=None)
        self.store.replace(owner, conversation, edited)

    def take_back(self, owner: str, conversation: str) -> Message | None:
        """Remove the person's newest message and its reply; return it, None if none is left."""
        self._check_idle(conversation)
        messages = self.store.load(owner, conversation).messages
        said = [message for message in messages if message.role == "user"]
        if not said:
            return None
        self.store.cut(owner, conversation, said[-1].id)
        kept = (part.sha256 for part in said[-1].parts if not isinstance(part, TextPart))
        self.store.record_media(kept)  # they may be sent again, so they stay for a while
        return said[-1]

    def forget_reply(self, owner: str, conversation: str, message: str) -> None:
        """Remove the reply to `message` (an id of either of the two) and all that followed."""
        self._check_idle(conversation)
        messages = self.store.load(owner, conversation).messages
        index = next((i for i, known in enumerate(messages) if known.id == message), None)
        if index is None:
            raise RequestError("That message is no longer part of this conversation.")
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
    ) -> Generator[Draft, None, None]:
        """Answer the newest message and store the reply; yields a draft per event.

        `controls` replace the conversation's own for this reply. The last draft is `done`; where
        something failed, its outcome holds the sentence. Closing the stream stops the engine, and
        so does deleting the conversation.
        """
        known = self.store.load(owner, conversation)
        if not known.messages or known.messages[-1].role != "user":
            raise RequestError("There is no message to answer.")
        known = replace(known, controls=controls or known.controls)
        draft = Draft(known, Message("assistant", ()))
        # Who deletes the conversation meanwhile wants no reply: it ends and nothing is told.
        with suppress(ConversationNotFoundError), self._answering(conversation):
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

    def _keep(self, owner: str, conversation: str, draft: Draft) -> None:
        """Store the messages whose pictures or recordings the reply gave words to, and it."""
        before = {message.id: message for message in self.store.load(owner, conversation).messages}
        for message in draft.conversation.messages:
            if before.get(message.id) != message and message.damage is None:
                self.store.put(owner, conversation, message)
        self.store.put(owner, conversation, draft.reply)

    # ------------------------------------------------------------ inside

    def _find(self, owner: str, conversation: str, message: str) -> Message:
        for known in self.store.load(owner, conversation).messages:
            if known.id == message:
                return known
        raise RequestError("That message is no longer part of this conversation.")

    def _check(self, conversation: str, text: str, files: int) -> None:
        self._check_idle(conversation)
        if not text.strip() and not files:
            raise PromptError("The message is empty. Type something, or add a picture or voice.")
        limits = self._media.limits
        limits.check_files(files, files)
        limits.check_text(text)

    def is_busy(self, conversation: str) -> bool:
        return conversation in self._busy

    def _check_idle(self, conversation: str) -> None:
        if self.is_busy(conversation):
            raise RequestError("This conversation is still being answered. Wait, or press stop.")

    @contextmanager
    def _answering(self, conversation: str) -> Iterator[None]:
        with self._lock:
            self._check_idle(conversation)
            self._busy.add(conversation)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(conversation)
