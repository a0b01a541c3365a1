"""A job is made, started, stopped and resumed; whatever ends it, nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import wait_until
from tiny_jobs import JOB_BYTES, ended, manager, opened, run, settings_of, until_step
from tiny_recipe import MARK, SAVE_EVERY, Plan, figure_of

from multimodal.errors import CapacityError, JobError, RequestError, UnknownModelError
from multimodal.memory.manager import MemoryManager
from multimodal.studio.context import read_start
from multimodal.studio.jobs import Job, Jobs

LONG = Plan(steps=10_000)
Memory = MemoryManager


@pytest.fixture
def memory() -> Memory:
    return manager()


@pytest.fixture
def jobs(tmp_path: Path, memory: Memory) -> Iterator[Jobs]:
    with opened(tmp_path / "jobs", memory) as jobs:
        yield jobs


def left(jobs: Jobs, memory: Memory) -> list[str]:
    """What a run may not leave: bytes, processes, and files of its own."""
    processes = [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(jobs.folder) in word or MARK in word for word in process.info["cmdline"] or ())
    ]
    files = [path.name for path in jobs.folder.rglob("*") if path.suffix in {".new", ".old"}]
    files += [path.name for path in jobs.folder.glob("*/stop")]
    return [*map(str, memory.snapshot().reserved), *map(str, processes), *files]


def test_a_job_runs_to_its_end_and_tells_all_of_it(jobs: Jobs, memory: Memory) -> None:
    plan = Plan()
    job = run(jobs, plan)
    until_step(job, 1)
    assert memory.snapshot().reserved == (("Fine-tuning counts", JOB_BYTES),)
    assert (job.status.state, job.status.doing, job.status.steps) == ("running", "Training", 20)
    assert psutil.Process(job.status.pid).nice() > psutil.Process().nice()
    assert ended(jobs, job) == "done"
    report = job.folder.report()
    assert report is not None
    assert report.figures["figure"] == figure_of(plan)
    assert [metric.step for metric in job.folder.metrics()] == list(range(1, 21))
    assert [notice.text for notice in job.folder.notices()] == ["The data are a plan."]
    assert [job.id for job in jobs.all()] == ["counts"]
    assert (job.folder.result / "adapter_model.safetensors").is_file()
    assert not (job.folder.path / "at_work").exists()
    assert left(jobs, memory) == []


def test_a_job_that_is_stopped_keeps_its_last_step_and_goes_on_from_there(
    jobs: Jobs, memory: Memory
) -> None:
    plan = Plan(steps=200)
    job = run(jobs, plan)
    until_step(job, 7)
    jobs.stop(job.id)
    assert ended(jobs, job) == "stopped"
    done = job.status.step
    assert 7 <= done < 200
    assert job.status.error is None
    assert left(jobs, memory) == []
    jobs.resume(job.id)
    assert ended(jobs, job) == "done"
    assert [m.step for m in job.folder.metrics()] == list(range(1, 201))
    assert [m.run for m in job.folder.metrics()] == [1] * done + [2] * (200 - done)
    assert result(job) == figure_of(plan)


def result(job: Job) -> float:
    report = job.folder.report()
    assert report is not None
    return report.figures["figure"]


def test_kill_9_costs_at_most_the_steps_since_the_last_checkpoint(
    jobs: Jobs, memory: Memory
) -> None:
    """At twelve random moments: while it starts, between two steps, while it saves."""
    chance = random.Random(13)  # noqa: S311
    job = run(jobs, LONG)
    for kills in range(1, 13):
        until_step(job, job.folder.status().step + chance.choice((0, 1, 3, 7)))
        wait_until(lambda: job.folder.status().pid is not None, every_s=0.01)
        time.sleep(chance.random() * 0.05)
        kill(job)
        assert ended(jobs, job) == "interrupted"
        assert "killed by signal 9" in str(job.status.error)
        assert left(jobs, memory) == []
        done = job.status.step
        jobs.resume(job.id)
        until_step(job, done + 1)
        first = next(m.step for m in job.folder.metrics() if m.run == kills + 1)
        assert done - SAVE_EVERY < first <= done + 1
    jobs.stop(job.id)
    assert ended(jobs, job) == "stopped"
    done = job.status.step
    assert [m.step for m in job.folder.metrics()] == list(range(1, done + 1))
    state = job.folder.checkpoints / f"checkpoint-{done}" / "state.json"
    assert json.loads(state.read_text("utf-8"))["figure"] == figure_of(Plan(steps=done))


def kill(job: Job) -> None:
    pid = job.folder.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_job_killed_while_it_saves_goes_on_from_the_checkpoint_before(jobs: Jobs) -> None:
    plan = Plan(steps=20, act="save", at=15)
    job = run(jobs, plan)
    assert ended(jobs, job) == "interrupted"
    jobs.resume(job.id)
    assert ended(jobs, job) == "done"
    assert result(job) == figure_of(plan)
    [told] = [n.text for n in job.folder.notices() if n.run == 2]
    assert told == (
        "checkpoint-15 was passed over: it was not written to its end. The job goes on from "
        "checkpoint-10."
    )


@pytest.mark.parametrize(
    ("act", "state", "told"),
    [
        ("exit", "interrupted", "ended without a word (with exit status 3)"),
        ("child", "interrupted", "ended without a word (with exit status 3)"),
        ("raise", "failed", "an error that the program does not know (ValueError); log.txt"),
        ("refuse", "failed", "This cannot be taught."),
        ("full", "failed", "The card is full."),
    ],
)
def test_whatever_ends_a_job_is_told_and_leaves_nothing(
    jobs: Jobs, memory: Memory, act: str, state: str, told: str
) -> None:
    job = run(jobs, Plan(act=act, at=8))
    assert ended(jobs, job) == state
    assert told in str(job.status.error)
    assert ("the answer is 42" in job.folder.log.read_text("utf-8")) == (act == "raise")
    assert left(jobs, memory) == []
    jobs.resume(job.id)
    assert ended(jobs, job) == "done"
    assert result(job) == figure_of(Plan())


def test_a_job_that_does_not_answer_is_ended_without_a_checkpoint(
    jobs: Jobs, memory: Memory
) -> None:
    job = run(jobs, Plan(act="hang", at=8))
    until_step(job, 7)
    jobs.stop(job.id)
    assert jobs.wait(job.id, 1).state == "running"
    jobs.stop(job.id, now=True)
    assert ended(jobs, job) == "stopped"
    assert left(jobs, memory) == []


def test_one_job_runs_at_a_time_and_the_next_follows(jobs: Jobs, memory: Memory) -> None:
    first, second = run(jobs, Plan(), "first"), run(jobs, Plan(), "second")
    until_step(first, 3)
    assert second.status.state == "waiting"
    assert ended(jobs, second) == "done"
    assert first.status.state == "done"
    begun, over = second.folder.status().started_s, first.folder.status().ended_s
    assert begun is not None
    assert over is not None
    assert begun >= over
    assert left(jobs, memory) == []


def test_a_job_that_waits_is_stopped_at_once(jobs: Jobs) -> None:
    first, second = run(jobs, LONG, "first"), run(jobs, Plan(), "second")
    until_step(first, 1)
    jobs.stop("second")
    assert second.status.state == "stopped"
    assert first.status.state == "running"
    with pytest.raises(JobError, match="second does not run"):
        jobs.stop("second")


def test_a_job_is_interrupted_with_a_checkpoint_when_its_program_closes(tmp_path: Path) -> None:
    memory = manager()
    with opened(tmp_path / "jobs", memory) as jobs:
        job, queued = run(jobs, LONG), run(jobs, LONG, "queued")
        until_step(job, 12)
    assert (job.status.state, queued.status.state) == ("interrupted", "waiting")
    assert left(jobs, memory) == []
    with opened(tmp_path / "jobs", memory) as again:
        done = job.status.step
        again.resume(job.id)
        again.start(queued.id)
        until_step(job, done + 1)
        assert next(m.step for m in job.folder.metrics() if m.run == 2) == done + 1


def test_what_cannot_be_taught_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs", free_bytes=lambda path: 10**12) as jobs:
        run(jobs, Plan())
        refused: list[tuple[dict[str, object], type[Exception], str]] = [
            ({"name": "counts"}, JobError, "There is a job counts already"),
            ({"name": "other"}, JobError, "Other is called other already"),
            ({"model": "drawer"}, JobError, "Drawer answers text-to-image and cannot be taught"),
            ({"model": "alien"}, JobError, "Alien is of fake and cannot be taught"),
            ({"model": "nobody"}, UnknownModelError, "no model 'nobody'"),
            ({"method": "grpo"}, JobError, "GRPO needs a reward"),
            (
                {"method": "grpo", "rewards": ("length",), "generations": 3},
                JobError,
                "4 x 4 answers, which is no whole number of groups of 3",
            ),
            (
                {"method": "grpo", "reward_file": tmp_path / "r.py", "run_code": True},
                JobError,
                "r.py does not exist",
            ),
        ]
        for changed, kind, told in refused:
            with pytest.raises(kind, match=told):
                jobs.create(settings_of(Plan(), **{"name": "fresh", **changed}))
        assert [job.id for job in jobs.all()] == ["counts"]
        assert {path.name for path in jobs.folder.iterdir()} == {"counts", ".locks"}


def test_bad_data_leave_no_job(tmp_path: Path) -> None:
    def refuse(settings: object, rows: object, folder: Path) -> tuple[str, ...]:
        (folder / "train.jsonl").write_text("half", "utf-8")
        raise RequestError("lines.txt is empty.")

    with opened(tmp_path / "jobs", prepare=refuse) as jobs:
        with pytest.raises(RequestError, match=r"lines\.txt is empty"):
            jobs.create(settings_of(Plan()))
        assert [path.name for path in jobs.folder.iterdir()] == [".locks"]


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "jobs", free_bytes=lambda path: 10**6) as jobs,
        pytest.raises(CapacityError, match=r"only 1 MB are free in .*--data"),
    ):
        jobs.create(settings_of(Plan()))


def test_a_job_is_removed_once_it_does_not_run(jobs: Jobs, memory: Memory) -> None:
    job = run(jobs, LONG)
    until_step(job, 1)
    with pytest.raises(JobError, match="runs"):
        jobs.remove(job.id)
    jobs.stop(job.id)
    assert ended(jobs, job) == "stopped"
    jobs.remove(job.id)
    assert jobs.all() == []
    assert left(jobs, memory) == []
    with pytest.raises(JobError, match="There is no job 'counts'"):
        jobs.get("counts")


def test_names_that_are_no_jobs_reach_nothing_outside(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("", "utf-8")
    for name in ("..", ".", "", "../jobs", "a/b", str(tmp_path)):
        with pytest.raises(JobError, match="There is no job"):
            jobs.get(name)


def test_a_batch_that_does_not_fit_is_computed_in_parts(tmp_path: Path) -> None:
    memory = manager(budget=100)
    with opened(
        tmp_path / "jobs", memory, estimate=lambda card, settings, device: 30 * settings.batch
    ) as jobs:
        job = run(jobs, LONG, batch=9)
        until_step(job, 1)
        assert memory.snapshot().reserved == (("Fine-tuning counts", 90),)
        assert read_start(job.folder).batch == 3
        assert job.settings.batch == 9
        assert "A batch of 9 does not fit the budget at once, so 3" in job.folder.notices()[1].text


def test_a_done_job_is_not_resumed(jobs: Jobs) -> None:
    job = run(jobs, Plan(steps=2))
    assert ended(jobs, job) == "done"
    with pytest.raises(JobError, match=r"It is done\. To teach its result further"):
        jobs.resume(job.id)
    with pytest.raises(JobError, match="ran before"):
        jobs.start(job.id)


def test_a_status_that_a_crash_cut_short_is_that_of_an_interrupted_job(jobs: Jobs) -> None:
    job = jobs.create(settings_of(Plan()))
    (job.folder.path / "status.json").write_text(json.dumps({"state": "run"}), "utf-8")
    assert job.status.state == "interrupted"
    jobs.resume(job.id)
    assert ended(jobs, job) == "done"
