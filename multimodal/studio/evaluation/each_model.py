"""One model after another, each in the memory of the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from multimodal.memory.devices.device_errors import translate_device_errors
from multimodal.studio.context import JobContext, Start
from multimodal.studio.recipes.batching import free_memory

T = TypeVar("T")


def measure_each(
    job: JobContext, starts: Sequence[Start], measure: Callable[[Start], T]
) -> list[T]:
    """What `measure` finds of each; of fewer where the job is stopped meanwhile. Raises
    DeviceFullError and DeviceLostError."""
    found: list[T] = []
    for start in starts:
        if job.stop.is_set():
            break
        job.tell(doing=f"Evaluating {start.card.title}")
        with translate_device_errors(start.card.title):
            found.append(measure(start))
        free_memory()
    return found
