"""Engines that do as they are told, standing at the seam where the real ones do."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import openai
import uvicorn
from PIL import Image
from starlette.applications import Starlette

from multimodal.api import routes
from multimodal.backends.base import (
    Backend,
    ImageDescriptionRequest,
    ImageGenerationRequest,
    TextRequest,
    TranscriptionRequest,
    TTSRequest,
)
from multimodal.build import EMBEDDED, Program, assemble, open_storage, read_catalog
from multimodal.catalog.architectures import Measured
from multimodal.catalog.cards import AUTO, ModelCard
from multimodal.catalog.sources import FolderSource
from multimodal.errors import (
    DeviceFullError,
    MultimodalError,
    RequestError,
    TurnStoppedError,
    WeightsError,
)
from multimodal.events import (
    Description,
    Drawn,
    Event,
    Preview,
    Progress,
    Segment,
    SentenceSpoken,
    SpeechGenerated,
    TextDelta,
    Transcript,
    Usage,
)
from multimodal.media.audio import wav
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.manager import MemoryManager
from multimodal.memory.transfers import Report, Source
from multimodal.messages import Task
from multimodal.settings import read_settings
from multimodal.weights import FetchProgress, Weights


def card(name: str = "text", task: Task = Task.TEXT, size: int = 100, **more: Any) -> ModelCard:
    return ModelCard(
        name=name,
        title=name.capitalize(),
        task=task,
        family="fake",
        license="MIT",
        source=FolderSource(kind="folder", path=Path("/nowhere")),
        architecture=Measured(kind="measured", weights_bytes=size),
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
        if isinstance(request, TranscriptionRequest):
            if self.source.full:
                self.source.full -= 1
                raise DeviceFullError("full")
            language, other = request.language or "en", request.translate_to
            words = self.source.transcript
            heard = replace(request.part, transcript=words, language=language)
            heard = replace(heard, translation=f"{words} in {other}" if other else None)
            yield Transcript(heard, self.source.segments)
        elif isinstance(request, TTSRequest):
            if self.source.mute:
                raise RequestError("The voice is hoarse.")
            yield SentenceSpoken(b"\x10\x00" * 8000, 16_000, request.text)
            yield Progress("Speaking", 1.0)
            yield SpeechGenerated(wav(np.full(8000, 0.1, np.float32)), 0.5)
        elif isinstance(request, ImageGenerationRequest):
            yield from self._drawn(request, stop)
        elif isinstance(request, ImageDescriptionRequest):
            yield Description(replace(request.part, description="a red square"), self.source.sight)
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

    def _drawn(self, request: ImageGenerationRequest, stop: threading.Event) -> Iterator[Event]:
        """A red square a picture, after a grey preview and as many steps as were asked for."""
        steps, seed = request.steps or 2, request.seed or 1
        size = (request.width or 64, request.height or 64)
        for index in range(request.count):
            for step in range(steps):
                if stop.is_set():
                    return
                yield Progress("Drawing", step / steps)
                yield Preview(picture(size, "grey", "JPEG"))
                time.sleep(self.source.step_s)
            yield Drawn(picture(size, "red", "PNG"), seed + index)
        yield Usage(3, 0, 0, 0.1, "stop", seed, steps)

    def close(self) -> None:
        self.closed = True
        self.source.closed.append(self.card.name)


class StopAfter(threading.Event):
    """Is set once it was asked that often whether it is."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.asked, self._times = 0, times

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > self._times


def picture(size: tuple[int, int], colour: str, kind: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", size, colour).save(written, kind)
    return written.getvalue()


def echo(request: TextRequest) -> list[str | MultimodalError]:
    """The default script: the newest words, one at a time."""
    return [f"{word} " for word in request.turns[-1][1].split()]


@dataclass
class FakeSource:
    """The memory manager's source of models. `fail` holds the errors of the next loads."""

    script: Callable[[TextRequest], Any] = echo
    transcript: str = "hello there"
    sight: str = "A red square."
    segments: tuple[Segment, ...] = ()
    requests: list[Any] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    fail: list[MultimodalError] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    step_s: float = 0.0
    active: int = 0
    mute: bool = False
    full: int = 0
    """How many of the next requests for speech find the device full."""

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


def program(
    data: Path, source: FakeSource, weights: Weights | None = None, **settings: Any
) -> Program:
    """The embedded profile, or another one, with these engines in place of the real ones, and
    without weights unless some are given."""
    chosen = read_settings(data=data, **settings)
    catalog = read_catalog(chosen)
    profile = catalog.profile(EMBEDDED if chosen.profile == AUTO else chosen.profile)
    engines = cast("Source[Backend]", source)
    budget = int(chosen.budget or profile.budget)
    memory = MemoryManager(Simulated(10**10), budget, engines)
    store, media = open_storage(chosen)
    weights = weights or Weights(chosen.weights_folder, offline=True)
    return assemble(chosen, catalog, profile, memory, weights, store, media)


@contextmanager
def served(program: Program) -> Iterator[str]:
    """The HTTP interface on a free port of this machine, without the page; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes(program)), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            program.close()


def client_at(url: str) -> openai.OpenAI:
    """OpenAI's own client, which fails at once instead of trying again."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@contextmanager
def client_of(program: Program) -> Iterator[openai.OpenAI]:
    with served(program) as url, client_at(url) as client:
        yield client


LADDER_CARD = """name = "{name}"
title = "{title}"
task = "text-generation"
family = "fake"
license = "MIT"
languages = {languages}
[source]
kind = "folder"
path = "/nowhere"
[architecture]
kind = "measured"
weights_bytes = {size}
"""
LADDER = """name = "mine"
title = "Mine"
device = "cpu"
budget = 10000
[models]
text-generation = ["small", "middle", "large"]
[upgrades]
text-generation = ["large", "middle"]
"""


def write_ladder(folder: Path) -> None:
    """The profile “mine” and its three text models, as a folder for --models has them."""
    (folder / "cards" / "text").mkdir(parents=True)
    for name, size, languages in (
        ("small", 100, '["en"]'),
        ("middle", 500, '["en", "fr"]'),
        ("large", 1100, '["ja"]'),
    ):
        card = LADDER_CARD.format(
            name=name, title=name.capitalize(), size=size, languages=languages
        )
        (folder / "cards" / "text" / f"{name}.toml").write_text(card, "utf-8")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "mine.toml").write_text(LADDER, "utf-8")


class Shelf(Weights):
    """Weights that are there once they were fetched; `absent` cannot be had."""

    def __init__(self, ready: Iterable[str]) -> None:
        super().__init__(Path("/nowhere"))
        self.there = set(ready)
        self.absent: dict[str, str] = {}
        self.fetched: list[str] = []
        self.waits: threading.Event | None = None

    def ready(self, card: ModelCard) -> bool:
        return card.name in self.there

    def known_bytes(self, card: ModelCard) -> int:
        assert isinstance(card.architecture, Measured)
        return card.architecture.weights_bytes

    def ensure(
        self,
        card: ModelCard,
        on_progress: Callable[[FetchProgress], None] = print,
        stop: threading.Event | None = None,
    ) -> Path:
        if card.name in self.absent:
            raise WeightsError(self.absent[card.name])
        on_progress(FetchProgress(card.name, 0, self.known_bytes(card), "fetching"))
        if self.waits is not None:
            self.waits.set()
            assert stop is not None
            assert stop.wait(20)
            raise TurnStoppedError("the download was stopped")
        self.there.add(card.name)
        self.fetched.append(card.name)
        return Path("/nowhere")
