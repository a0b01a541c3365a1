"""A conversation in the terminal: words to standard output, news of the reply to standard error."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from multimodal.build import Program
from multimodal.errors import MultimodalError
from multimodal.events import ImageStored, Notice, PartAnnotated, Progress, RouteChosen, TextDelta
from multimodal.messages import AudioPart, Conversation, Message, TextPart
from multimodal.turn.draft import Draft

TOLD = ("Fetching", "Loading", "Drawing")
TOLD_STAGES = 4
"""Into how many steps the news of a download, or of a drawing, is cut."""


def converse(program: Program, talk: Conversation) -> None:
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  `input` then edits lines and recalls earlier ones
    while True:
        try:
            question = input("\nyou> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not question:
            continue
        try:
            talk = ask(program, talk, question, [])
        except MultimodalError as error:
            print(f"multimodal: {error}", file=sys.stderr)


def ask(program: Program, talk: Conversation, question: str, files: list[Path]) -> Conversation:
    """Send one message and print the reply as it comes; Ctrl-C stops the reply."""
    media = [program.media.add(path, path.name) for path in files]
    words = [TextPart(question)] if question else []
    talk = replace(talk, messages=(*talk.messages, Message("user", (*media, *words))))
    reply = _print_reply(program, talk)
    return replace(talk, messages=(*talk.messages, reply))


def _print_reply(program: Program, talk: Conversation) -> Message:
    draft, told = Draft(talk), set()
    with _stopped_by_ctrl_c() as stop:
        for event in program.assistant.reply(talk, stop):
            draft = draft.apply(event)
            match event:
                case TextDelta(piece):
                    print(piece, end="", flush=True)
                case RouteChosen(route):
                    _aside(f"→ {route.reason}")
                case PartAnnotated(AudioPart() as part):
                    _aside(f"heard: “{part.transcript}”")
                case Notice(note):
                    _aside(note)
                case ImageStored(picture):
                    print(program.media.path(picture))
                case Progress(doing, fraction) if doing.startswith(TOLD):
                    stage = doing.partition(":")[0], int((fraction or 0) * TOLD_STAGES)
                    if stage not in told:
                        told.add(stage)
                        _aside(doing)
    print()
    return draft.reply


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, instead of ending the program wherever it happens to be."""
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _aside(line: str) -> None:
    """A line about the reply, not of it; dim where a person watches."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    console.print(line, style="dim", soft_wrap=True)
