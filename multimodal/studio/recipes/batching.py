"""How many samples are computed at once, and less where the device is full."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from multimodal.errors import DeviceFullError
from multimodal.memory.devices.device_errors import translate_device_errors
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.memory_plan import is_out_of_memory


@dataclass(frozen=True, slots=True)
class Batching:
    """Samples that are computed at once, and how often before an update."""

    batch: int
    accumulation: int

    @property
    def effective(self) -> int:
        return self.batch * self.accumulation

    def smaller(self, least: int = 1) -> Batching | None:
        """With the largest batch, of at most half and at least `least`, that leaves the effective
        one as it is; None if there is none."""
        sizes = range(self.batch // 2, least - 1, -1)
        batch = next((size for size in sizes if self.effective % size == 0), None)
        return None if batch is None else Batching(batch, self.effective // batch)


def first_batching(job: JobContext) -> Batching:
    """What fits by the job's bytes; of a resumed one, what fitted last."""
    settings, status = job.settings, job.folder.status()
    if job.start.is_resumed and status.batch:
        return Batching(status.batch, status.accumulation)
    fitting = job.start.batch or settings.batch
    return Batching(fitting, settings.batch * settings.accumulation // fitting)


def smaller_batching(job: JobContext, batching: Batching, least: int = 1) -> Batching | None:
    """What to try next where the device is full, which is told; None if there is nothing."""
    less = batching.smaller(least)
    if less is not None:
        job.note(
            f"The device is full with {batching.batch} samples at once, so {less.batch} are "
            f"computed at once, {less.accumulation} times before each update, which still "
            f"sees {less.effective}.",
            job.folder.status().step,
        )
    return less


def check_alone(job: JobContext, error: BaseException) -> None:
    """Raise DeviceFullError where several devices share the batches: one that computes less at once
    than the others would leave them waiting."""
    if job.settings.devices > 1:
        raise DeviceFullError(
            f"{job.start.card.title}: memory ran out on one of {job.settings.devices} devices, "
            "where batches are not made smaller by themselves. Choose a smaller batch and a larger "
            "accumulation, and make the job again."
        ) from error


def release(holder: object, *names: str) -> None:
    """Let go of those attributes of `holder`, where it has them, and give back their memory."""
    for name in names:
        vars(holder).pop(name, None)
    free_memory()


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_fitting(
    title: str,
    act: Callable[[], None],
    shrink: Callable[[BaseException], None],
    reset: Callable[[], None],
) -> None:
    """`act`, and again wherever the device is full. Before that, `shrink` is told the error, and
    raises where nothing is left to give up; `reset` lets go of what the failed try holds, once its
    frames are gone."""
    while True:
        try:
            with translate_device_errors(title):
                return act()
        except (RuntimeError, MemoryError, DeviceFullError) as error:
            if not isinstance(error, DeviceFullError) and not is_out_of_memory(error):
                raise
            shrink(error)
        reset()
