"""How quickly a model answers on this machine: measured once, kept, and judged.

One question is asked of the loaded model. Reading is timed up to the first token, writing after
it, so that both are what a person would wait for.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from multimodal.backends.base import Backend, cores
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, TurnStoppedError
from multimodal.events import TextDelta
from multimodal.json_file import JsonFile
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Sampling, Task, Usage
from multimodal.requests import ChatMessage, TextRequest

LEAST_WRITTEN_PER_S = 8.0
"""Tokens; slower than that is slower than most people read."""
LONGEST_READING_S = 15.0
"""For `PROMPT_TOKENS`, or for a picture and a question."""
PROMPT_TOKENS = 500
SENTENCE = "On day {day} the train left at {hour} o'clock with {people} people and a dog on board. "
SENTENCES = 12
"""About 250 tokens: what reading them takes is scaled up to `PROMPT_TOKENS`."""
QUESTION = "Count from one to thirty in words."
WRITTEN_TOKENS = 24
PICTURE_SIDE = 512


@dataclass(frozen=True, slots=True)
class Speed:
    """`reading_s`: seconds until the first token of an answer to a prompt of `PROMPT_TOKENS`, or to
    a picture; `written_per_s`: tokens a second after it."""

    reading_s: float
    written_per_s: float

    @property
    def is_enough(self) -> bool:
        """Whether a model of this speed may answer without having been chosen."""
        return self.written_per_s >= LEAST_WRITTEN_PER_S and self.reading_s <= LONGEST_READING_S

    def __str__(self) -> str:
        return (
            f"writes {self.written_per_s:.0f} tokens a second and begins within "
            f"{self.reading_s:.1f} s after {PROMPT_TOKENS} tokens or a picture"
        )


def measure(memory: MemoryManager[Backend], card: ModelCard, stop: threading.Event) -> Speed:
    """The speed of `card`, which is loaded for it like for any turn.

    Raises the errors of a turn, TurnStoppedError where `stop` was set and BackendError where it
    writes nothing.
    """
    sees = card.task is Task.IMAGE
    usage, first_s = None, 0.0
    with memory.lease(card, stop) as lease:
        for _ in lease.wait():
            pass
        started_s = time.perf_counter()
        with closing(lease.backend.run(_request(sees), stop)) as events:
            for event in events:
                if isinstance(event, TextDelta) and not first_s:
                    first_s = time.perf_counter() - started_s
                usage = event if isinstance(event, Usage) else usage
    if stop.is_set():
        raise TurnStoppedError(f"Measuring the speed of {card.title} was stopped.")
    if usage is None or usage.completion_tokens < 2 or usage.decode_s <= 0:
        raise BackendError(f"{card.title} wrote nothing when its speed was measured.")
    read = max(1, usage.prompt_tokens - usage.cached_tokens)
    scale = 1.0 if sees else PROMPT_TOKENS / read
    return Speed(first_s * scale, (usage.completion_tokens - 1) / usage.decode_s)


def _request(sees: bool) -> TextRequest:
    sampling = Sampling(temperature=0.0, max_tokens=WRITTEN_TOKENS)
    if sees:
        picture = Image.linear_gradient("L").resize((PICTURE_SIDE, PICTURE_SIDE)).convert("RGB")
        asked = f"Describe the picture. {QUESTION}"
        return TextRequest((ChatMessage("user", asked, (picture,)),), sampling=sampling)
    story = "".join(
        SENTENCE.format(day=day, hour=day % 12 + 1, people=day * 7 % 40 + 2)
        for day in range(1, SENTENCES + 1)
    )
    return TextRequest((ChatMessage("user", f"{story}\n\n{QUESTION}"),), sampling=sampling)


class SpeedBook:
    """Speeds that were measured on this machine, kept in a file; thread-safe. Another number of
    cores is another machine."""

    def __init__(self, path: Path) -> None:
        self._file = JsonFile(path, dict[str, Speed], "speeds are measured anew")
        self._lock = threading.Lock()
        self._cores = cores()
        self._known = self._file.read()

    def speed(self, card: ModelCard) -> Speed | None:
        with self._lock:
            return self._known.get(self._key(card))

    def learn(self, card: ModelCard, speed: Speed) -> None:
        with self._lock:
            self._known[self._key(card)] = speed
            self._file.write(self._known)

    def _key(self, card: ModelCard) -> str:
        return f"{card.name} on {self._cores} cores"
