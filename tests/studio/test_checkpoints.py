"""A job goes on from its newest whole checkpoint, says which it passed over, and where none is
whole says why it cannot go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_jobs import ended, opened, run, until_step
from tiny_recipe import Plan, figure_of

from multimodal.errors import JobError
from multimodal.studio.checkpoints import (
    MANIFEST,
    discard_broken,
    find_whole,
    list_checkpoints,
    prune,
    why_not_resumable,
    why_not_whole,
    write_manifest,
)


def make(checkpoints: Path, step: int) -> Path:
    folder = checkpoints / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(200)))
    (folder / "inner" / "optimizer.pt").write_bytes(b"state" * 40)
    write_manifest(folder)
    return folder


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(range(100)))


def flip(folder: Path) -> None:
    path = folder / "inner" / "optimizer.pt"
    path.write_bytes(b"S" + path.read_bytes()[1:])


def lose(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def scramble(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\0" * 64)


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "model.safetensors has 100 bytes instead of 200"),
    (flip, "inner/optimizer.pt is damaged: it is not what was written"),
    (lose, "model.safetensors is missing"),
    (scramble, "its manifest.json cannot be read"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    older, newer = make(tmp_path, 9), make(tmp_path, 10)
    assert find_whole(tmp_path) == newer
    damage(newer)
    assert why_not_whole(newer) == told
    assert find_whole(tmp_path) == older
    assert why_not_resumable(tmp_path) is None
    assert discard_broken(tmp_path) == [
        f"checkpoint-10 was passed over: {told}. The job goes on from checkpoint-9."
    ]
    assert list_checkpoints(tmp_path) == [older]


@pytest.mark.parametrize(("damage", "told"), DAMAGE)
def test_where_every_checkpoint_is_damaged_none_is_removed(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    folder = make(tmp_path, 10)
    damage(folder)
    assert why_not_resumable(tmp_path) == f"checkpoint-10: {told}"
    assert discard_broken(tmp_path) == []
    assert folder.exists()


def test_a_checkpoint_that_was_never_finished_costs_no_more_than_its_steps(tmp_path: Path) -> None:
    folder = make(tmp_path, 5)
    (folder / MANIFEST).unlink()
    assert why_not_resumable(tmp_path) is None
    assert discard_broken(tmp_path) == [
        "checkpoint-5 was passed over: it was not written to its end. The job begins anew."
    ]
    assert list_checkpoints(tmp_path) == []


def test_damage_to_a_file_of_the_same_size_is_seen_a_second_time(tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    assert why_not_whole(folder) is None
    flip(folder)
    assert why_not_whole(folder) is not None


def test_old_checkpoints_go_only_once_newer_ones_are_whole(tmp_path: Path) -> None:
    first, second, best = make(tmp_path, 10), make(tmp_path, 20), make(tmp_path, 5)
    unfinished = make(tmp_path, 30)
    (unfinished / MANIFEST).unlink()
    prune(tmp_path, keep=2, spare=("checkpoint-5",))
    assert list_checkpoints(tmp_path) == [unfinished, second, first, best]
    write_manifest(unfinished)
    prune(tmp_path, keep=2)
    assert list_checkpoints(tmp_path) == [unfinished, second]


def test_a_job_whose_newest_checkpoint_is_damaged_says_so_and_comes_to_the_same(
    tmp_path: Path,
) -> None:
    plan = Plan(steps=200)
    with opened(tmp_path / "jobs") as jobs:
        job = run(jobs, plan)
        until_step(job, 12)
        jobs.stop(job.id)
        ended(jobs, job)
        newest, older = list_checkpoints(job.folder.checkpoints)
        (newest / "optimizer.pt").write_bytes(b"half")
        jobs.resume(job.id)
        assert ended(jobs, job) == "done"
        told = [notice.text for notice in job.folder.notices()][1]
        assert told.startswith(f"{newest.name} was passed over: optimizer.pt has 4 bytes")
        assert told.endswith(f"goes on from {older.name}.")
        report = job.folder.report()
        assert report is not None
        assert report.figures["figure"] == figure_of(plan)


def test_a_job_without_a_whole_state_is_not_resumed_and_nothing_is_lost(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs") as jobs:
        job = run(jobs, Plan(steps=10_000))
        until_step(job, 12)
        jobs.stop(job.id)
        ended(jobs, job)
        kept = list_checkpoints(job.folder.checkpoints)
        for folder in kept:
            (folder / "optimizer.pt").write_bytes(b"half")
        with pytest.raises(JobError, match=r"No checkpoint is whole \(checkpoint-.*has 4 bytes"):
            jobs.resume(job.id)
        assert list_checkpoints(job.folder.checkpoints) == kept
        assert job.status.state == "stopped"


def test_a_job_whose_data_were_changed_is_not_resumed(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs") as jobs:
        job = run(jobs, Plan(steps=10_000))
        until_step(job, 1)
        jobs.stop(job.id)
        ended(jobs, job)
        with (job.folder.data / "train.jsonl").open("a", encoding="utf-8") as file:
            file.write(" ")
        assert "train.jsonl has" in str(job.why_not_resumable())
        with pytest.raises(JobError, match=r"data cannot be used: train\.jsonl has"):
            jobs.resume(job.id)
