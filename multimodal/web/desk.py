"""What the page's events do, without its layout: one `Desk` serves every person on the page.

The owner of a conversation is kept on the server (`Visitor`, in a gr.State), never taken from an
event's payload. A browser tab that looks at another conversation no longer shows a reply that is
still being written, but the reply is written all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from multimodal.build import Program
from multimodal.cards import AUTO
from multimodal.chats import Chats, Draft
from multimodal.errors import ConversationNotFoundError, MediaError, RequestError
from multimodal.messages import Controls, Conversation, Task, TextPart
from multimodal.web.render import Renderer, Transcript

YIELD_EVERY_S = 0.07
"""The browser redraws the chat on every yield; faster than this it falls behind."""
MOST_ALTERNATIVES = 4


@dataclass
class Visitor:
    """One browser tab: whose it is, what it looks at, and the replies it may stop."""

    owner: str = ""
    conversation: str = ""
    ids: list[str] = field(default_factory=list)
    stops: dict[str, threading.Event] = field(default_factory=dict)

    def __deepcopy__(self, memo: object) -> Visitor:
        return Visitor()


class Desk:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.chats = Chats(program.store, program.media, program.assistant)
        self.renderer = Renderer(program.catalog, self.program.media.path)

    # ------------------------------------------------------------ looking

    def show(self, visitor: Visitor, redo: bool = True) -> Transcript:
        """The conversation the visitor looks at, as it is stored."""
        if not visitor.conversation:
            return self._shown(visitor, Transcript([], []))
        conversation = self.chats.store.load(visitor.owner, visitor.conversation)
        names = self.alternatives(conversation) if redo else ()
        return self._shown(visitor, self.renderer.conversation(conversation, names))

    def open(self, visitor: Visitor, conversation: str) -> Transcript:
        """Look at another conversation; "" is a new one. One that was deleted counts as new.

        Raises StoreError where it cannot be read; the visitor then looks at what it did before.
        """
        before, visitor.conversation = visitor.conversation, conversation
        try:
            return self.show(visitor, redo=not self.chats.is_busy(conversation))
        except ConversationNotFoundError:
            visitor.conversation = ""
            return self.show(visitor)
        except BaseException:
            visitor.conversation = before
            raise

    def controls(self, visitor: Visitor) -> Controls:
        if not visitor.conversation:
            return Controls()
        return self.chats.store.load(visitor.owner, visitor.conversation).controls

    def headings(self, visitor: Visitor) -> list[tuple[str, str]]:
        return [(row.title, row.id) for row in self.chats.store.headings(visitor.owner)]

    def alternatives(self, conversation: Conversation) -> list[str]:
        """The cards that could answer the newest message instead of the one that did, the first
        few; the model menu has all."""
        asked = next((m for m in reversed(conversation.messages) if m.role == "user"), None)
        last = conversation.messages[-1] if conversation.messages else None
        if asked is None or last is None or last.outcome is None:
            return []
        steps = [step for route in last.outcome.routes for step in route.steps][-1:]
        used = [step.card for step in steps]
        fitting = {Task.TEXT}
        if any(step.task is Task.DRAW for step in steps):
            fitting = {Task.DRAW}
        elif any(message.images for message in conversation.messages):
            fitting.add(Task.IMAGE)
        if asked.recordings:
            fitting.add(Task.SPEECH)
        able = [c.name for c in self.program.cards if c.task in fitting and c.name not in used]
        usual = self.program.profile.defaults
        return sorted(able, key=lambda name: name not in usual)[:MOST_ALTERNATIVES]

    # ------------------------------------------------------------ saying

    def say(
        self, visitor: Visitor, text: str, files: Sequence[Path], controls: Controls
    ) -> Transcript:
        """Store what the person says, in a new conversation if none is open."""
        if not visitor.owner:
            raise RequestError("The page is still loading. Send it again in a moment.")
        begun = visitor.conversation or self.chats.store.create(visitor.owner, controls)
        stop = visitor.stops[begun] = threading.Event()
        try:
            self.chats.say(visitor.owner, begun, text, [(p, p.name) for p in files], stop)
        finally:
            visitor.stops.pop(begun, None)
        self.chats.store.set_controls(visitor.owner, begun, controls)
        visitor.conversation = begun
        return self.show(visitor, redo=False)

    def answer(self, visitor: Visitor, model: str | None = None) -> Iterator[Transcript | None]:
        """Answer the open conversation; None while the visitor looks at another one."""
        conversation, owner = visitor.conversation, visitor.owner
        controls = self.controls(visitor)
        if model is not None:
            controls = replace(controls, model=model)
        if controls.model != AUTO:
            self.program.card(controls.model)  # one of another profile would be fetched
        stop = visitor.stops[conversation] = threading.Event()
        shown_s = 0.0
        try:
            for draft in self.chats.answer(owner, conversation, stop, controls):
                if not (draft.done or time.monotonic() - shown_s > YIELD_EVERY_S):
                    continue
                shown_s = time.monotonic()
                looking = visitor.conversation == conversation
                yield self._drawn(visitor, draft) if looking else None
        finally:
            visitor.stops.pop(conversation, None)

    def retry(self, visitor: Visitor, row: int, controls: Controls) -> None:
        self.chats.store.set_controls(visitor.owner, visitor.conversation, controls)
        self.chats.forget_reply(visitor.owner, visitor.conversation, visitor.ids[row])

    def redo(self, visitor: Visitor) -> None:
        self.chats.forget_reply(visitor.owner, visitor.conversation, visitor.ids[-1])

    def edit(self, visitor: Visitor, row: int, text: str) -> None:
        self.chats.edit(visitor.owner, visitor.conversation, visitor.ids[row], text)

    def undo(self, visitor: Visitor) -> tuple[str, list[str]]:
        """Take the newest turn back; return its words, and those of its files that are still
        there, for the message box."""
        message = self.chats.take_back(visitor.owner, visitor.conversation)
        if message is None:
            return "", []
        files = []
        for part in message.parts:
            with suppress(MediaError):
                if not isinstance(part, TextPart):
                    files.append(str(self.program.media.path(part)))
        return message.text, files

    def delete(self, visitor: Visitor) -> None:
        if visitor.conversation:
            self.stop(visitor)
            self.chats.store.delete(visitor.owner, visitor.conversation)
            visitor.conversation = ""
            self.program.sweep()

    def stop(self, visitor: Visitor) -> None:
        """Stop the reply the visitor looks at."""
        if (stop := visitor.stops.get(visitor.conversation)) is not None:
            stop.set()

    def leave(self, visitor: Visitor) -> None:
        """The tab was closed: stop everything it waits for."""
        for stop in list(visitor.stops.values()):
            stop.set()

    # ------------------------------------------------------------ inside

    def _drawn(self, visitor: Visitor, draft: Draft) -> Transcript:
        if not draft.done:
            return self._shown(visitor, self.renderer.draft(draft))
        whole = replace(draft.conversation, messages=(*draft.conversation.messages, draft.reply))
        redo = self.alternatives(whole)
        return self._shown(visitor, self.renderer.conversation(whole, redo))

    def _shown(self, visitor: Visitor, transcript: Transcript) -> Transcript:
        visitor.ids = transcript.ids
        return transcript
