"""Devices that share the batches of a job, played by processes on the CPU: they learn what one
alone learns, stop and go on together, and end together where one fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_classify
import tiny_describe
import tiny_transcribe
import torch
import transformers
from conftest import wait_until
from drawn_digits import NAMES, save_digits
from job_runs import resumed
from peft import get_peft_model
from safetensors.torch import load_file
from tiny_jobs import manager, needs, settings_of
from tiny_recipe import Plan
from tiny_recipes import (
    Checkpoint,
    losses,
    make_job,
    questions,
    run_recipe,
    save_untaught,
    teach,
)
from trl import SFTConfig

from multimodal.catalog.cards import Catalog, shipped_models
from multimodal.errors import DeviceFullError, JobError
from multimodal.studio.checkpoints import find_whole
from multimodal.studio.context import JobContext, write_start
from multimodal.studio.estimate import GRADIENT_BYTES, job_bytes
from multimodal.studio.job_process import JobProcess
from multimodal.studio.recipes.adapters import lora_config
from multimodal.studio.recipes.arguments import training_arguments
from multimodal.studio.recipes.batching import Batching, check_alone
from multimodal.studio.recipes.describe import DescribeRecipe
from multimodal.studio.recipes.fitting_run import FittingRun
from multimodal.studio.recipes.supervised import SupervisedRecipe
from multimodal.studio.recipes.transcribe import TranscribeRecipe
from multimodal.studio.requirements import check_requirements

LAST_S = 240
TWO = 2


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("llama"))


@contextmanager
def running(job: JobContext, recipe: str = "") -> Iterator[JobProcess]:
    """Its processes, as a program starts and watches them; none is left at the end."""
    write_start(job.folder, replace(job.start, recipe=recipe))
    job.folder.discard_faults()
    process = JobProcess(job.folder, "cpu", devices=TWO)
    try:
        yield process
    finally:
        process.kill()
        wait_until(lambda: not processes_of(job), 30)


def processes_of(job: JobContext) -> list[int]:
    return [
        it.info["pid"]
        for it in psutil.process_iter(["pid", "cmdline", "status"])
        if it.info["status"] != psutil.STATUS_ZOMBIE
        and str(job.folder.path) in (it.info["cmdline"] or ())
    ]


def ended(job: JobContext, process: JobProcess) -> str:
    """How it ended, by itself."""
    assert process.wait(LAST_S), job.folder.log.read_text("utf-8")[-3000:]
    assert not processes_of(job)
    status = job.folder.status()
    assert status.state != "running", job.folder.log.read_text("utf-8")[-3000:]
    return status.state


def weights(job: JobContext) -> dict[str, torch.Tensor]:
    return load_file(next(job.folder.result.glob("*.safetensors")))


def test_two_that_are_stopped_and_resumed_learn_what_one_learns(
    tmp_path: Path, llama: Checkpoint
) -> None:
    data, facts = (questions(), questions(12, 100)), {"epochs": 6, "save_every": 2}
    alone = make_job(tmp_path / "alone", llama, *data, **facts)
    teach(alone)
    job = make_job(tmp_path / "shared", llama, *data, **facts, devices=TWO)
    with running(job) as process:
        wait_until(lambda: job.folder.status().step >= 3, LAST_S, every_s=0.01)
        job.folder.stop_file.touch()
        assert ended(job, process) == "stopped"
    step = job.folder.status().step
    assert 3 <= step < 30
    whole = find_whole(job.folder.checkpoints)
    assert whole is not None
    assert whole.name == f"checkpoint-{step}"
    assert [it.name for it in sorted(whole.glob("rng_state*"))] == [
        f"rng_state_{rank}.pth" for rank in range(TWO)
    ]
    job.folder.stop_file.unlink()
    again = resumed(job)
    with running(again) as process:
        assert ended(again, process) == "done"
    assert job.folder.status().accumulation == job.settings.accumulation
    assert len(losses(job)) == 30
    assert losses(job) == pytest.approx(losses(alone), rel=1e-3)
    assert losses(job, "eval_loss") == pytest.approx(losses(alone, "eval_loss"), rel=1e-3)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(job)[name], tensor, rtol=0.05, atol=2e-4)
    report = job.folder.report()
    assert report is not None
    assert report.figures["after"] < report.figures["before"]


@pytest.mark.thorough
def test_two_see_the_pictures_that_one_sees(tmp_path: Path) -> None:
    digits = save_digits(tmp_path / "digits", 24, names=NAMES[:3])
    card, files = tiny_classify.saved(tmp_path / "vit", "vit")
    # 48 pictures: of a batch that is not full, each process would be given others again.
    facts: dict[str, Any] = {"accumulation": TWO, "test_share": 1 / 3}
    alone = tiny_classify.make_job(tmp_path / "alone", digits, card, files, **facts)
    tiny_classify.teach(alone)
    job = tiny_classify.make_job(tmp_path / "shared", digits, card, files, **facts, devices=TWO)
    with running(job) as process:
        assert ended(job, process) == "done"
    assert losses(job) == pytest.approx(losses(alone), rel=1e-3)


def text_job(folder: Path, **facts: Any) -> JobContext:
    llama = save_untaught(folder / "llama")
    return make_job(folder / "job", llama, questions(120), questions(12, 200), **facts)


def whisper_job(folder: Path, **facts: Any) -> JobContext:
    tones = tiny_transcribe.save_tones(folder / "tones")
    whisper = tiny_transcribe.save_whisper(folder / "whisper")
    return tiny_transcribe.make_job(folder / "job", tones, whisper, **facts)


def picture_job(folder: Path, **facts: Any) -> JobContext:
    colours = tiny_describe.save_colours(folder / "colours")
    seeing = tiny_describe.save_seeing(folder / "llava", "llava")
    return tiny_describe.make_job(folder / "job", colours, seeing, **facts)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("make", "recipe", "facts"),
    [
        (text_job, SupervisedRecipe, {"method": "qlora"}),
        (text_job, SupervisedRecipe, {"method": "full", "gradient_checkpointing": True}),
        (text_job, SupervisedRecipe, {"gradient_checkpointing": True, "packing": True}),
        (whisper_job, TranscribeRecipe, {}),
        (whisper_job, TranscribeRecipe, {"trained_weights": "adapter"}),
        (picture_job, DescribeRecipe, {}),
    ],
    ids=["qlora", "full", "packed", "whisper", "whisper adapter", "llava"],
)
def test_whatever_is_taught_two_learn_what_one_learns(
    tmp_path: Path, make: Any, recipe: Any, facts: dict[str, Any]
) -> None:
    given = {**facts, "max_steps": 3, "accumulation": TWO}
    alone = make(tmp_path / "alone", **given)
    run_recipe(recipe(alone))
    job = make(tmp_path / "shared", **given, devices=TWO)
    with running(job) as process:
        assert ended(job, process) == "done"
    assert losses(job) == pytest.approx(losses(alone), rel=2e-3)


def test_the_fault_of_one_is_told_and_ends_the_other(tmp_path: Path, llama: Checkpoint) -> None:
    job = make_job(tmp_path / "job", llama, questions(4), questions(4), devices=TWO)
    with running(job, "tiny_shared:SecondFails") as process:
        assert ended(job, process) == "failed"
    assert job.folder.status().error == "The second cannot read this."


def test_processes_end_with_the_program(tmp_path: Path, llama: Checkpoint) -> None:
    job = make_job(tmp_path / "job", llama, questions(4), questions(4), devices=TWO)
    with running(job, "tiny_shared:Waits") as process:
        wait_until(lambda: job.folder.status().doing == "waiting", LAST_S)
        process.hang_up()
        assert ended(job, process) == "interrupted"


def test_one_that_computes_less_than_the_others_is_refused(
    tmp_path: Path, llama: Checkpoint
) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    shared = make_job(tmp_path / "shared", llama, questions(4), questions(4), devices=TWO)
    with pytest.raises(DeviceFullError, match="on one of 2 devices"):
        check_alone(shared, full)
    alone = make_job(tmp_path / "alone", llama, questions(4), questions(4))
    check_alone(alone, full)
    run = FittingRun(shared, "sample", "or not")
    assert run.batching == Batching(4, 2)
    assert run.sizes["gradient_accumulation_steps"] == 2
    sizes = {**run.sizes, "gradient_accumulation_steps": 6}
    assert training_arguments(shared, SFTConfig, **sizes).gradient_accumulation_steps == 3
    assert training_arguments(shared, SFTConfig).gradient_accumulation_steps == 1


@pytest.mark.parametrize(
    ("given", "device", "sentence"),
    [
        ({"method": "dpo"}, "sim", "share the batches of classify, describe, full, lora"),
        ({"accumulation": 3}, "sim", "choose an accumulation that is a multiple of 2"),
        ({}, "cuda", "There is one graphics card in this machine, not 2"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_made(
    tmp_path: Path, given: dict[str, Any], device: str, sentence: str
) -> None:
    memory = manager()
    memory.device.engine = device
    asked = settings_of(Plan(), devices=TWO, **given)
    with pytest.raises(JobError, match=sentence):
        check_requirements(needs(memory, card_count=lambda: 1), asked, tmp_path)


def test_what_hears_and_is_not_whisper_is_taught_on_one(tmp_path: Path) -> None:
    facts = {"method": "transcribe", "language": "en"}
    named = {"find_card": lambda name: Catalog([shipped_models()]).card("wav2vec2-base-960h")}
    asked = settings_of(Plan(), devices=TWO, **facts)
    with pytest.raises(JobError, match="of Whisper alone of what hears"):
        check_requirements(needs(manager(), **named), asked, tmp_path)


def test_each_card_holds_the_gradients_twice_and_host_memory_every_process(
    tmp_path: Path, llama: Checkpoint
) -> None:
    alone, shared = (
        make_job(tmp_path / str(count), llama, [], [], devices=count).settings for count in (1, TWO)
    )
    buckets = job_bytes(llama.card, shared) - job_bytes(llama.card, alone)
    model = transformers.AutoModelForCausalLM.from_pretrained(llama.folder)
    adapted = get_peft_model(model, lora_config(alone))
    assert buckets == GRADIENT_BYTES * adapted.get_nb_trainable_parameters()[0]
    on_cpu = [job_bytes(llama.card, it, "cpu") for it in (alone, shared)]
    assert on_cpu[1] == TWO * (on_cpu[0] + buckets)
