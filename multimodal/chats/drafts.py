"""A reply while it grows: what the events of a turn come to, one after another."""

from __future__ import annotations

from dataclasses import dataclass, replace

from multimodal.events import (
    Description,
    Done,
    Event,
    ImageStored,
    Notice,
    Preview,
    Progress,
    RouteChosen,
    SpeechStored,
    TextDelta,
    Transcript,
)
from multimodal.messages import Conversation, Message, Outcome, Part, TextPart


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
            case ImageStored(part) | SpeechStored(part):
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
