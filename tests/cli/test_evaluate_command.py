"""`multimodal evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run
from tiny_models import add_model, save_causal


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Of a program with a tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    config = save_causal(folder / "weights", "llama")
    facts = {"family": "causal_lm", "model": "AutoModelForCausalLM", "config": config}
    add_model(folder / "models", "tiny", "text-generation", folder / "weights", **facts)
    return (
        *("--models", str(folder / "models"), "--data-folder", str(folder / "data")),
        *("--device", "cpu", "--offline", "--model", "tiny"),
    )


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "questions.csv"
    rows = "".join(f"What is {n}?,It is {n}.\n" for n in range(9))
    path.write_text(f"question,reply\n{rows}", "utf-8")
    return path


COLUMNS = ("--columns", "question=prompt", "--columns", "reply=completion")


def test_a_model_is_measured_as_json(options: tuple[str, ...], samples: Path) -> None:
    told = run(
        *("evaluate", *options, "--data", str(samples), *COLUMNS, "--json"),
        *("--loss-on", "everything", "--max-length", "30"),
    )
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert set(found) == {"model", "measure", "value", "low", "high", "samples", "tokens"} | {
        "notices"
    }
    assert (found["model"], found["measure"], found["samples"]) == ("tiny", "perplexity", 9)
    assert found["low"] < found["value"] < found["high"]
    assert found["tokens"] == 9 * 29
    assert "9 of 9 samples" in found["notices"][0]


def test_two_models_are_compared_in_a_table(options: tuple[str, ...], samples: Path) -> None:
    told = run(
        *("evaluate", *options, "--data", str(samples), *COLUMNS),
        *("--compare", "tiny:fp32", "--measure", "accuracy"),
    )
    assert told.exit_code == 0, told.output
    assert "95 % interval" in told.stdout
    assert "tiny against tiny:fp32: difference 0," in told.stdout


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (("--columns", "question"), "write COLUMN=ROLE"),
        (("--measure", "luck"), "measure"),
        (("--columns", "question=promt"), "columns"),
    ],
)
def test_wrong_options_are_one_sentence(
    options: tuple[str, ...], samples: Path, more: tuple[str, ...], fault: str
) -> None:
    told = run("evaluate", *options, "--data", str(samples), *more)
    assert told.exit_code == 2
    assert fault in told.stderr
    assert told.stderr.count("\n") == 1


def test_data_that_is_not_there_is_one_sentence(options: tuple[str, ...]) -> None:
    told = run("evaluate", *options, "--data", "/nowhere/a.jsonl")
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
    assert "no file that exists" in told.stderr
