"""Jobs when the program that started them is gone, and when two programs share a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import wait_until
from tiny_jobs import ended, manager, opened, run, settings_of, until_step
from tiny_recipe import Plan, figure_of

from multimodal.errors import JobError
from multimodal.studio.job_process import is_alive
from multimodal.studio.jobs import Job, Jobs

LONG = Plan(steps=10_000)
PROGRAM = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tiny_jobs import opened, run
from tiny_recipe import Plan
with opened(Path(sys.argv[1])) as jobs:
    run(jobs, Plan(steps=10_000))
    run(jobs, Plan(steps=10_000), "next")
    time.sleep(600)
"""


@contextmanager
def other_program(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs the job “counts” and has “next” waiting; killed at the end."""
    tests = Path(__file__).parent.parent
    command = [sys.executable, "-c", PROGRAM, str(folder), str(tests), str(tests / "fixtures")]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def begun(jobs: Jobs) -> Job:
    """“counts”, once it has done twelve steps in the other program."""
    wait_until(lambda: len(jobs.all()) == 2)
    job = jobs.get("counts")
    until_step(job, 12)
    return job


def send(job: Job, number: signal.Signals) -> None:
    """A signal to its process."""
    pid = job.folder.status().pid
    assert pid is not None
    os.kill(pid, number)


@pytest.mark.skipif(os.name != "posix", reason="there are no signals")
def test_a_job_whose_program_is_killed_saves_its_state_and_ends(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs") as jobs, other_program(tmp_path / "jobs") as program:
        job = begun(jobs)
        program.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_alive(job.folder.status()))
        assert job.folder.status().state == "interrupted"
        with opened(tmp_path / "jobs") as again:
            done = job.status.step
            again.resume("counts")
            until_step(job, done + 1)
            assert next(m.step for m in job.folder.metrics() if m.run == 2) == done + 1
            again.start("next")


@pytest.mark.skipif(os.name != "posix", reason="there are no signals")
def test_a_job_that_is_killed_with_its_program_is_interrupted_at_the_next_start(
    tmp_path: Path,
) -> None:
    with other_program(tmp_path / "jobs") as program:
        with opened(tmp_path / "jobs") as jobs:
            job = begun(jobs)
        program.send_signal(signal.SIGKILL)
        send(job, signal.SIGKILL)
        program.wait()
        wait_until(lambda: not is_alive(job.folder.status()))
        assert job.folder.status().state == "running"
        assert job.status.state == "interrupted"
        with opened(tmp_path / "jobs"):
            assert job.folder.status().state == "interrupted"
            assert job.folder.status().ended_s is not None


def test_what_another_program_runs_is_seen_and_left_alone(tmp_path: Path) -> None:
    with other_program(tmp_path / "jobs"), opened(tmp_path / "jobs") as jobs:
        job, following = begun(jobs), jobs.get("next")
        assert (job.status.state, following.status.state) == ("running", "waiting")
        for act in (jobs.resume, jobs.start, jobs.remove):
            with pytest.raises(JobError):
                act("counts")
        with pytest.raises(JobError, match="runs, or waits for its turn, already"):
            jobs.start("next")
        assert job.status.state == "running"


def test_a_job_of_another_program_is_stopped_by_a_file(tmp_path: Path) -> None:
    with other_program(tmp_path / "jobs"), opened(tmp_path / "jobs") as jobs:
        job = begun(jobs)
        jobs.stop("next")
        wait_until(lambda: jobs.get("next").status.state == "stopped")
        assert job.status.state == "running"
        jobs.stop("counts")
        assert ended(jobs, job) == "stopped"
        done = job.status.step
        jobs.resume("counts")
        until_step(job, done + 1)


def test_what_was_being_made_when_a_program_was_killed_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs") as jobs:
        jobs.create(settings_of(Plan(), "kept.new"))
        (jobs.folder / ".half.new" / "half" / "data").mkdir(parents=True)
        (jobs.folder / ".gone.old" / "checkpoints").mkdir(parents=True)
        with jobs.new_folder("busy") as busy:
            busy.path.mkdir(parents=True)
            with opened(jobs.folder):
                names = {path.name for path in jobs.folder.iterdir()}
                assert names == {"kept.new", ".busy.new", ".locks"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.skipif(os.name != "posix", reason="there are no signals")
def test_a_process_that_is_asked_to_end_saves_its_state(
    tmp_path: Path, number: signal.Signals
) -> None:
    plan = Plan(steps=200)
    with opened(tmp_path / "jobs", manager()) as jobs:
        job = run(jobs, plan)
        until_step(job, 7)
        send(job, number)
        assert ended(jobs, job) == "stopped"
        done = job.status.step
        jobs.resume(job.id)
        assert ended(jobs, job) == "done"
        assert next(m.step for m in job.folder.metrics() if m.run == 2) == done + 1
        report = job.folder.report()
        assert report is not None
        assert report.figures["figure"] == figure_of(plan)


def test_a_process_of_the_same_number_is_not_the_job(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs") as jobs:
        job = run(jobs, LONG)
        until_step(job, 1)
        status = job.folder.status()
        assert is_alive(status)
        assert status.process_created_s is not None
        later = replace(status, process_created_s=status.process_created_s - 100)
        assert not is_alive(later)
