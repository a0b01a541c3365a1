"""What a recipe is given, and the one way in which it says something."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from multimodal.catalog.cards import ModelCard
from multimodal.errors import JobError
from multimodal.private_files import make_private_folder
from multimodal.studio import ranks
from multimodal.studio.folder import JobFolder
from multimodal.studio.records import JobNotice, Metric, Report, Sample
from multimodal.studio.settings import JobSettings


@dataclass(frozen=True, slots=True)
class Start:
    """How the process of a job is to begin; kept as start.json in its folder. `files`: the folder
    of the model's weights. `adapter`: that of an earlier result which is taught further."""

    card: ModelCard
    files: Path
    device: Literal["cpu", "cuda"]
    budget_bytes: int
    adapter: Path | None = None
    is_resumed: bool = False
    threads: int = 0
    """Of the CPU; 0 for all cores."""
    batch: int = 0
    """How many samples of a batch are computed at once at most, so that the job takes no more than
    its bytes; 0 for all."""
    recipe: str = ""
    """“module:Class” of a recipe that is not the usual one of the method."""


def write_start(folder: JobFolder, start: Start) -> None:
    """Raises OSError."""
    folder.write(folder.start_file.name, start)


def read_start(folder: JobFolder) -> Start:
    """Raises JobError where the file is not there or damaged."""
    if (start := folder.read(folder.start_file.name, Start)) is None:
        raise JobError(
            f"{folder.start_file.name} of the job {folder.id} cannot be read; start it again."
        )
    return start


@dataclass
class JobContext:
    """One run of one job. `stop` is set by who ends it: the recipe saves a checkpoint after the
    step under way and returns. Of several processes of the job, what any but the first says goes
    nowhere."""

    folder: JobFolder
    settings: JobSettings
    start: Start
    stop: threading.Event = field(default_factory=threading.Event)
    _began_s: float = field(default_factory=time.monotonic)
    _before_s: float = 0.0

    def __post_init__(self) -> None:
        said = self.folder.metrics()
        self._before_s = said[-1].time_s if said else 0.0

    @property
    def run(self) -> int:
        return self.folder.status().runs

    @property
    def elapsed_s(self) -> float:
        """Since the job began for the first time, without the pauses."""
        return self._before_s + time.monotonic() - self._began_s

    def measure(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        if ranks.is_first():
            self.folder.add(Metric(step, epoch, self.elapsed_s, dict(values), self.run))
            self.tell(step=step)

    def show(self, step: int, prompt: str, answer: str, expected: str = "") -> None:
        if ranks.is_first():
            self.folder.add(Sample(step, prompt, answer, expected, self.run))

    def show_picture(self, step: int, prompt: str, answer: str, png: bytes) -> None:
        """Raises OSError."""
        if not ranks.is_first():
            return
        name = f"step-{step}.png"
        make_private_folder(self.folder.pictures)
        (self.folder.pictures / name).write_bytes(png)
        self.folder.add(Sample(step, prompt, answer, run=self.run, picture=name))

    def note(self, text: str, step: int = 0) -> None:
        if ranks.is_first():
            self.folder.add(JobNotice(step, text, self.run))

    def tell(self, **changes: Any) -> None:
        """Change fields of the status."""
        if ranks.is_first():
            self.folder.write_status(replace(self.folder.status(), **changes))


class Recipe(Protocol):
    """One way of teaching, in the manner of torchtune's recipes; `recipes/` has one a file."""

    def __init__(self, job: JobContext) -> None: ...

    def setup(self) -> None:
        """Load the model and the data, try the longest batch, and measure before the first step.
        Raises the errors of `errors.py`, each one sentence."""

    def train(self) -> None:
        """To the end, until `stop` is set, or until it no longer improves."""

    def save(self) -> Report:
        """Write the best model into the result's folder and judge whether it learned."""

    def cleanup(self) -> None:
        """Give back every byte; called in any case."""
