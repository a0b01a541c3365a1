"""A job holds its bytes in the books of the chat's models, and gives them back at its end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from conftest import wait_until
from fakes import FakeSource, card
from tiny_jobs import JOB_BYTES, ended, manager, opened, run, settings_of, until_step
from tiny_recipe import Plan

from multimodal.catalog.cards import ModelCard
from multimodal.errors import CapacityError, TurnStoppedError, WeightsError
from multimodal.memory.manager import MemoryManager
from multimodal.weights import FetchProgress, ReportFetch

LONG = Plan(steps=10_000)
CHAT, SMALL = card("chat", size=60), card("aside", size=40)


def use(memory: MemoryManager, model: object) -> None:
    with memory.lease(model, threading.Event(), 0) as lease:  # type: ignore[arg-type]
        list(lease.wait())


def held(memory: MemoryManager) -> set[str]:
    return {entry.card for entry in memory.snapshot().held}


def test_an_idle_chat_model_leaves_for_a_job_and_comes_back_after_it(tmp_path: Path) -> None:
    source = FakeSource()
    memory = manager(100, source)
    use(memory, CHAT)
    with opened(tmp_path / "jobs", memory) as jobs:
        job = run(jobs, LONG)
        until_step(job, 1)
        assert held(memory) == set()
        assert memory.snapshot().used_bytes == JOB_BYTES
        jobs.stop(job.id)
        assert ended(jobs, job) == "stopped"
        assert memory.snapshot().used_bytes == 0
        use(memory, CHAT)
        assert held(memory) == {"chat"}


def test_a_chat_turn_goes_on_beside_a_job(tmp_path: Path) -> None:
    memory = manager(100)
    with opened(tmp_path / "jobs", memory) as jobs:
        job = run(jobs, LONG)
        until_step(job, 1)
        use(memory, SMALL)
        done = job.folder.status().step
        until_step(job, done + 1)
        assert held(memory) == {"aside"}
        assert memory.snapshot().used_bytes == JOB_BYTES + 40


def test_a_job_waits_for_a_turn_under_way_and_says_so(tmp_path: Path) -> None:
    memory = manager(100)
    with opened(tmp_path / "jobs", memory) as jobs:
        with memory.lease(CHAT, threading.Event(), 0) as lease:
            list(lease.wait())
            job = run(jobs, Plan())
            wait_until(lambda: "Waiting for memory" in job.folder.status().doing)
            assert job.status.state == "waiting"
            assert job.folder.status().runs == 0
        assert ended(jobs, job) == "done"


def test_a_job_that_waits_for_memory_is_stopped(tmp_path: Path) -> None:
    memory = manager(100)
    with (
        opened(tmp_path / "jobs", memory) as jobs,
        memory.lease(CHAT, threading.Event(), 0) as lease,
    ):
        list(lease.wait())
        job = run(jobs, Plan())
        wait_until(lambda: "Waiting for memory" in job.folder.status().doing)
        jobs.stop(job.id)
        assert ended(jobs, job) == "stopped"
        assert memory.snapshot().waiting == 0


def test_a_job_that_never_fits_is_refused_and_no_model_leaves_for_it(tmp_path: Path) -> None:
    memory = manager(100)
    use(memory, CHAT)
    with opened(tmp_path / "jobs", memory, estimate=lambda card, settings, device: 10**9) as jobs:
        with pytest.raises(CapacityError, match=r"takes 1\.00 GB, and the budget is"):
            jobs.create(settings_of(Plan()))
        assert jobs.all() == []
        assert held(memory) == {"chat"}


def test_a_job_whose_budget_shrank_since_fails_and_no_model_leaves_for_it(tmp_path: Path) -> None:
    with opened(tmp_path / "jobs", manager(100)) as jobs:
        jobs.create(settings_of(Plan()))
    small = manager(40)
    use(small, SMALL)
    with opened(tmp_path / "jobs", small) as jobs:
        jobs.start("counts")
        assert jobs.wait("counts", 60).state == "failed"
        assert "the budget is" in str(jobs.get("counts").status.error)
        assert held(small) == {"aside"}


def test_weights_are_fetched_first_and_that_is_told_and_stopped(tmp_path: Path) -> None:
    def fetch(model: ModelCard, report: ReportFetch, stop: threading.Event) -> Path:
        report(FetchProgress(model.name, 40_000_000, 93_000_000, "fetching"))
        wait_until(stop.is_set)
        raise TurnStoppedError("the download was stopped")

    memory = manager(100)
    use(memory, CHAT)
    with opened(tmp_path / "jobs", memory, fetch=fetch) as jobs:
        job = run(jobs, Plan())
        wait_until(lambda: job.folder.status().doing == "Fetching Small (MIT): 40 of 93 MB")
        assert held(memory) == {"chat"}
        jobs.stop(job.id)
        assert ended(jobs, job) == "stopped"
        assert job.status.runs == 0


def test_weights_that_cannot_be_had_are_told(tmp_path: Path) -> None:
    def fetch(model: ModelCard, report: ReportFetch, stop: threading.Event) -> Path:
        raise WeightsError("Small has no weights yet.")

    with opened(tmp_path / "jobs", fetch=fetch) as jobs:
        job = run(jobs, Plan())
        assert ended(jobs, job) == "failed"
        assert job.status.error == "Small has no weights yet."
