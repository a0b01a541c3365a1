"""Engines that do as they are told, standing at the seam where the real ones do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from multimodal.backends.base import ImageRequest, SpeechRequest, TextRequest
from multimodal.cards import Architecture, FolderSource, ModelCard
from multimodal.errors import MultimodalError
from multimodal.memory.manager import Report
from multimodal.messages import Description, Event, Progress, Task, TextDelta, Transcript, Usage


def card(name: str = "text", task: Task = Task.TEXT, size: int = 100, **more: Any) -> ModelCard:
    return ModelCard(
        name=name,
        title=name.capitalize(),
        task=task,
        family="fake",
        license="MIT",
        source=FolderSource(kind="folder", path=Path("/nowhere")),
        architecture=Architecture(weights_bytes=size),
        **more,
    )


@dataclass
class FakeBackend:
    """Answers from its script, and remembers what it was asked."""

    card: ModelCard
    source: FakeSource
    closed: bool = False

    def run(self, request: Any, stop: threading.Event) -> Generator[Event, None, None]:
        assert not self.closed, "a closed model was asked"
        self.source.requests.append(request)
        self.source.active += 1
        try:
            yield from self._answer(request, stop)
        finally:
            self.source.active -= 1

    def _answer(self, request: Any, stop: threading.Event) -> Iterator[Event]:
        if isinstance(request, SpeechRequest):
            heard = replace(request.part, transcript=self.source.transcript, language="en")
            yield Transcript(heard)
        elif isinstance(request, ImageRequest):
            yield Description(replace(request.part, description="a red square"), "A red square.")
        else:
            assert isinstance(request, TextRequest)
            words = self.source.script(request)
            written = 0
            for word in words:
                if isinstance(word, MultimodalError):
                    raise word
                if stop.is_set():
                    break
                written += 1
                yield TextDelta(word)
            finish = "stopped" if stop.is_set() else "stop"
            yield Usage(10, 4, written, 0.1, finish, request.sampling.seed or 1)

    def close(self) -> None:
        self.closed = True
        self.source.closed.append(self.card.name)


def echo(request: TextRequest) -> list[str | MultimodalError]:
    """The default script: the newest words, one at a time."""
    return [f"{word} " for word in request.turns[-1][1].split()]


@dataclass
class FakeSource:
    """The memory manager's source of models. `fail` holds the errors of the next loads."""

    script: Callable[[TextRequest], Any] = echo
    transcript: str = "hello there"
    requests: list[Any] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    fail: list[MultimodalError] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    active: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def fetch(self, card: ModelCard, report: Report) -> Path:
        report(Progress(f"Fetching {card.title}", 0.5))
        return Path("/nowhere")

    def load(self, card: ModelCard, files: Path, engine: str) -> FakeBackend:
        self.gate.wait(10)
        if self.fail:
            raise self.fail.pop()
        self.loaded.append(card.name)
        return FakeBackend(card, self)
