"""What the page is sent of an open job, at every change."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from multimodal.studio.folder import JobFolder
from multimodal.studio.job import Job
from multimodal.studio.records import Sample, Status
from multimodal.studio.settings import JobSettings
from multimodal.web.studio.job_view import MOST_PICTURES, job_view


@pytest.mark.parametrize("count", [1, MOST_PICTURES, 60])
def test_of_many_drawings_some_of_the_whole_run_are_shown(tmp_path: Path, count: int) -> None:
    folder = JobFolder(tmp_path / "digits")
    settings = JobSettings(name="digits", model="small", data="digits", method="diffusion")
    folder.create(settings, Status(state="done"))
    folder.pictures.mkdir()
    for step in range(count):
        Image.new("RGB", (8, 8)).save(folder.pictures / f"step-{step}.png")
        folder.add(Sample(step, "one", "drawn", picture=f"step-{step}.png"))
    shown = job_view(Job(folder, tmp_path / "lock"), "Small", "", "").samples
    steps = [sample.step for sample in shown]
    assert len(steps) == min(count, MOST_PICTURES)
    assert steps == sorted(set(steps), reverse=True)
    assert (steps[0], steps[-1]) == (count - 1, 0)
    assert all(sample.picture for sample in shown)


def test_all_that_was_answered_is_shown(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "ledger")
    folder.create(JobSettings(name="ledger", model="small", data="a.txt"), Status(state="done"))
    for step in range(30):
        folder.add(Sample(step, "Who?", "Marta."))
    assert len(job_view(Job(folder, tmp_path / "lock"), "Small", "", "").samples) == 30
