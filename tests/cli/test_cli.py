"""The command line: one-line errors, exit status, answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run
from conftest import ROOT

from multimodal.catalog.cards import Catalog


def at(data: Path, weights: Path) -> tuple[str, ...]:
    """Options that name these folders."""
    return ("--data", str(data), "--weights", str(weights))


@pytest.mark.parametrize("command", ["", "serve", "chat", "models", "doctor"])
def test_every_command_explains_itself(command: str) -> None:
    told = run(*([command] if command else []), "--help")
    assert told.exit_code == 0
    assert "Usage" in told.stdout


def test_help_does_not_wait_for_the_engines() -> None:
    code = "import sys, multimodal.cli.commands; print({'torch', 'gradio'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout.strip() == "set()"


def test_ctrl_c_stops_the_reply_and_not_the_program(all_weights: Path, tmp_path: Path) -> None:
    """In a process of its own, which a signal reaches."""
    code = "from multimodal.cli.commands import main; main()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code, "chat", "--data", str(tmp_path)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "MULTIMODAL_WEIGHTS": str(all_weights)},
    ) as talk:
        assert talk.stdin
        assert talk.stdout
        talk.stdin.write("Count from one to a thousand in words.\n")
        talk.stdin.flush()
        heard = talk.stdout.read(len("\nyou> ") + 20)
        talk.send_signal(signal.SIGINT)
        rest, _ = talk.communicate("Say hello.\n", timeout=120)
    assert len(heard) == len("\nyou> ") + 20
    assert talk.returncode == 0
    assert rest.count("you>") == 2


def test_models_are_listed_as_a_table_and_as_json(
    all_weights: Path, tmp_path: Path, catalog: Catalog
) -> None:
    table = run("models", *at(tmp_path, all_weights))
    assert table.exit_code == 0
    assert "smollm2-135m-instruct" in table.stdout
    rows = json.loads(run("models", "--json", *at(tmp_path, all_weights)).stdout)
    ready = {row["name"]: row["ready"] for row in rows}
    profile = catalog.profile("embedded")
    untrained = [row["name"] for row in rows if row["untrained"]]
    assert tuple(ready) == (*profile.names, *untrained)
    assert untrained == ["resnet-untrained", "vit-untrained", "unet-untrained"]
    assert not any(ready[name] for name in untrained)
    assert all(ready[name] for name in profile.defaults)


def test_the_doctor_finds_this_machine_well(all_weights: Path, tmp_path: Path) -> None:
    told = run("doctor", "--json", *at(tmp_path, all_weights))
    checks = {check["name"]: check for check in json.loads(told.stdout)}
    assert told.exit_code == 0
    assert checks["SmolLM2 135M"]["found"] == "weights are here and verified"
    assert "verdict" in checks["GPU"]


def test_the_doctor_tells_an_index_that_does_not_answer(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/simple"
    told = run("doctor", *at(tmp_path, tmp_path / "none"), PIP_INDEX_URL=closed)
    assert told.exit_code == 1
    assert "from the package index: it cannot be reached" in told.stdout
    assert "PIP_INDEX_URL" in told.stdout


def test_the_doctor_fails_where_something_is_missing(tmp_path: Path) -> None:
    told = run("doctor", "--offline", *at(tmp_path, tmp_path / "none"))
    assert told.exit_code == 1
    assert "fail" in told.stdout


def test_a_question_is_answered_and_the_route_told_beside_it(
    all_weights: Path, tmp_path: Path
) -> None:
    told = run("chat", "What is photosynthesis?", *at(tmp_path, all_weights))
    assert told.exit_code == 0
    assert "plants" in told.stdout.lower()
    assert "→ The message is text" in told.stderr


def test_a_picture_is_described(all_weights: Path, examples: Path, tmp_path: Path) -> None:
    picture = str(examples / "chelsea.jpg")
    told = run("chat", "--image", picture, *at(tmp_path, all_weights))
    assert "cat" in told.stdout


def test_a_talk_in_the_terminal_remembers(all_weights: Path, tmp_path: Path) -> None:
    said = "Say hello.\n\nSay goodbye.\n"
    told = run("chat", *at(tmp_path, all_weights), typed=said)
    assert told.exit_code == 0
    assert told.stdout.count("you>") >= 3


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["chat", "hi", "--model", "gpt"], 2, "there is no model 'gpt'"),
        (["chat", "--image", "/no/such.jpg"], 2, "“such.jpg” cannot be read"),
        (["models", "--profile", "huge"], 2, "there is no profile 'huge'"),
        (["models", "--device", "tpu"], 2, "choose auto, cpu, cuda"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], status: int, sentence: str, all_weights: Path, tmp_path: Path
) -> None:
    told = run(*arguments, *at(tmp_path, all_weights))
    assert told.exit_code == status
    assert sentence in told.stderr
    assert told.stderr.startswith("multimodal: ")
    assert len(told.stderr.strip().splitlines()) == 1


def test_unknown_options_exit_with_two() -> None:
    assert run("chat", "--modl", "x").exit_code == 2
    assert run("dance").exit_code == 2
