"""What holds for every recipe of preference and reinforcement learning: it makes do with the memory
there is, stops, and goes on."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_preferences import notices, pairs, rated, result_tensors, told
from tiny_recipes import Checkpoint, make_job, run_recipe, save_untaught

from multimodal.errors import DeviceFullError
from multimodal.studio.checkpoints import find_whole
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.alignment import AlignmentRecipe
from multimodal.studio.recipes.batching import Batching
from multimodal.studio.recipes.dpo import DpoRecipe
from multimodal.studio.recipes.fitting_run import BEFORE_FILE
from multimodal.studio.recipes.kto import KtoRecipe


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("untaught"))


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 4))
def test_smaller_batch_leaves_the_effective_one_as_it_is(
    batch: int, accumulation: int, least: int
) -> None:
    given = Batching(batch, accumulation)
    less = given.smaller(least)
    if less is None:
        assert all(given.effective % size for size in range(least, batch // 2 + 1))
    else:
        assert least <= less.batch <= batch // 2
        assert less.effective == given.effective


class _SmallDevice(DpoRecipe):
    """It has room for `room` samples at once, from the update of that number on."""

    def __init__(self, job: JobContext, room: int) -> None:
        super().__init__(job)
        self.room = room

    def try_step(self, batching: Batching) -> None:
        if batching.batch > self.room:
            raise DeviceFullError("The device is full.")
        super().try_step(batching)


def test_full_device_halves_the_batch_and_says_so(tmp_path: Path, checkpoint: Checkpoint) -> None:
    job = make_job(tmp_path / "job", checkpoint, pairs(16), pairs(4, 32), method="dpo", max_steps=2)
    run_recipe(_SmallDevice(job, room=1))
    status = job.folder.status()
    assert (status.batch, status.accumulation) == (1, 8)
    assert "full with 4 samples at once, so 2 are computed at once, 4 times" in notices(job)
    assert "full with 2 samples at once, so 1 are computed at once, 8 times" in notices(job)


def test_full_device_without_a_smaller_batch_is_told(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    job = make_job(tmp_path / "job", checkpoint, pairs(8), pairs(4, 32), method="dpo")
    with pytest.raises(DeviceFullError, match="even with one sample at a time"):
        run_recipe(_SmallDevice(job, room=0))
    assert not job.folder.result.exists()


class _AfterSteps(threading.Event):
    """Is set once the job has made that many updates."""

    def __init__(self, folder: Any, steps: int) -> None:
        super().__init__()
        self._folder, self._steps = folder, steps

    def is_set(self) -> bool:
        return bool(self._folder.status().step >= self._steps)


@pytest.mark.parametrize(
    ("recipe", "train", "test"),
    [
        (DpoRecipe, pairs(24), pairs(4, 32)),
        pytest.param(KtoRecipe, rated(24), rated(4, 32), marks=pytest.mark.thorough),
    ],
)
def test_job_that_is_stopped_and_resumed_learns_the_same(
    tmp_path: Path,
    checkpoint: Checkpoint,
    recipe: type[AlignmentRecipe],
    train: list[dict[str, Any]],
    test: list[dict[str, Any]],
) -> None:
    method = recipe.__name__.removesuffix("Recipe").lower()
    whole = make_job(tmp_path / "whole", checkpoint, train, test, method=method)
    report = run_recipe(recipe(whole))

    parted = make_job(tmp_path / "parted", checkpoint, train, test, method=method)
    parted.stop = _AfterSteps(parted.folder, steps=1)
    first = recipe(parted)
    first.setup()
    first.train()
    first.cleanup()
    # Within the first epoch, which has three.
    assert find_whole(parted.folder.checkpoints) == parted.folder.checkpoints / "checkpoint-2"

    kept = json.loads((parted.folder.path / BEFORE_FILE).read_text("utf-8"))
    marked = {**kept, "scores": [score + 1 for score in kept["scores"]]}
    (parted.folder.path / BEFORE_FILE).write_text(json.dumps(marked), "utf-8")
    start = replace(parted.start, is_resumed=True)
    parted.folder.write_status(replace(parted.folder.status(), runs=2))
    resumed = JobContext(parted.folder, parted.settings, start)
    again = run_recipe(recipe(resumed))
    assert told(resumed, "loss") == pytest.approx(told(whole, "loss"), abs=1e-5)
    assert next(it.step for it in resumed.folder.metrics() if it.run == 2) == 3
    # Measured once, and kept.
    assert again.figures["before"] == pytest.approx(report.figures["before"] + 1, abs=1e-9)
    assert again.figures["after"] == pytest.approx(report.figures["after"], abs=1e-5)
    for name, value in result_tensors(whole).items():
        assert torch.allclose(value, result_tensors(resumed)[name], atol=1e-6)
