"""Messages as the chat pane shows them: plain values, of which only `blocks` is HTML.

Every message becomes a dictionary that goes to the browser as JSON:

    id, role            of the stored message
    text                what was typed, or the whole answer as it was written (for copying)
    blocks              an answer in HTML (`markdown.py`), one string a block; [] where it is plain
    media               pictures and recordings, each with its address and its words
    route               the route card: which models, why, what they found, how long they took
    state               "" (whole), "writing", or how it ended early; `note` says that in words
    redo                models that could answer the newest message instead
    rating              "up" or "down", what the person thinks of an answer; "" for neither
    versions            ids of all answers to its question, its own among them; [] for one alone
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal.catalog.cards import Catalog
from multimodal.errors import MediaError
from multimodal.events import Progress
from multimodal.languages import language_name
from multimodal.media.ingestion import MediaFolder
from multimodal.messages import (
    AudioPart,
    Conversation,
    ImagePart,
    Message,
    Outcome,
    Step,
    Task,
    TextPart,
)
from multimodal.turn.draft import Draft
from multimodal.web.markdown import render, render_growing
from multimodal.web.media_addresses import MediaAddresses

Bubble = dict[str, Any]
KINDS = {
    Task.TEXT: "write",
    Task.SPEECH: "hear",
    Task.IMAGE: "look",
    Task.DRAW: "draw",
    Task.TTS: "speak",
}


@dataclass(frozen=True)
class Transcript:
    """Turns messages into bubbles; needs to know the models' titles and where media lie."""

    catalog: Catalog
    media: MediaFolder
    addresses: MediaAddresses

    def conversation(self, conversation: Conversation, redo: Iterable[str] = ()) -> list[Bubble]:
        """All messages; `redo` names the models offered below the newest answer."""
        shown = [self.message(message, conversation) for message in conversation.messages]
        if shown and shown[-1]["role"] == "assistant":
            shown[-1]["redo"] = [{"value": name, "label": self._title(name)} for name in redo]
        return shown

    def message(self, message: Message, about: Conversation) -> Bubble:
        return self._basis(message) if message.role == "user" else self._answer(message, about)

    def growing(self, draft: Draft) -> Bubble:
        """The answer that is under way."""
        reply, outcome = draft.reply, draft.reply.outcome
        plain = self._is_plain(outcome)
        preview = draft.preview and base64.b64encode(draft.preview.jpeg).decode()
        return {
            **self._basis(reply),
            "text": reply.text if plain else "",
            "blocks": [] if plain else list(render_growing(reply.text)),
            "state": "writing",
            "route": self._route(outcome, draft.conversation, self._doing(draft)),
            "preview": f"data:image/jpeg;base64,{preview}" if preview else "",
        }

    # ------------------------------------------------------------ one message

    def _basis(self, message: Message) -> Bubble:
        return {
            "id": message.id,
            "role": message.role,
            "text": message.text,
            "blocks": [],
            "media": [
                self._medium(part, message.role)
                for part in message.parts
                if not isinstance(part, TextPart)
            ],
            "state": "",
            "note": message.damage or "",
            "redo": [],
            "rating": message.rating or "",
            "versions": list(message.versions),
        }

    def _answer(self, message: Message, about: Conversation) -> Bubble:
        outcome = message.outcome
        state, note = _ending(message)
        plain = self._is_plain(outcome)
        doing = None if outcome is not None and outcome.finish != "unfinished" else "interrupted"
        return {
            **self._basis(message),
            "blocks": [] if plain else list(render(message.text)),
            "state": state,
            "note": " ".join(filter(None, (message.damage, note))),
            "route": self._route(outcome or Outcome(), about, doing),
        }

    def _medium(self, part: ImagePart | AudioPart, role: str) -> dict[str, Any]:
        """One picture or recording; `gone` says so where its file is no longer there."""
        shown: dict[str, Any] = {
            "kind": part.kind,
            "name": part.name,
            "src": self.addresses.whole(part),
            "gone": self._loss(part),
        }
        if isinstance(part, ImagePart):
            words = part.description if role == "assistant" else None
            shown |= {
                "small": self.addresses.small(part),
                "width": part.width,
                "height": part.height,
                "alt": words or part.description or part.name,
            }
        else:
            shown |= {
                "seconds": part.seconds,
                "transcript": part.transcript if role == "user" else None,
                "alt": "The answer, spoken" if role == "assistant" else part.name,
            }
        return shown

    def _loss(self, part: ImagePart | AudioPart) -> str:
        """The sentence that says that the file is gone; "" where it is there."""
        try:
            self.media.path(part)
        except MediaError as error:
            return str(error)
        return ""

    def _is_plain(self, outcome: Outcome | None) -> bool:
        """Whether the words are no model's Markdown: what was read, heard, or said by a rule."""
        routes = outcome.routes if outcome else ()
        if not routes:
            return False
        last = routes[-1]
        if last.answer is not None:
            return True
        if not last.steps or last.steps[-1].task is not Task.IMAGE:
            return False
        return not self.catalog.card(last.steps[-1].card).converses

    # ------------------------------------------------------------ the route card

    def _doing(self, draft: Draft) -> str | Progress:
        if draft.progress is not None:
            return draft.progress
        if draft.reply.text:
            return "Writing"
        has_route = draft.reply.outcome is not None and draft.reply.outcome.routes
        return "Reading" if has_route else "Choosing a model"

    def _route(
        self, outcome: Outcome | None, about: Conversation, doing: str | Progress | None
    ) -> dict[str, Any]:
        """The route card; `doing` is what is under way, None where the answer is whole."""
        outcome = outcome or Outcome()
        steps = {(step.card, step.task): step for step in _steps(outcome)}.values()
        return {
            "steps": [
                {"kind": KINDS[step.task], "title": self._title(step.card)} for step in steps
            ],
            "doing": doing.text if isinstance(doing, Progress) else doing or "",
            "fraction": doing.fraction if isinstance(doing, Progress) else None,
            "seconds": None if doing else outcome.seconds,
            "why": " ".join(route.reason for route in outcome.routes),
            "findings": self._findings(outcome, about),
            "notices": list(outcome.notices),
            "timings": [
                {
                    "title": self._title(timing.card),
                    "wait": timing.wait_s,
                    "load": timing.load_s,
                    "run": timing.run_s,
                    "evicted": [self._title(name) for name in timing.evicted],
                }
                for timing in outcome.timings
            ],
            "facts": _facts(outcome),
        }

    def _findings(self, outcome: Outcome, about: Conversation) -> list[dict[str, str]]:
        """What was seen and heard on the way, each with the words that say which it was."""
        wanted = {step.sha256 for step in _steps(outcome)}
        found: dict[str, str] = {}
        for message in about.messages:
            for part in message.parts:
                if isinstance(part, TextPart) or part.sha256 not in wanted:
                    continue
                if isinstance(part, AudioPart):
                    found |= _heard(part)
                elif part.description:
                    found[f"Seen in {part.name}"] = part.description
        return [{"label": label, "text": text} for label, text in found.items()]

    def _title(self, card: str) -> str:
        return self.catalog.title(card)


def _steps(outcome: Outcome) -> Sequence[Step]:
    return [
        step for route in outcome.routes for step in (*route.steps, route.aloud) if step is not None
    ]


def _ending(message: Message) -> tuple[str, str]:
    """How an answer that is not under way ended: its state, and what to say about it."""
    outcome = message.outcome
    if outcome is None or outcome.finish == "unfinished":
        return "interrupted", "Interrupted. Press “Answer again” for a new answer."
    if outcome.finish == "failed":
        return "failed", outcome.error or "It failed."
    if outcome.finish == "stopped":
        return "stopped", "Stopped."
    if outcome.finish == "length":
        return "cut", "Cut at the length set for answers. Say “go on” for more."
    if message.text or message.images or message.damage:
        return "", ""
    if outcome.usage and outcome.usage.steps:
        # The safety checker's notice says why there is no picture.
        return "empty", " ".join(outcome.notices) or "No picture was made."
    return "empty", "The model had nothing to say. Press “Answer again”, or ask in other words."


def _heard(part: AudioPart) -> dict[str, str]:
    if part.transcript is None:
        return {}
    language = language_name(part.language) if part.language else "unknown language"
    if part.asked.language:
        language += ", as you set"
    found = {f"Heard ({language})": f"“{part.transcript}”"}
    others = {"en": part.english, part.asked.translate_to or "": part.translation}
    return found | {
        f"In {language_name(code)}": f"“{text}”" for code, text in others.items() if text
    }


def _facts(outcome: Outcome) -> list[str]:
    """Figures of the answer, one a line."""
    used = outcome.usage
    if used is None or not (used.steps or used.completion_tokens):
        return []
    if used.steps:
        return [f"{used.steps} steps of denoising in {used.decode_s:.1f} s", f"seed {used.seed}"]
    speed = used.completion_tokens / used.decode_s if used.decode_s else 0
    cached = f" ({used.cached_tokens} of them from the cache)" if used.cached_tokens else ""
    facts = [f"{used.prompt_tokens} tokens read{cached}"]
    facts.append(f"{used.completion_tokens} written at {speed:.0f} a second")
    if outcome.first_token_s:
        facts.append(f"first after {outcome.first_token_s:.2f} s")
    return [*facts, f"seed {used.seed}"]
