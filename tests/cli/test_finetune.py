"""`multimodal finetune`: every field is an option, and a tiny model is really taught by it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from command_line import run
from conftest import ROOT, wait_until
from own_models import write_card
from tiny_models import causal_config
from tiny_recipes import lines, save_untaught, write_rows
from typer.testing import CliRunner

from multimodal.cli.job_options import with_job_settings
from multimodal.studio.folder import JobFolder
from multimodal.studio.settings import JobSettings, job_settings

OWN = typer.Typer()


@OWN.command()
@with_job_settings
def show(chosen: Mapping[str, Any]) -> None:
    print(job_settings(chosen).model_dump_json())


LEAST = {"name": "taught", "model": "tiny", "data": "lines.jsonl"}
CHANGES: list[dict[str, Any]] = [
    {},
    {"columns": {"my question": "prompt", "a=b": "completion"}},
    {"method": "grpo", "rewards": ("format", "length"), "generations": 4},
    {"epochs": 0.5, "learning_rate": 1e-6, "max_steps": 7, "warmup_share": 0.25},
    {"gradient_checkpointing": False, "packing": True, "may_shorten": True, "offload": True},
    {"gradient_checkpointing": True, "patience": 0, "seed": 3, "install_failed": True},
    {"reward_file": Path("my rewards.py"), "run_code": True, "beta": 0.2},
    {"data": "a 'quoted' file.txt", "scheduler": "cosine", "precision": "bf16"},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_command_that_a_job_prints_is_the_same_job(changes: dict[str, Any]) -> None:
    settings = JobSettings(**{**LEAST, **changes})
    words = shlex.split(settings.command())
    assert words[:2] == ["multimodal", "finetune"]
    told = CliRunner().invoke(OWN, words[2:])
    assert told.exit_code == 0, told.output
    assert JobSettings.model_validate_json(told.stdout) == settings


def test_every_field_of_a_job_is_an_option_with_its_description() -> None:
    told = " ".join(run("finetune", "--help").stdout.split())
    for name, field in JobSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in told
        assert str(field.description).split(";")[0].split(",")[0] in told


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with the card of a model of two layers that was never taught."""
    save_untaught(tmp_path / "tiny")
    config = {
        name: value for name, value in causal_config("llama").items() if not isinstance(value, dict)
    }
    part = {"library": "transformers", "model": "AutoModelForCausalLM", "config": config}
    write_card(
        tmp_path / "models",
        "tiny",
        "text-generation",
        "causal_lm",
        context_tokens=128,
        source={"kind": "folder", "path": str(tmp_path / "tiny")},
        architecture={"kind": "modules", "parts": {"text": part}},
    )
    write_rows(tmp_path / "lines.jsonl", lines(80))
    return tmp_path / "models"


def options(models: Path, data: str = "data") -> list[str]:
    return ["--models", str(models), "--data-folder", str(models.parent / data)]


def job_options(models: Path, **more: object) -> list[str]:
    given = {
        **LEAST,
        "data": models.parent / "lines.jsonl",
        **{"max_length": 32, "batch": 4, "accumulation": 1, "lora_rank": 4},
        **{"learning_rate": 0.01, "max_steps": 8, "evaluate_every": 4, "test_share": 0.3},
        **more,
    }
    return [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def test_a_model_is_taught_exported_and_taken_in_elsewhere(models: Path) -> None:
    bundle = models.parent / "taught.zip"
    told = run(
        "finetune",
        *job_options(models),
        *options(models),
        *("--export-bundle", str(bundle), "--install-failed", "--json"),
    )
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    assert (said["job"], said["status"]["state"], said["status"]["step"]) == ("taught", "done", 8)
    assert said["report"]["after"]["value"] < said["report"]["before"]["value"]
    offered = run("models", "--json", *options(models)[:2], "--data", str(models.parent / "data"))
    assert "taught" in [row["name"] for row in json.loads(offered.stdout)]
    [listed] = json.loads(run("jobs", "--json", "--data", str(models.parent / "data")).stdout)
    assert listed == said
    table = run("jobs", "--data", str(models.parent / "data")).stdout
    assert "taught" in table
    assert "8 of 8" in table

    came = run("finetune", "--import-bundle", str(bundle), "--json", *options(models, "elsewhere"))
    assert came.exit_code == 0, came.output
    assert json.loads(came.stdout)["report"] == said["report"]
    again = run("finetune", "--import-bundle", str(bundle), *options(models, "elsewhere"))
    assert again.exit_code == 2
    assert "There is a job taught already" in again.stderr


@pytest.mark.thorough
def test_ctrl_c_saves_a_checkpoint_and_the_job_goes_on_by_the_command_that_is_told(
    models: Path,
) -> None:
    command = [sys.executable, "-c", "from multimodal.cli.commands import main; main()", "finetune"]
    more = job_options(models, max_steps=400, evaluate_every=200, patience=0)
    with subprocess.Popen(
        [*command, *more, *options(models)], cwd=ROOT, text=True, stderr=subprocess.PIPE
    ) as program:
        job = JobFolder(models.parent / "data" / "studio" / "jobs" / "taught")
        wait_until(lambda: job.status().step >= 3 or program.poll() is not None, 200)
        child = job.status().pid
        program.send_signal(signal.SIGINT)
        _, told = program.communicate(timeout=120)
    assert program.returncode == 1
    assert "It goes on with: multimodal finetune --name taught --resume" in told
    assert child is not None
    assert not psutil.pid_exists(child)
    step = job.status().step
    assert job.status().state == "stopped"
    assert (job.checkpoints / f"checkpoint-{step}" / "manifest.json").is_file()

    wrong = run("finetune", "--name", "taught", "--batch", "2", "--resume", *options(models))
    assert wrong.exit_code == 2
    assert "give --name alone" in wrong.stderr
    with subprocess.Popen(
        [*command, "--name", "taught", "--resume", *options(models)], cwd=ROOT
    ) as program:
        wait_until(lambda: any(metric.run == 2 for metric in job.metrics()), 200)
        assert next(metric.step for metric in job.metrics() if metric.run == 2) == step + 1
        program.send_signal(signal.SIGINT)
        program.wait(120)
    assert job.status().state == "stopped"


WRONG: list[tuple[list[str], str]] = [
    (["--method", "magic"], "method"),
    (["--batch", "0"], "batch"),
    (["--rewards", "luck"], "rewards"),
    (["--columns", "question"], "write COLUMN=ROLE"),
    (["--columns", "question=wish"], "columns"),
    (["--model", "nobody"], "there is no model 'nobody'"),
    (["--name", "gpt2"], "GPT-2 is called gpt2 already"),
    (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
    (["--reward-file", "mine.py"], "--run-code"),
    (["--import-bundle", "a.zip"], "leave out what it is to do"),
    (["--settings", "nowhere.toml"], "nowhere.toml cannot be read"),
]


@pytest.mark.parametrize(("words", "told"), WRONG)
def test_a_wrong_option_is_one_line_and_nothing_is_written(
    models: Path, words: list[str], told: str
) -> None:
    done = run("finetune", *job_options(models), *words, *options(models))
    assert done.exit_code == 2, done.output
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("multimodal: ")
    assert told in line
    assert list((models.parent / "data").glob("studio/jobs/[a-z]*")) == []


def test_a_file_of_settings_is_begun_with_and_options_win(models: Path) -> None:
    file = models.parent / "job.toml"
    given = JobSettings(**LEAST, batch=8, seed=5).as_toml()
    file.write_text(given.replace('model = "tiny"', 'model = "nobody"'), "utf-8")
    done = run("finetune", "--settings", str(file), *options(models))
    assert "there is no model 'nobody'" in done.stderr
    done = run("finetune", "--settings", str(file), "--model", "somebody", *options(models))
    assert "there is no model 'somebody'" in done.stderr
    file.write_text(f"{given}betch = 3\n", "utf-8")
    done = run("finetune", "--settings", str(file), *options(models))
    assert "unknown field 'betch'; did you mean 'batch'?" in done.stderr
    assert done.exit_code == 2


def test_a_full_budget_is_a_failure_and_no_bad_use(models: Path) -> None:
    done = run("finetune", *job_options(models), "--budget", "1MB", *options(models))
    assert done.exit_code == 1
    assert "and the budget is" in done.stderr


def test_without_jobs_the_list_is_empty(tmp_path: Path) -> None:
    assert run("jobs", "--json", "--data", str(tmp_path)).stdout.strip() == "[]"
    assert not (tmp_path / "studio").exists()
    assert list(tmp_path.iterdir()) == []
