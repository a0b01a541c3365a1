"""The page with engines that do as they are told, served inside the test's own process."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import free_port
from fakes import FakeSource, echo, program

from multimodal.access import Hosts
from multimodal.backends.base import TextRequest
from multimodal.build import Program
from multimodal.errors import MultimodalError
from multimodal.web.launch import open_page
from multimodal.weights import Weights


@dataclass
class Pen:
    """A script that a test writes word by word; an answer ends with `end`."""

    words: queue.Queue[str | MultimodalError | None] = field(default_factory=queue.Queue)

    def __call__(self, request: TextRequest) -> Iterator[str | MultimodalError]:
        while (word := self.words.get(timeout=60)) is not None:
            yield word

    def write(self, *words: str | MultimodalError) -> None:
        for word in words:
            self.words.put(word)

    def end(self) -> None:
        self.words.put(None)


@dataclass(frozen=True)
class FakePage:
    url: str
    program: Program
    source: FakeSource

    def pen(self) -> Pen:
        """From now on answers are what the test writes with this."""
        pen = Pen()
        self.source.script = pen
        return pen

    def say(self, text: str) -> None:
        """From now on every answer is this text, in one piece."""
        self.source.script = lambda request: [text]

    def echo(self) -> None:
        self.source.script = echo


@contextmanager
def running_page(
    data: Path,
    grace_s: float = 20.0,
    port: int = 0,
    weights: Weights | None = None,
    **settings: Any,
) -> Iterator[FakePage]:
    """On a free port, unless one is named."""
    source, port = FakeSource(), port or free_port()
    made = program(data, source, weights, **settings)
    try:
        hosts = Hosts("127.0.0.1", made.settings.allow_origin)
        with open_page(made, port, hosts, grace_s):
            yield FakePage(f"http://127.0.0.1:{port}", made, source)
    finally:
        made.close()
