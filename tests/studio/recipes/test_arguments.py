"""A job's settings as trainers read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_recipes import Checkpoint, lines, losses, make_job, questions, save_untaught, teach
from trl import SFTConfig

from multimodal.studio.context import JobContext
from multimodal.studio.recipes.arguments import training_arguments
from multimodal.studio.settings import Method


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("llama"))


def job_of(folder: Path, llama: Checkpoint, **settings: Any) -> JobContext:
    return make_job(folder, llama, lines(4), lines(4), **{"learning_rate": None, **settings})


@pytest.mark.parametrize(("method", "rate"), [("full", 5e-5), ("lora", 2e-4), ("qlora", 2e-4)])
def test_method_has_its_usual_learning_rate_unless_another_is_given(
    tmp_path: Path, llama: Checkpoint, method: Method, rate: float
) -> None:
    usual = training_arguments(job_of(tmp_path / "usual", llama, method=method), SFTConfig)
    asked = job_of(tmp_path / "asked", llama, method=method, learning_rate=0.25)
    assert usual.learning_rate == rate
    assert training_arguments(asked, SFTConfig).learning_rate == 0.25


def test_processor_computes_in_fp32_where_it_has_no_fp16(tmp_path: Path, llama: Checkpoint) -> None:
    arguments = training_arguments(job_of(tmp_path / "job", llama, precision="fp16"), SFTConfig)
    assert not arguments.fp16
    assert not arguments.bf16
    assert training_arguments(job_of(tmp_path / "bf16", llama, precision="bf16"), SFTConfig).bf16


def test_nothing_is_reported_to_others_and_what_is_given_wins(
    tmp_path: Path, llama: Checkpoint
) -> None:
    arguments = training_arguments(job_of(tmp_path / "job", llama), SFTConfig, optim="sgd")
    assert arguments.report_to == []
    assert not arguments.push_to_hub
    assert arguments.optim == "sgd"


def test_cosine_warmup_8_bit_states_bf16_and_recomputed_activations_learn_together(
    tmp_path: Path, llama: Checkpoint
) -> None:
    job = make_job(
        tmp_path / "job",
        llama,
        questions(),
        questions(12, 100),
        scheduler="cosine",
        warmup_share=0.2,
        optimizer="adamw_8bit",
        precision="bf16",
        gradient_checkpointing=True,
    )
    report = teach(job)
    rates = losses(job, "learning_rate")
    assert rates[:3] == pytest.approx([0, 2.5e-3, 5e-3])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert report.passed, report.verdict


def test_result_names_no_folder_of_this_machine(tmp_path: Path, llama: Checkpoint) -> None:
    for method in ("lora", "full"):
        job = make_job(tmp_path / method, llama, questions(8), questions(8), method=method)
        teach(job)
        for path in job.folder.result.iterdir():
            assert str(tmp_path).encode() not in path.read_bytes(), path.name
            assert str(llama.folder).encode() not in path.read_bytes(), path.name
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "full" / "result")
    assert whole.dtype is torch.float32
