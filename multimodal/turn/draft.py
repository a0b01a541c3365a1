"""A reply while it grows: what the events of a turn come to, one after another. This is the one
place that folds them; whoever shows or keeps a reply takes it from here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from multimodal.events import (
    Done,
    ImageStored,
    Notice,
    PartAnnotated,
    Preview,
    Progress,
    RouteChosen,
    SpeechStored,
    StepFinished,
    TextDelta,
    TurnEvent,
)
from multimodal.messages import Conversation, Finish, Message, Outcome, Part, TextPart, Usage


@dataclass(frozen=True, slots=True)
class Draft:
    """A reply as it stands: the conversation up to it, its message, and what is under way.
    `started_s`: when the turn began, by the monotonic clock."""

    conversation: Conversation
    reply: Message = field(default_factory=lambda: Message("assistant", ()))
    progress: Progress | None = None
    done: bool = False
    preview: Preview | None = None
    started_s: float = field(default_factory=time.monotonic)

    @property
    def outcome(self) -> Outcome:
        return self.reply.outcome or Outcome()

    @property
    def seconds(self) -> float:
        """Since the turn began."""
        return time.monotonic() - self.started_s

    def apply(self, event: TurnEvent) -> Draft:
        """This draft with one more event folded in."""
        match event:
            case RouteChosen() | Notice() | Usage() | StepFinished():
                return self._with(_outcome_after(self.outcome, event))
            case PartAnnotated(part):
                return replace(self, conversation=self.conversation.with_part(part), progress=None)
            case TextDelta(text):
                return replace(self, reply=self._longer(text), progress=None)
            case ImageStored(part) | SpeechStored(part):
                reply = replace(self.reply, parts=(*self.reply.parts, part))
                return replace(self, reply=reply, progress=None, preview=None)
            case Progress():
                return replace(self, progress=event)
            case Preview():
                return replace(self, preview=event)
            case Done(outcome):
                return replace(self._with(outcome), progress=None, preview=None, done=True)
        return self

    def cut_short(self, error: str | None = None) -> Draft:
        """This draft cut short: failed with the sentence `error`, or stopped by the person."""
        finish: Finish = "failed" if error else "stopped"
        cut = replace(self.outcome, finish=finish, error=error)
        return replace(self._with(cut), progress=None, preview=None, done=True)

    def _with(self, outcome: Outcome) -> Draft:
        return replace(self, reply=replace(self.reply, outcome=outcome))

    def _longer(self, text: str) -> Message:
        """The reply with more words."""
        outcome = self.outcome
        if outcome.first_token_s is None:
            outcome = replace(outcome, first_token_s=self.seconds)
        words = TextPart(self.reply.text + text)
        media: tuple[Part, ...] = (*self.reply.images, *self.reply.recordings)
        return replace(self.reply, parts=(words, *media), outcome=outcome)


def _outcome_after(outcome: Outcome, event: RouteChosen | Notice | Usage | StepFinished) -> Outcome:
    match event:
        case RouteChosen(route):
            return replace(outcome, routes=(*outcome.routes, route))
        case Notice(text):
            return replace(outcome, notices=(*outcome.notices, text))
        case StepFinished(timing):
            return replace(outcome, timings=(*outcome.timings, timing))
        case Usage():
            return replace(outcome, usage=event)
