"""Conversations, route cards and gauges as the page shows them: values in, markup out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from multimodal.cards import Catalog
from multimodal.chats import Draft
from multimodal.errors import MediaError
from multimodal.events import Preview, Progress
from multimodal.languages import language_name
from multimodal.messages import AudioPart, Conversation, ImagePart, Message, Outcome, Step, TextPart

Bubble = dict[str, Any]
PathOf = Callable[[ImagePart | AudioPart], Path]
REDO = "redo:"


@dataclass(frozen=True)
class Transcript:
    """What the chat shows: one bubble a row, and the id of the message each row belongs to."""

    bubbles: list[Bubble]
    ids: list[str]


@dataclass(frozen=True)
class Renderer:
    """Needs to know the cards' titles and where the media of a part lies."""

    catalog: Catalog
    path_of: PathOf

    def conversation(self, conversation: Conversation, redo: Iterable[str] = ()) -> Transcript:
        """All messages; `redo` names the cards offered below the newest reply."""
        shown = Transcript([], [])
        for message in conversation.messages:
            self._append(shown, message, conversation, None)
        if shown.bubbles and conversation.messages[-1].role == "assistant":
            options = [
                {"value": REDO + name, "label": f"Redo with {self._title(name)}"} for name in redo
            ]
            if options:
                shown.bubbles[-1]["options"] = options
        return shown

    def draft(self, draft: Draft) -> Transcript:
        """The conversation with the reply that is under way."""
        shown = self.conversation(draft.conversation)
        self._append(shown, draft.reply, draft.conversation, draft)
        return shown

    # ------------------------------------------------------------ one message

    def _append(
        self, shown: Transcript, message: Message, about: Conversation, draft: Draft | None
    ) -> None:
        rows = (
            [self._said(message)] if message.role == "user" else self._reply(message, about, draft)
        )
        shown.bubbles.extend(rows)
        shown.ids.extend(message.id for _ in rows)

    def _said(self, message: Message) -> Bubble:
        content: list[Any] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                content.append(part.text)
                continue
            content.append(self._media(part, part.name))
            if isinstance(part, AudioPart) and part.transcript:
                content.append(f"*“{_plain(part.transcript)}”*")
        if message.damage:
            content.append(f"*{_plain(message.damage)}*")
        return {"role": "user", "content": content}

    def _reply(self, message: Message, about: Conversation, draft: Draft | None) -> list[Bubble]:
        outcome = message.outcome
        pending = draft is not None and not draft.done
        progress = draft.progress if draft else None
        card = {
            "role": "assistant",
            "content": self.route_card(outcome, about) if outcome else "",
            "metadata": self._headline(outcome, pending, progress),
        }
        words = self._words(message, pending)
        kept: tuple[ImagePart | AudioPart, ...] = (*message.images, *message.recordings)
        media: list[Any] = [self._shown(part) for part in kept]
        if draft is not None and draft.preview is not None:
            media.append(_preview(draft.preview))
        content = [*([words] if words else []), *media]
        if len(content) == 1 and words:
            return [card, {"role": "assistant", "content": words}]
        return [card, {"role": "assistant", "content": content}] if content else [card]

    def _shown(self, part: ImagePart | AudioPart) -> dict[str, str] | str:
        told = part.description if isinstance(part, ImagePart) else "The answer, spoken"
        return self._media(part, told or part.name)

    def _media(self, part: ImagePart | AudioPart, alt_text: str) -> dict[str, str] | str:
        """The picture or recording; where its file is gone, the sentence that says so."""
        try:
            return {"path": str(self.path_of(part)), "alt_text": alt_text}
        except MediaError as error:
            return f"*{_plain(str(error))}*"

    def _words(self, message: Message, pending: bool) -> str:
        text = "\n\n".join(filter(None, (message.text, message.damage)))
        outcome = message.outcome
        if pending:
            return text
        if outcome is None or outcome.finish == "unfinished":
            return (text + "\n\n" if text else "") + "*Interrupted. Press retry to answer again.*"
        if outcome.finish == "failed":
            return (text + "\n\n" if text else "") + f"⚠️ {_plain(outcome.error or 'It failed.')}"
        if outcome.finish == "stopped":
            return (text + "\n\n" if text else "") + "*Stopped.*"
        if outcome.finish == "length":
            return f"{text}\n\n*Cut at the length set for answers. Say “go on” for more.*"
        if text or message.images:
            return text
        if outcome.steps:  # the safety checker's notice says why there is no picture
            return f"*{_plain(' '.join(outcome.notices) or 'No picture was made.')}*"
        return "*The model had nothing to say. Press retry, or ask in other words.*"

    # ------------------------------------------------------------ the route card

    def _headline(
        self, outcome: Outcome | None, pending: bool, progress: Progress | None
    ) -> dict[str, Any]:
        names = [self._title(step.card) for step in _steps(outcome)]
        title = "→ " + (" → ".join(dict.fromkeys(names)) or "No model")
        if pending:
            doing = _progress(progress) if progress else "answering…"
            title = f"{title} · {doing}" if names else doing[:1].upper() + doing[1:]
            return {"title": title, "status": "pending"}
        if outcome is None or outcome.finish == "unfinished":
            return {"title": f"{title} · interrupted", "status": "done"}
        return {"title": title, "status": "done", "duration": round(outcome.seconds, 2)}

    def route_card(self, outcome: Outcome, about: Conversation) -> str:
        """Markdown: why this way, what was heard and seen, what was evicted, how long it took."""
        lines = [f"**Why:** {' '.join(route.reason for route in outcome.routes)}"]
        lines += self._findings(outcome, about)
        lines += [f"**Note:** {_plain(notice)}" for notice in outcome.notices]
        lines += [self._timing_table(outcome)] if outcome.timings else []
        if outcome.completion_tokens:
            lines.append(_tokens(outcome))
        if outcome.steps:
            lines.append(_drawn(outcome))
        return "\n\n".join(lines)

    def _findings(self, outcome: Outcome, about: Conversation) -> list[str]:
        wanted = {step.sha256 for step in _steps(outcome)}
        found = []
        for message in about.messages:
            for part in message.parts:
                if isinstance(part, TextPart) or part.sha256 not in wanted:
                    continue
                if isinstance(part, ImagePart) and part.description:
                    found.append(f"**Seen in {_plain(part.name)}:** {_plain(part.description)}")
                elif isinstance(part, AudioPart) and part.transcript:
                    found.append(_heard(part))
        return list(dict.fromkeys(found))

    def _timing_table(self, outcome: Outcome) -> str:
        rows = ["| Model | Waited | Loaded | Ran | Evicted |", "|---|--:|--:|--:|---|"]
        for timing in outcome.timings:
            gone = ", ".join(map(self._title, timing.evicted)) or "nothing"
            seconds = f"{timing.wait_s:.2f} s | {timing.load_s:.2f} s | {timing.run_s:.2f} s"
            rows.append(f"| {self._title(timing.card)} | {seconds} | {gone} |")
        return "\n".join(rows)

    def _title(self, card: str) -> str:
        return self.catalog.title(card)


def _steps(outcome: Outcome | None) -> list[Step]:
    routes = outcome.routes if outcome else ()
    return [step for route in routes for step in (*route.steps, route.aloud) if step is not None]


def _progress(progress: Progress) -> str:
    share = "" if progress.fraction is None else f" {100 * progress.fraction:.0f} %"
    return f"{progress.text}{share}"


def _heard(part: AudioPart) -> str:
    language = language_name(part.language) if part.language else "unknown language"
    if part.asked.language:
        language += ", as you set"
    lines = [f"**Heard** ({language}): “{_plain(part.transcript or '')}”"]
    others = {"en": part.english, part.asked.translate_to or "": part.translation}
    lines += [f"**In {language_name(code)}:** “{_plain(s)}”" for code, s in others.items() if s]
    return "  \n".join(lines)


def _tokens(outcome: Outcome) -> str:
    read = f"{outcome.prompt_tokens} tokens read ({outcome.cached_tokens} of them from the cache)"
    speed = outcome.completion_tokens / outcome.decode_s if outcome.decode_s else 0
    wrote = f"{outcome.completion_tokens} written at {speed:.0f} a second"
    first = f" · first after {outcome.first_token_s:.2f} s" if outcome.first_token_s else ""
    return f"{read} · {wrote}{first} · seed {outcome.seed}"


def _drawn(outcome: Outcome) -> str:
    return f"{outcome.steps} steps of denoising in {outcome.decode_s:.1f} s · seed {outcome.seed}"


def _preview(preview: Preview) -> str:
    """Inside the markup, since it is worth no file."""
    return f"![Preview](data:image/jpeg;base64,{base64.b64encode(preview.jpeg).decode()})"


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave alone."""
    for sign in "\\`*_[]#|~$":
        text = text.replace(sign, "\\" + sign)
    return escape(text, quote=False)
