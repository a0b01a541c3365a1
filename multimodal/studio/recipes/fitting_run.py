"""What recipes on transformers' Trainer share: a run that takes less at once where the device is
full, goes on from the newest checkpoint, and compares with what was measured before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from transformers import Trainer

from multimodal.errors import DeviceFullError
from multimodal.studio import ranks
from multimodal.studio.checkpoints import find_whole
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.batching import (
    check_alone,
    first_batching,
    run_fitting,
    smaller_batching,
)

BEFORE_FILE = "before.json"
T = TypeVar("T")


class FittingRun:
    """`item`: what is computed at once, in the singular; `way`: what to try where not even one
    fits, in a clause that follows a comma."""

    def __init__(self, job: JobContext, item: str, way: str) -> None:
        self._job, self._item, self._way = job, item, way
        self._goes_on = job.start.is_resumed
        self.batching = first_batching(job)

    @property
    def sizes(self) -> dict[str, int]:
        """For `training_arguments`."""
        return {
            "per_device_train_batch_size": self.batching.batch,
            "per_device_eval_batch_size": self.batching.batch,
            "gradient_accumulation_steps": self.batching.accumulation,
        }

    def train(self, make_trainer: Callable[[], Trainer], reset: Callable[[], None]) -> None:
        """To the end. `make_trainer` makes one of `sizes` each time; `reset` brings back the model
        as the job begins with it, and lets go of the trainer before. Raises DeviceFullError."""
        run_fitting(
            self._job.start.card.title, lambda: self._train(make_trainer), self._shrink, reset
        )

    def _train(self, make_trainer: Callable[[], Trainer]) -> None:
        """From the newest whole checkpoint of an earlier run, or of this one before the device was
        full."""
        trainer = make_trainer()
        whole = find_whole(self._job.folder.checkpoints) if self._goes_on else None
        self._goes_on = True
        trainer.train(resume_from_checkpoint=str(whole) if whole else None)

    def _shrink(self, error: BaseException) -> None:
        check_alone(self._job, error)
        less = smaller_batching(self._job, self.batching)
        if less is None:
            raise DeviceFullError(
                f"{self._job.start.card.title}: memory runs out even with one {self._item} at a "
                f"time; close other programs, {self._way}. A resumed job goes on from its last "
                "checkpoint."
            ) from error
        self.batching = less


def keep_baseline(job: JobContext, kind: type[T], measure: Callable[[], T]) -> T:
    """What `measure` finds before the first step, once for a job: a resumed one compares with the
    same."""
    if job.start.is_resumed and (kept := job.folder.read(BEFORE_FILE, kind)) is not None:
        return kept
    before = measure()
    if ranks.is_first():
        job.folder.write(BEFORE_FILE, before)
    return before
