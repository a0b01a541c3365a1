"""The seam between the program and its engines: what a backend is, and how it is loaded.

The module of a card's `family` (`registry.py`) has one function, `load(card, files, device) ->
Backend`. A loaded backend answers requests (`requests.py`) with a stream of events (`events.py`).
Closing that stream, or setting `stop`, ends the work within one token (text) or one
window (speech), and only then does the stream end: a caller that has left the stream may be sure
that the engine is free.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import psutil

from multimodal.backends.damaged_files import find_damage
from multimodal.backends.engine_options import check_options
from multimodal.backends.registry import find_family
from multimodal.backends.worker import release_frames
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, CardError, MultimodalError
from multimodal.events import EngineEvent
from multimodal.memory.devices.device_errors import device_error


def cores() -> int:
    """How many threads an engine on the CPU should use: OMP_NUM_THREADS where it is set, which
    PyTorch and each library on OpenMP go by, and else the physical cores this program may run on. A
    second thread on one core only waits for the first one's arithmetic unit."""
    if (told := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()).isdecimal():
        return max(1, int(told))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False) or usable
    return max(1, min(physical or 1, usable or 1))


class Backend(Protocol):
    """A loaded model. `run` may be called from several threads, up to the card's `concurrency`."""

    def run(self, request: Any, stop: threading.Event) -> Generator[EngineEvent, None, None]: ...

    def close(self) -> None:
        """Give back every byte. No `run` is under way when this is called."""


class Adapted(Backend, Protocol):
    """A loaded model as it answers with an adapter on it; for one lease."""

    switch_s: float
    """Seconds that it took to put the adapter on, of all requests so far."""


class AdapterHost(Protocol):
    """A loaded model of a family that `switches_adapters`. What it answers itself is what it would
    answer if there were no adapters."""

    def adapted(self, card: ModelCard) -> Adapted:
        """The same model with the adapter of `card`, which is read with the first request. Its
        bytes are on the device during a request only."""


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load `card` from the folder `files` onto `device` ("cpu", "cuda").

    Raises CardError for an unknown family and for an option that the family does not have,
    BackendError when the engine refuses the weights, DeviceFullError and DeviceLostError.
    """
    if (family := find_family(card.family)) is None:
        raise CardError(f"{card.name}: there is no backend for the family '{card.family}'")
    try:
        module = importlib.import_module(family.engine)
    except ModuleNotFoundError as error:
        raise BackendError(
            f"{card.title} needs the Python package '{error.name}': pip install {error.name}"
        ) from error
    check_options(card)
    try:
        backend: Backend = module.load(card, files, device)
    except Exception as error:
        release_frames(error)
        if isinstance(error, MultimodalError) and not isinstance(error, BackendError):
            raise
        if (told := device_error(error, card.title)) is not None:
            raise told from error
        if (reason := find_damage(files)) is not None:
            raise BackendError(f"{card.title} could not be loaded: {reason}") from error
        if isinstance(error, BackendError):
            raise
        raise BackendError(f"{card.title} could not be loaded: {error}") from error
    return backend
