"""`multimodal export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run
from job_results import BASE, OTHER, adapter_job, save_models

Options = tuple[str, ...]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a program with two tiny models, and a job that taught one of them and is
    not offered in the chat."""
    folder = tmp_path_factory.mktemp("program")
    configs = save_models(folder / "models")
    adapter_job(folder / "data" / "studio" / "jobs", "taught", configs[BASE])
    return folder


@pytest.fixture
def options(data: Path, tmp_path: Path) -> Options:
    return (
        *("--models", str(data / "models"), "--data", str(data / "data"), "--profile", "tiny"),
        *("--device", "cpu", "--offline", "--out", str(tmp_path / "out")),
    )


@pytest.mark.timeout(300)
def test_the_result_of_a_job_is_exported_as_json(options: Options, tmp_path: Path) -> None:
    told = run("export", *options, "--model", "taught", "--to", "safetensors", "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["folder"] == str(tmp_path / "out")
    assert found["certificate"]["is_passed"]
    assert found["certificate"]["base"] == BASE
    names = {it.name for it in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "config.json", "certificate.json"} <= names


@pytest.mark.parametrize(
    ("asked", "status", "fault"),
    [
        (("--model", "taught", "--to", "paper"), 2, "no format 'paper'"),
        (("--model", "taught", "--to", "gguf", "--quantization", "q6_k"), 2, "not written"),
        (("--model", "nobody", "--to", "gguf"), 2, "there is no model 'nobody'"),
        (("--model", OTHER, "--to", "gguf"), 2, "of the kind 'phi' cannot be written as GGUF"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    options: Options, tmp_path: Path, asked: Options, status: int, fault: str
) -> None:
    told = run("export", *options, *asked)
    assert fault in told.stderr
    assert (told.exit_code, told.stderr.count("\n")) == (status, 1)
    assert list(tmp_path.iterdir()) == []
