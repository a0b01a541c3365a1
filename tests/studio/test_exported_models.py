"""What was exported in ONNX, as a model in the chat: from a folder, here or on another machine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tiny_onnx
from job_results import BASE, TEXT, save_models, start_program
from own_models import write_card

from multimodal.build import Program
from multimodal.chats.service import Chats
from multimodal.errors import JobError
from multimodal.messages import Controls
from multimodal.studio.results import install_export, installed, uninstall

NAME = "tiny-onnx"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "models"
    save_models(folder)
    return folder


@pytest.fixture
def program(tmp_path: Path, models: Path) -> Iterator[Program]:
    with closing(start_program(tmp_path / "data", models)) as built:
        yield built


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder as it was copied from elsewhere: its base is a model that nobody knows here."""
    tiny_onnx.save_onnx_text(tmp_path / "copied")
    return tmp_path / "copied"


def reply(program: Program, model: str) -> str:
    talk = program.store.create("ann")
    chats = Chats(program.store, program.media, program.assistant)
    chats.open("ann", talk).say("What colour is the car?", [])
    *_, last = chats.open("ann", talk).answer(threading.Event(), Controls(model=model))
    assert last.reply.outcome is not None
    assert last.reply.outcome.error is None, last.reply.outcome.error
    return last.reply.text


def test_it_answers_at_once_and_after_a_restart(
    program: Program, models: Path, export: Path, tmp_path: Path
) -> None:
    assert install_export(program, export).name == NAME
    assert [card.name for card in program.cards] == [BASE, NAME]
    told = reply(program, NAME)
    assert told
    assert told == reply(program, NAME)
    with closing(start_program(tmp_path / "data", models)) as again:
        assert [card.name for card in installed(again)] == [NAME]
        assert reply(again, NAME) == told


def test_a_later_export_takes_its_place_and_it_can_be_taken_out(
    program: Program, export: Path, tmp_path: Path
) -> None:
    install_export(program, export)
    later = Path(shutil.copytree(export, tmp_path / "later"))
    assert install_export(program, later).source.kind == "folder"
    assert getattr(program.card(NAME).source, "path", None) == later
    uninstall(program, NAME)
    assert [card.name for card in program.cards] == [BASE]
    assert (later / "model.onnx").is_file()


def test_it_replaces_no_other_model_and_writes_nothing_then(
    models: Path, export: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(models, mine)
    write_card(mine, NAME, TEXT, "causal_lm", title="Tiny")
    with closing(start_program(tmp_path / "data", mine)) as program:
        with pytest.raises(JobError, match=f"'{NAME}' is the name of Tiny"):
            install_export(program, export)
        with pytest.raises(JobError, match=r"There is no card\.toml in"):
            install_export(program, tmp_path / "nothing")
    assert not (tmp_path / "data" / "models" / "cards" / TEXT).exists()
